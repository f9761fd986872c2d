import math
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from fake_openai import FakeOpenAI
from hypothesis import given, settings
from hypothesis import strategies as st

from plantune_lite.evaluate import other_models
from plantune_lite.files import read_jsonl
from plantune_lite.lab.cpl.search import OPEN, REPLIES, search, trees_of
from plantune_lite.lab.cpl.tree import Tree, from_row, select, to_row
from plantune_lite.plan import CLOSE, ask_plainly
from plantune_lite.recipe.schema import CPL
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.types import PlantuneError, Problem, Reply

SUM = Problem(id="legs", question="How many legs have 3 hens and 2 cows?", answer="14")


def right(problem, text):
    return f"\\boxed{{{problem.answer}}}" in text


def says(told):
    """A policy that says what it is told to: the beginning of a reply, and of a line or of the rest -> the replies."""

    def generate(prompts, sampling):
        key = "line" if sampling.stop else "rest"
        return [told(messages[-1]["content"], key)[: sampling.n] for messages in prompts]

    return generate


def reply(text, likely=None, tokens=1):
    return Reply(text=text, mean_logprob=None if likely is None else math.log(likely), tokens_out=tokens)


def grown(generate, tmp_path, problems=(SUM,), value=None, **part):
    part = CPL(**{"root_width": 2, "width": 2, **part})
    search(list(problems), generate, right, part, tmp_path, ask=ask_plainly, value=value)
    return list(trees_of(tmp_path))


# --- a tree by hand ---------------------------------------------------------------------------------------------------

BY_HAND = {
    ("<plan>\n", "line"): [reply("1. count", 0.8), reply("1. guess", 0.5)],
    ("<plan>\n", "rest"): [reply("1. x\n</plan>\n\\boxed{9}")],
    ("<plan>\n1. count\n", "line"): [reply(CLOSE), reply(CLOSE)],
    ("<plan>\n1. count\n", "rest"): [reply("2. y\n</plan>\n\\boxed{14}")],
    ("<plan>\n1. count\n</plan>\n", "rest"): [reply("It is \\boxed{14}."), reply("It is \\boxed{9}.")],
    ("<plan>\n1. guess\n", "line"): [reply("2. guess again", 0.25), reply("whatever")],
    ("<plan>\n1. guess\n", "rest"): [reply("2. y\n</plan>\nno idea")],
}


def test_three_iterations_give_the_visits_and_values_that_one_computes_by_hand(tmp_path):
    [tree] = grown(says(lambda *asked: BY_HAND[asked]), tmp_path, iterations=3, depth=3)
    count, guess = tree.root.children
    # 1: the root is worth -1. 2: puct 1.5 x 0.8 beats 1.5 x 0.5, count is worth +1, its leaves +1 and -1 go up at once.
    # 3: only guess is open: -1, and -1 for what is malformed.
    assert (tree.root.visits, tree.root.total, tree.root.value) == (6, -2, -1)
    assert (count.visits, count.total, count.value, count.q) == (3, 1, 1, 1 / 3)
    assert (guess.visits, guess.total, guess.value, guess.q) == (2, -2, -1, -1)
    assert [(node.kind, node.visits, node.q) for node in count.children] == [("solution", 1, 1), ("solution", 1, -1)]
    assert [(node.kind, node.visits, node.q) for node in guess.children] == [("step", 0, 0), ("malformed", 1, -1)]
    assert [node.prior for node in tree.root.children] == pytest.approx([0.8, 0.5])
    assert tree.right_plans == {("count",)} and tree.iterations == 3


def test_what_is_exhausted_is_not_chosen_again_and_an_exhausted_root_ends_the_search(tmp_path):
    told = {**BY_HAND, ("<plan>\n1. guess\n", "line"): [reply("nonsense"), reply(CLOSE)]}
    told["<plan>\n1. guess\n</plan>\n", "rest"] = [reply("I guess.")]
    [tree] = grown(says(lambda *asked: told[asked]), tmp_path, iterations=50, depth=3)
    assert tree.root.closed and tree.iterations == 3
    assert [node.kind for node in tree.root.children[1].children] == ["malformed", "malformed"]


def test_a_node_below_the_depth_limit_ends_its_path_and_costs(tmp_path):
    def step(before, key):
        number = before.count("\n")
        return [reply(f"{number}. on"), reply(f"{number}. and on")] if key == "line" else [reply("no")]

    [tree] = grown(says(step), tmp_path, iterations=100, depth=2)
    nodes = list(tree.root.below())
    assert max(node.depth for node in nodes) == 3 and tree.root.closed
    assert all((node.kind == "too deep") == (node.depth == 3) for node in nodes)
    assert {node.reward for node in nodes if node.kind == "too deep"} == {-1}


