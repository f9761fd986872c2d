import pytest
from hypothesis import given
from hypothesis import strategies as st

from plantune_lite.lab.cpl.pairs import PATHS, answer_pairs, paths, rows, states, step_pairs
from plantune_lite.lab.cpl.tree import Node, Tree
from plantune_lite.plan import chat, completion_text, parse


def node(kind, text, q, *children, visits=4):
    made = Node(kind, text, visits=visits, total=q * visits, children=list(children))
    if kind in ("solution", "malformed", "too deep"):
        made.reward = q
    for child in children:
        child.parent = made
    return made


def tree(*children):
    return Tree("legs", "How many legs?", "14", root=node("root", "", 0.1, *children))


def told(pairs):
    return [(pair.prompt, pair.better, pair.worse, pair.q_better, pair.q_worse) for pair in pairs]


def test_every_step_that_helps_is_paired_with_every_sibling_that_harms():
    made = tree(*(node("step", text, q) for text, q in (("a", 0.5), ("b", -0.25), ("c", 0.25), ("d", -1), ("e", 0))))
    expected = [("a", "b"), ("a", "d"), ("c", "b"), ("c", "d")]
    q = {"a": 0.5, "b": -0.25, "c": 0.25, "d": -1}
    assert told(step_pairs(made)) == [
        ("<plan>\n", f"1. {better}\n", f"1. {worse}\n", q[better], q[worse]) for better, worse in expected
    ]


def test_below_a_step_the_prompt_is_the_plan_so_far_and_steps_count_on():
    made = tree(node("step", "a", 0.5, node("step", "b", 0.5), node("step", "c", -0.5)))
    assert told(step_pairs(made)) == [("<plan>\n1. a\n", "2. b\n", "2. c\n", 0.5, -0.5)]


def test_of_solutions_the_best_and_the_worst_make_one_pair_and_its_worth_is_scaled_down():
    solved = [node("solution", f"\\boxed{{{number}}}", q, visits=1) for number, q in enumerate((1, -1, 1, -1))]
    assert told(step_pairs(tree(node("step", "a", 0.5, *solved)))) == [
        ("<plan>\n1. a\n</plan>\n", "\\boxed{0}", "\\boxed{1}", 0.3, -0.3)
    ]


def test_beside_a_solution_steps_make_at_most_one_pair_of_their_full_worth_and_none_with_the_solution():
    better, worse = node("step", "b", 0.5), node("step", "c", -0.5)
    mixed = tree(node("step", "a", 0.5, better, worse, node("solution", "\\boxed{14}", 1, visits=1)))
    assert step_pairs(mixed) == []  # the best is a solution, the worst a step
    steps = tree(node("step", "a", 0.5, better, worse, node("solution", "\\boxed{14}", 0.4, visits=1)))
    assert told(step_pairs(steps)) == [("<plan>\n1. a\n", "2. b\n", "2. c\n", 0.5, -0.5)]


def test_at_the_root_only_steps_are_paired():
    solved = [node("solution", "\\boxed{14}", 1, visits=1), node("solution", "\\boxed{9}", -1, visits=1)]
    made = tree(node("step", "a", 0.5), *solved, node("step", "b", -0.5))
    assert told(step_pairs(made)) == [("<plan>\n", "1. a\n", "1. b\n", 0.5, -0.5)]


def test_what_is_malformed_too_deep_or_never_looked_at_is_in_no_pair():
    others = [node("malformed", "x", -1), node("too deep", "y", -1), node("step", "z", 0, visits=0)]
    assert step_pairs(tree(node("step", "a", 1), *others)) == []


def solved_tree(right, wrong):
    solutions = [node("solution", f"r{number} \\boxed{{14}}", 1, visits=1) for number in range(right)]
    solutions += [node("solution", f"w{number} \\boxed{{9}}", -1, visits=1) for number in range(wrong)]
    made = tree(node("step", "a", 0.5, *solutions), node("step", "b", -1, node("malformed", "x", -1)))
    return made


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 99))
def test_paths_are_right_whole_replies_and_no_more_than_four_of_a_question(right, wrong, seed):
    made = solved_tree(right, wrong)
    found = paths(made, seed)
    assert len(found) == len(set(found)) == min(PATHS, right)
    assert all(parse(text).plan == ("a",) and "\\boxed{14}" in text for text in found)
    assert found == paths(made, seed)
    pairs = answer_pairs(made, seed)
    assert len(pairs) == min(PATHS, right, wrong)
    assert all("14" in parse(pair.better).execution and "9" in parse(pair.worse).execution for pair in pairs)


def test_rows_are_what_sft_trains_on():
    [row] = rows([solved_tree(1, 1)], {"legs": chat("How many legs?")})
    assert row["problem_id"] == "legs" and row["prompt"][-1]["content"] == "How many legs?"
    assert completion_text(row) == "<plan>\n1. a\n</plan>\nr0 \\boxed{14}"


def test_states_are_the_plans_on_the_way_to_a_solution_with_what_came_of_them():
    assert states(solved_tree(1, 1)) == [("<plan>\n", pytest.approx(0.1)), ("<plan>\n1. a\n", 0.5)]
    assert states(solved_tree(0, 0)) == []


def test_a_solution_without_a_plan_is_nothing_to_learn_from():
    made = tree(node("solution", "\\boxed{14}", 1, visits=1), node("solution", "\\boxed{9}", -1, visits=1))
    assert paths(made) == [] and answer_pairs(made) == [] and states(made) == [] and step_pairs(made) == []