def test_a_step_that_is_cut_off_at_its_length_limit_is_malformed_and_costs(tmp_path):
    limits = set()

    def generate(prompts, sampling):
        if sampling.stop:
            limits.add(sampling.max_tokens)
            return [[Reply(text="1. count and so on and", finish="length"), reply("1. guess")] for _ in prompts]
        return [[reply("no")] for _ in prompts]

    [tree] = grown(generate, tmp_path, iterations=1, step_tokens=16)
    assert [(node.kind, node.reward) for node in tree.root.children] == [("malformed", -1), ("step", None)]
    assert limits == {16}


def test_what_is_said_twice_is_one_child(tmp_path):
    told = {**BY_HAND, ("<plan>\n", "line"): [reply("1. count "), reply("1.  count")]}
    told["<plan>\n1. count\n</plan>\n", "rest"] = [reply("\\boxed{14}"), reply("\\boxed{14}\n")]
    [tree] = grown(says(lambda *asked: told[asked]), tmp_path, iterations=9)
    assert [node.text for node in tree.root.below()] == ["", "count", "\\boxed{14}"]


def test_a_policy_that_does_not_say_how_likely_its_words_are_has_equal_priors(tmp_path):
    told = {**BY_HAND, ("<plan>\n", "line"): [reply("1. count"), reply("1. guess")]}
    [tree] = grown(says(lambda *asked: told[asked]), tmp_path, iterations=1)
    assert [node.prior for node in tree.root.children] == [1, 1]


def test_a_value_function_takes_the_place_of_rollouts(tmp_path):
    asked = []

    def value(states):
        asked.extend(messages[-1]["content"] for messages in states)
        return [0.25 for _ in states]

    def told(before, key):
        assert key == "line" or before.endswith("</plan>\n"), "a rollout was asked for"
        return BY_HAND[before, key]

    [tree] = grown(says(told), tmp_path, value=value, iterations=2)
    assert asked == ["<plan>\n", "<plan>\n1. count\n"]
    assert tree.root.value == 0.25 and tree.root.total == pytest.approx(0.25 + 0.25 + 1 - 1)


# --- finding ----------------------------------------------------------------------------------------------------------


def maze(prompts, sampling):
    """A policy that goes left or right at each step, by dice of its own for each prompt; only one way is right."""
    return [[_way(messages, sampling, at) for at in range(sampling.n)] for messages in prompts]


def _way(messages, sampling, at):
    before = messages[-1]["content"]
    dice = Random(repr((messages, sampling.seed, sampling.max_tokens, at)))
    taken = [line.partition(". ")[2] for line in before.splitlines()[1:] if line != CLOSE]
    if sampling.stop:
        text = CLOSE if len(taken) == 3 else f"{len(taken) + 1}. {dice.choice(['left', 'right', 'straight on'])}"
        return reply(text, 0.1 + 0.8 * dice.random(), len(text))
    closed = before.endswith("</plan>\n")
    ways = taken if closed else [*taken, *dice.choices(["left", "right", "straight on"], k=3 - len(taken))]
    text = "\\boxed{14}" if ways == ["right", "left", "right"] else f"\\boxed{{{dice.randrange(9)}}}"
    return reply(text if closed else f"...\n</plan>\n{text}", None, len(text))


def mazes(count):
    return [
        Problem(id=f"maze/{number}", question=f"Where to, in maze {number}?", answer="14") for number in range(count)
    ]


def test_the_way_out_is_found_and_is_where_worth_leads(tmp_path):
    part = {"iterations": 40, "root_width": 9, "width": 9, "rollouts": 2}
    trees = grown(maze, tmp_path, mazes(8), **part)
    assert all(tree.right_plans <= {("right", "left", "right")} for tree in trees)
    solved = [tree for tree in trees if tree.solved]
    assert len(solved) >= 6
    for tree in solved:
        node = tree.root
        while node.children:
            node = max(node.children, key=lambda child: child.q)
        assert node.plan == ("right", "left", "right") and node.reward == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 25), st.integers(2, 5), st.integers(2, 4))
def test_every_visit_is_an_evaluation_of_the_node_or_of_one_below(seed, iterations, depth, width):
    part = CPL(iterations=iterations, depth=depth, root_width=width, width=width)
    with TemporaryDirectory() as folder:
        search(mazes(1), maze, right, part, Path(folder), ask=ask_plainly, seed=seed)
        [tree] = trees_of(Path(folder))
    for node in tree.root.below():
        own = (node.value is not None) + (node.reward is not None)
        assert node.visits == own + sum(child.visits for child in node.children)
        assert node.total == pytest.approx((node.value or 0) + (node.reward or 0) + sum(c.total for c in node.children))
        assert -1 <= node.q <= 1
    assert tree.root.closed or tree.iterations == iterations
    assert to_row(from_row(to_row(tree))) == to_row(tree)


# --- many at once -----------------------------------------------------------------------------------------------------

SMALL = {"iterations": 12, "root_width": 3, "width": 2, "rollouts": 2}


def rows(trees):
    return {tree.problem_id: to_row(tree) for tree in trees}


def run(tmp_path, name, generate=maze, count=9, **settings):
    problems = settings.pop("problems", mazes(count))
    found = search(problems, generate, right, CPL(**SMALL), tmp_path / name, ask=ask_plainly, **settings)
    return found, rows(trees_of(tmp_path / name))


def test_a_tree_is_the_same_alone_and_among_many_and_many_need_few_batches(tmp_path):
    batches = []

    def counted(prompts, sampling):
        batches.append(len(prompts))
        return maze(prompts, sampling)

    _, alone = run(tmp_path, "alone", counted, at_once=1)
    one_by_one, batches[:] = len(batches), []
    _, together = run(tmp_path, "together", counted, at_once=64)
    assert alone == together and len(together) == 9
    assert len(batches) < one_by_one / 3


def test_the_same_question_twice_is_one_search(tmp_path):
    twins = [Problem(id=name, question="Which way?", answer="14") for name in ("a", "b")]
    _, both = run(tmp_path, "both", problems=twins)
    _, second = run(tmp_path, "second", problems=twins[1:])
    assert both["b"] == second["b"]
    dice = {"a": both["a"]["nodes"][1]["text"], "b": both["b"]["nodes"][1]["text"]}
    assert dice["a"] == dice["b"]


class Killed(Exception):
    pass


@pytest.mark.parametrize("at_once", [1, 4, 64])
def test_a_search_that_is_killed_again_and_again_gives_the_same_trees(tmp_path, at_once):
    found, whole = run(tmp_path, "whole")
    asked = []

    def dies(prompts, sampling):
        asked.append(len(asked))
        if len(asked) % 3 == 0:
            raise Killed
        return maze(prompts, sampling)

    for _ in range(400):
        try:
            again, trees = run(tmp_path, "killed", dies, at_once=at_once)
            break
        except Killed:
            journal = tmp_path / "killed" / REPLIES
            if len(asked) % 2 and journal.stat().st_size:  # the line it was writing when it was killed
                journal.write_bytes(journal.read_bytes()[:-5])
    assert trees == whole and again == found
    assert not (tmp_path / "killed" / REPLIES).exists() and not (tmp_path / "killed" / OPEN).exists()


def test_a_budget_of_tokens_is_never_passed_and_with_a_larger_one_it_goes_on_to_the_same_trees(tmp_path):
    spent = []

    def counted(prompts, sampling):
        replies = maze(prompts, sampling)
        spent.append(sum(one.tokens_out for some in replies for one in some))
        return replies

    found, whole = run(tmp_path, "whole")
    partial, trees = run(tmp_path, "partial", counted, max_tokens=3_000, solution_tokens=64)
    assert partial["partial"] and 0 < sum(spent) == partial["tokens"] <= 3_000
    assert partial["open"] > 0 and len(trees) == partial["trees"] + partial["open"]
    again, trees = run(tmp_path, "partial", counted, solution_tokens=64)
    expected, same = run(tmp_path, "same", solution_tokens=64)
    assert trees == same and again == expected and sum(spent) == expected["tokens"]


def test_when_time_is_up_what_there_is_stays(tmp_path):
    found, trees = run(tmp_path, "late", hours=0.0)
    assert found["partial"] and found["trees"] == 0 and len(trees) == 9
    assert all(row["iterations"] == 0 for row in trees.values())


def test_a_policy_that_returns_too_few_replies_is_told_of(tmp_path):
    with pytest.raises(PlantuneError, match="did not return 3 replies for each of 9 prompts"):
        run(tmp_path, "few", lambda prompts, sampling: [[] for _ in prompts])


def test_a_server_can_be_the_policy(tmp_path):
    def mind(prompt, sample, schema):
        begun = prompt.rpartition("<plan>")[2]
        if begun == "\n":
            return ["1. Count the legs.", "1. Guess."][sample % 2]
        return CLOSE if CLOSE not in begun and sample < 5 else "2. Add.\n</plan>\n\\boxed{14}"

    with FakeOpenAI() as server, Ledger(tmp_path / "calls.sqlite", run="x") as calls:
        server.mind = SimpleNamespace(reply=mind)
        with other_models.of_server(server.url, "tiny-1b", calls) as generate:
            [tree] = grown(generate, tmp_path, iterations=3)
    assert [node.text for node in tree.root.children] == ["Count the legs.", "Guess."]
    assert tree.solved and tree.tokens > 0


def test_a_tree_lies_on_one_line_and_comes_back_as_it_was(tmp_path):
    [tree] = grown(says(lambda *asked: BY_HAND[asked]), tmp_path, iterations=3)
    [row] = read_jsonl(tmp_path / "trees.jsonl")
    back = from_row(row)
    assert isinstance(back, Tree) and to_row(back) == row == to_row(tree)
    assert [node.closed for node in back.root.below()] == [node.closed for node in tree.root.below()]
    assert select(back.root, 1.5, Random(0)).text == "guess again"
