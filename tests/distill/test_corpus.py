"""Trajectories become rows: what is dropped and why, what is the same, what is learnt, what the card says."""

import contextlib
import json
import random
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from plantune_lite import terminal
from plantune_lite.distill import corpus, dedup
from plantune_lite.distill.dedup import TestQuestions, alike, near_copies, words
from plantune_lite.files import read_jsonl, read_records
from plantune_lite.plan import Planned, as_completion, ask_plainly, completion_text, parse
from plantune_lite.recipe.schema import Corpus
from plantune_lite.types import PlantuneError, Problem, Rejected, Trajectory


def listed(text: str) -> list[str]:
    return text.split()


THINGS = listed(
    "pens cups bags hats figs nuts eggs jars kites drums lamps ropes boots coins shells plums cards bells rugs mugs"
)
NAMES = listed("Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jill Kim Leo Mia Noor Otis Pia Quin Rosa Sven Tara")


def problem(number: int, **changed) -> Problem:
    """One of twenty differently worded problems, with numbers of its own."""
    name, thing = NAMES[number % 20], THINGS[number % 20]
    a, b = number + 3, number // 20 + 2
    shop = f"the {THINGS[(number + 7) % 20]} shop"
    question = f"{name} puts {a} {thing} on each of {b} shelves in {shop}. How many {thing} are there?"
    made = Problem(
        id=f"p/{number}", question=question, answer=str(a * b), solution=f"{a} * {b} = {a * b} {thing}.", source="mine"
    )
    return replace(made, **changed)


def trajectory(of: Problem, sample: int = 0, **changed) -> Trajectory:
    thing = of.question.split(" on each")[0].split()[-1]
    made = Trajectory(
        problem_id=of.id,
        sample=sample,
        question=of.question,
        plan=(f"Find how many {thing} one shelf holds.", f"Multiply that number of {thing} by the shelves."),
        execution=f"The shelves hold {of.answer} {thing}.",
        answer=of.answer,
        score=90,
        teacher="gemini",
    )
    return replace(made, **changed)


def built(tmp_path, trajectories, problems, suites=None, **named):
    """Build, and give back the summary with the files."""
    part = Corpus(**{name: named.pop(name) for name in list(named) if name in Corpus.__dataclass_fields__})
    wanted = corpus.Wanted(part, **named)
    summary = corpus.build_corpus(trajectories, problems, suites or {}, wanted, tmp_path / "corpus")
    files = {
        name: list(read_jsonl(tmp_path / "corpus" / f"{name}.jsonl"))
        for name in ("train", "validation", "prompts", "rejected")
    }
    return summary, files


def rejected(tmp_path, trajectories, problems, suites=None, **named) -> list[str]:
    with contextlib.suppress(PlantuneError):  # the file is there when nothing is left too
        built(tmp_path, trajectories, problems, suites, **named)
    return list(map(why, read_records(Rejected, tmp_path / "corpus" / "rejected.jsonl")))


def why(one: Rejected) -> str:
    return f"{one.reason}: {one.detail}" if one.detail else one.reason


def refused(tmp_path, trajectories, problems, suites=None, **named) -> str:
    with pytest.raises(PlantuneError) as caught:
        built(tmp_path, trajectories, problems, suites, **named)
    return str(caught.value)


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "kept"),
    [
        ("none", ["good", "low", "wrong", "both"]),
        ("plan", ["good", "wrong"]),
        ("answer", ["good", "low"]),
        ("both", ["good"]),
    ],
)
def test_each_filter_keeps_what_it_names(tmp_path, mode, kept):
    made = [problem(number, id=id) for number, id in enumerate(["good", "low", "wrong", "both"])]
    changes = [{}, {"score": 79}, {"answer": "1"}, {"score": 79, "answer": "1"}]
    came = [trajectory(one, **change) for one, change in zip(made, changes, strict=True)]
    summary, files = built(tmp_path, came, made, filter=mode)
    assert [row["problem_id"] for row in files["train"]] == kept
    assert sum(summary["rejected"].values()) == len(files["rejected"]) == 4 - len(kept)


def test_a_rejected_trajectory_is_kept_with_the_reason(tmp_path):
    one, other = problem(0), problem(1)
    came = [trajectory(one, score=60), trajectory(one, 1, answer="1", critique="hm"), trajectory(other)]
    _, files = built(tmp_path, came, [one, other])
    assert [row["detail"] for row in files["rejected"]] == ["different numbers", "60 < 80"]
    assert files["rejected"][0]["critique"] == "hm" and files["rejected"][0]["plan"] == list(came[1].plan)


def test_the_answer_is_compared_as_the_grader_does(tmp_path):
    one = problem(0, choices=("red", "blue"), kind="choice", answer="B")
    summary, _ = built(tmp_path, [trajectory(one, answer="blue")], [one], filter="answer")
    assert summary["train"] == 1


def test_what_distill_rejected_passes_a_lower_threshold_and_one_it_did_not_execute_is_called_so(tmp_path):
    one, other = problem(0), problem(1)
    low, bare = trajectory(one, score=60), trajectory(other, score=60, execution="", answer=None)
    _, files = built(tmp_path, [low, bare], [one, other], min_score=50)
    assert [row["problem_id"] for row in files["train"]] == ["p/0"]
    assert [row["reason"] for row in files["rejected"]] == ["not executed"]


def test_a_threshold_of_the_corpus_own_is_above_that_of_distill(tmp_path):
    one, other = problem(0), problem(1)
    _, files = built(tmp_path, [trajectory(one, score=95), trajectory(other, score=85)], [one, other], min_score=90)
    assert [row["detail"] for row in files["rejected"]] == ["85 < 90"]


def test_plans_that_nobody_scored_are_refused_where_scores_decide(tmp_path):
    one = problem(0)
    text = refused(tmp_path, [trajectory(one, score=None, teacher="worked")], [one], filter="both")
    assert "1 for 'no score'" in text
    assert text.endswith("Set corpus.filter=answer, or distill with a teacher that scores.")


@pytest.mark.parametrize(
    ("plan", "reason", "way"),
    [
        (("Multiply to get 777.",), "spoils the answer", "Distill with a better teacher"),
        ((), "empty plan", "problems.solution), raise distill.max_tokens if plans were cut off"),
    ],
)
def test_plans_that_were_not_worth_a_score_are_not_blamed_on_the_teachers_scoring(tmp_path, plan, reason, way):
    one = problem(0, answer="777")
    text = refused(tmp_path, [trajectory(one, plan=plan, execution="", score=None)], [one], filter="both")
    assert reason in text and way in text and "score" not in text


def test_one_plan_without_a_score_among_scored_ones_is_only_dropped(tmp_path):
    one, other = problem(0), problem(1)
    assert rejected(tmp_path, [trajectory(one, score=None), trajectory(other)], [one, other]) == ["no score"]


def test_a_plan_that_says_the_answer_is_dropped_unless_spoilers_are_kept(tmp_path):
    one = problem(0, answer="777")
    came = [trajectory(one, plan=("Multiply to get 777.",))]
    assert rejected(tmp_path, came, [one]) == ["spoils the answer: step 1 states the answer 777"]
    assert built(tmp_path, came, [one], spoilers="keep")[0]["train"] == 1


def test_the_best_of_a_problem_has_the_highest_score_then_the_shortest_plan_then_the_first_sample(tmp_path):
    one = problem(0)
    plan = {
        "long": ("Count all pens of a shelf.", "Multiply them by every shelf in there."),
        "a": ("Multiply.",),
        "b": ("Do so.",),
    }
    came = [
        trajectory(one, 0, plan=plan["a"], score=85),
        trajectory(one, 1, plan=plan["long"], score=95),
        trajectory(one, 4, plan=plan["a"], score=95),
        trajectory(one, 3, plan=("Add.",), score=95),
    ]
    _, files = built(tmp_path, came, [one], target="plan")
    assert files["train"][0]["completion"] == as_completion("<plan>\n1. Add.\n</plan>")
    _, files = built(tmp_path, came, [one], target="plan", per_problem=3)
    assert [parse(completion_text(row)).plan for row in files["train"]] == [("Add.",), plan["a"], plan["long"]]


@pytest.mark.parametrize(("mode", "sample"), [("none", 0), ("answer", 0), ("plan", 1), ("both", 1)])
def test_the_verifier_chooses_among_plans_only_where_the_filter_asks_it(tmp_path, mode, sample):
    one = problem(0)
    first, second = ("Multiply all of them by the shelves.",), ("Multiply.",)
    came = [trajectory(one, 1, plan=second, score=95), trajectory(one, 0, plan=first, score=85)]
    _, files = built(tmp_path, came, [one], target="plan", filter=mode, per_problem=1)
    assert parse(completion_text(files["train"][0])).plan == (first, second)[sample]
    assert files["prompts"][0]["plan"] == list((first, second)[sample])


def test_a_trajectory_of_another_run_is_refused(tmp_path):
    assert "not among the 1 problems" in refused(tmp_path, [trajectory(problem(1))], [problem(0)])


def test_an_empty_corpus_says_why_and_what_to_do(tmp_path):
    made = [problem(number) for number in range(5)]
    came = [trajectory(one, answer="1") for one in made[:3]] + [trajectory(one, score=7) for one in made[3:]]
    text = refused(tmp_path, came, made)
    assert text.startswith(
        "corpus is empty: all 5 trajectories were rejected, 3 for 'wrong answer', 2 for 'plan score too low'"
    )
    assert text.endswith("Raise distill.plans, or distill with a better teacher.")
    assert len(list(read_jsonl(tmp_path / "corpus" / "rejected.jsonl"))) == 5


# --- copies -----------------------------------------------------------------------------------------------------------


def test_of_the_same_plan_twice_the_better_scored_one_stays(tmp_path):
    one = problem(0)
    came = [
        trajectory(one, 0, score=80),
        trajectory(one, 1, score=95, plan=tuple(step.upper() for step in trajectory(one).plan)),
    ]
    _, files = built(tmp_path, came, [one], dedup="exact", per_problem=5)
    assert [(row["sample"], row["detail"]) for row in files["rejected"]] == [(0, "same plan as p/0 sample 1")]


def test_the_same_question_under_two_ids_is_learnt_once_but_with_other_numbers_twice(tmp_path):
    one = problem(0)
    again = replace(one, id="again", question=one.question.upper().replace(" ", "  "))
    other = replace(problem(0, id="other"), question=one.question.replace("3", "4"), answer="8")
    came = [
        trajectory(one),
        replace(trajectory(one), problem_id="again", score=99),
        replace(trajectory(other), plan=trajectory(one).plan),
    ]
    _, files = built(tmp_path, came, [one, again, other])
    assert [row["problem_id"] for row in files["train"]] == ["again", "other"]
    assert [row["detail"] for row in files["rejected"]] == ["same question as again"]


def test_a_nearly_equal_plan_is_a_copy_for_minhash_and_not_for_exact(tmp_path):
    one = problem(0)
    long = tuple(f"Look at shelf {name} and count the pens that stand upon it with care." for name in NAMES)
    came = [trajectory(one, 0, plan=long), trajectory(one, 1, plan=(*long[:-1], long[-1] + " Then rest."))]
    assert rejected(tmp_path, came, [one], per_problem=5) == ["duplicate: nearly p/0 sample 0"]
    assert rejected(tmp_path, came, [one], per_problem=5, dedup="exact") == []


some_words = st.lists(
    st.sampled_from(["add", "take", "halve", "double", "the", "pens", "of", "each", "shelf", "first", "then", "all"]),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(some_words, some_words), min_size=1, max_size=8))
def test_near_copies_are_equal_plans_and_never_plans_that_are_less_alike(pairs):
    texts = [(" ".join(question), " ".join(plan)) for question, plan in pairs]
    texts += texts[:2]
    found = near_copies(texts)
    assert all(found[-number] is not None for number in range(1, min(2, len(pairs)) + 1))
    shingles = [dedup.shingles(plan) for _, plan in texts]
    assert all(
        found[at] is None and alike(shingles[at], shingles[mine]) >= 0.8
        for mine, at in enumerate(found)
        if at is not None
    )


def test_all_pairs_above_the_threshold_are_found():
    draw = random.Random(0)
    lexicon = [f"{thing}{name}" for thing in THINGS for name in NAMES]
    texts = []
    for number in range(100):
        plan = [draw.choice(lexicon) for _ in range(60)]
        changed = [*plan[:30], "another", *plan[31:]]
        texts += [(f"Question {number}", " ".join(plan)), (f"Question {number}", " ".join(changed))]
    assert 0.85 < alike(*(dedup.shingles(plan) for _, plan in texts[:2])) < 0.95
    assert sum(at is not None for at in near_copies(texts)) == 100


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(12)), st.sampled_from(["none", "exact", "minhash"]))
def test_the_order_of_the_trajectories_changes_nothing(tmp_path_factory, order, mode):
    made = [problem(number) for number in range(4)]
    came = [trajectory(one, sample, score=80 + sample % 2) for one in made for sample in range(3)]
    files = {}
    for name, these in (("straight", came), ("mixed", [came[index] for index in order])):
        _, files[name] = built(tmp_path_factory.mktemp(name), these, made, dedup=mode, per_problem=2)
    assert files["straight"] == files["mixed"]


# --- test sets --------------------------------------------------------------------------------------------------------

NATALIA = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)
LATEX = (
    r"Let $x$ and $y$ be real numbers such that $x + y = \frac{1}{2}$ and $x \cdot y = 1{,}000$. "
    r"Find the value of $x^2 + y^2$."
)


def found(train: str, *tests: str, length: int = 13) -> bool:
    return "suite" in TestQuestions({"suite": [(str(at), test) for at, test in enumerate(tests)]}, length).found_in(
        train
    )


@pytest.mark.parametrize(
    "copy",
    [
        NATALIA,
        "Solve this puzzle for me! " + NATALIA,
        NATALIA.replace("Natalia sold clips", "In spring Natasha sold some clips", 1),
        NATALIA.upper().replace(",", " ,"),
        NATALIA + " Give a number in dollars.",
        NATALIA.partition(". ")[0] + ". How many in all?",
    ],
)
def test_a_question_is_found_in_a_test_set_behind_another_beginning_or_end(copy):
    assert found(copy, NATALIA)


@pytest.mark.parametrize(
    "other", [NATALIA.replace("48", "50"), "How many clips did Ann sell?", problem(3).question, ""]
)
def test_other_numbers_are_another_question(other):
    assert not found(other, NATALIA)


def test_latex_is_the_same_however_it_is_set():
    assert found(
        LATEX.replace(r"\frac", r"\dfrac")
        .replace(r"\cdot", r"\times")
        .replace("$", " $ ")
        .replace("x^2", "x^{2}")
        .replace("{,}", ","),
        LATEX,
    )
    assert not found(LATEX.replace("1{,}000", "2{,}000"), LATEX)
    assert words(r"$\left( 2+3 \right)\times 4$") == words("(2 + 3) * 4") != words("2 + (3 * 4)")


def test_a_short_test_question_must_be_there_whole():
    assert found("Please tell me: what is the capital city of France?", "What is the capital city of France?")
    assert not found("What is the capital city of Spain?", "What is the capital city of France?")
    assert found("Solve for x!", "Solve for x.") and not found("Solve for x: 3 * x = 12", "Solve for x.")


def test_what_all_questions_of_a_template_say_is_no_overlap_but_a_copy_is():
    text = (
        "On this very old island every person is either a knight who always tells the truth or a knave. "
        "{} says that {} is a knave."
    )
    tests = [text.format(name, other) for name, other in zip(NAMES[:8], NAMES[1:9], strict=True)]
    assert not found(text.format("Rosa", "Sven"), *tests)
    assert found("A riddle. " + tests[3], *tests)


def test_a_question_that_a_suite_holds_in_several_wordings_is_found_in_another():
    text = "A shop near the old harbour had {} pens in stock on Monday and sold {} of them before noon. {}"
    ends = ["How many are left?", "How many remain?", "Find what is left."]
    tests = [text.format(100 + n, n, end) for n in range(1, 5) for end in ends[:2]]
    assert found(text.format(102, 2, ends[2]), *tests)
    assert not found(text.format(102, 9, ends[2]), *tests)


def test_a_number_that_a_template_always_has_makes_no_overlap_of_it():
    text = "In the year 2024, was the old {} ever taller than the new {}? Answer with 1 for yes and with 0 for no."
    tests = [text.format(one, other) for one, other in zip(THINGS, NAMES, strict=True)]
    for held_out in (tests[:2], tests[:6], tests[:12], [*tests[:12], *(problem(n).question for n in range(90))]):
        assert not found(text.format("tower", "bridge"), *held_out)


def test_problems_in_a_test_set_are_dropped_and_counted_by_suite(tmp_path):
    made = [problem(number) for number in range(3)]
    suites = {
        "gsm8k": [replace(made[1], id="gsm8k/test/17", question="Read well. " + made[1].question)],
        "own": [replace(made[1], id="p/9"), problem(15)],
        "math500": [],
    }
    summary, files = built(tmp_path, [trajectory(one) for one in made], made, suites)
    assert [row["detail"] for row in files["rejected"]] == ["gsm8k test/17"]
    suites_found = {"gsm8k": 1, "own": 1, "math500": 0}
    assert summary["in_test_set"] == {"words": 13, "suites": suites_found, "problems": 1}
    assert "problems in a test set: 1" in summary["line"]
    assert built(tmp_path, [trajectory(one) for one in made], made, suites, decontaminate=0)[0]["train"] == 3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(some_words, min_size=1, max_size=6), st.lists(st.sampled_from(["Now", "please", "7", "think"]), max_size=6)
)
def test_every_test_question_of_six_words_or_more_is_found_behind_any_prefix(questions, prefix):
    tests = {" ".join(question) for question in questions if len(question) >= 6}
    for test in tests:
        assert found(" ".join([*prefix, test]), test)
        assert found(test, *tests)


# --- splitting and mixing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "share", "size"), [(19, 0.02, 0), (20, 0.02, 0), (60, 0.1, 6), (60, 0.0, 0), (1, 0.5, 0)]
)
def test_validation_has_its_share_of_the_problems_and_none_of_training(tmp_path, count, share, size):
    made = [problem(number) for number in range(count)]
    came = [trajectory(one, sample, plan=(f"Multiply {NAMES[sample]}.",)) for one in made for sample in range(2)]
    _, files = built(tmp_path, came, made, validation=share, per_problem=2)
    train, validation = ({row["problem_id"] for row in files[name]} for name in ("train", "validation"))
    assert len(validation) == size and not train & validation and len(train | validation) == count
    assert {row["problem_id"] for row in files["prompts"]} == train


def test_every_target_validates_on_the_same_problems(tmp_path):
    made = [problem(number) for number in range(40)]
    sides = set()
    for target, solutions in [
        ("solution", "dataset"),
        ("solution", "teacher"),
        ("plan+solution", "teacher"),
        ("plan", "teacher"),
    ]:
        _, files = built(tmp_path, map(trajectory, made), made, target=target, solutions=solutions, validation=0.2)
        sides.add(tuple(row["problem_id"] for row in files["validation"]))
        assert len(files["train"]) == 32
    assert len(sides) == 1


def test_weights_take_as_many_problems_of_each_source_as_they_say(tmp_path):
    made = [problem(number, source="few" if number < 10 else "many") for number in range(60)]
    _, files = built(tmp_path, map(trajectory, made), made, weights=(0.25, 0.75), validation=0.0)
    few = sum(int(row["problem_id"][2:]) < 10 for row in files["train"])
    assert (few, len(files["train"])) == (10, 40)
    assert {row["reason"] for row in files["rejected"]} == {"over the weight of its source"}


def test_a_source_that_weighs_little_is_not_left_out(tmp_path):
    made = [problem(number, source="few" if number < 10 else "many") for number in range(60)]
    _, files = built(tmp_path, map(trajectory, made), made, weights=(100.0, 1.0), validation=0.0)
    assert len(files["train"]) == 11
    _, files = built(tmp_path, map(trajectory, made), made, weights=(1.0, 0.0), validation=0.0)
    assert len(files["train"]) == 10


def test_weights_that_cannot_be_are_refused(tmp_path):
    made = [problem(number, source="few" if number < 10 else "many") for number in range(20)]
    came = [trajectory(one) for one in made]
    assert "3 numbers, but there are 2 sources: few, many" in refused(tmp_path, came, made, weights=(1.0, 1.0, 1.0))
    assert "give each of few, many 0 or more" in refused(tmp_path, came, made, weights=(-1.0, 1.0))
    assert "gives few the weight 0.5, but none" in refused(tmp_path, came[10:], made, weights=(0.5, 0.5))


# --- what is learnt ---------------------------------------------------------------------------------------------------


def completion(tmp_path, of: Problem, target: str, solutions: str = "teacher", **changed) -> str:
    mode = changed.pop("filter", "both")
    _, files = built(tmp_path, [trajectory(of, **changed)], [of], target=target, solutions=solutions, filter=mode)
    return completion_text(files["train"][0])


def test_the_four_targets_are_what_they_are_called(tmp_path):
    one = problem(0)  # 3 pens on 2 shelves
    execution = "The shelves hold 6 pens.\nThe answer is \\boxed{6}."
    assert completion(tmp_path, one, "solution", "dataset") == "3 * 2 = 6 pens.\nThe answer is \\boxed{6}."
    assert completion(tmp_path, one, "solution") == execution
    both, plan = completion(tmp_path, one, "plan+solution"), completion(tmp_path, one, "plan")
    assert parse(both) == Planned(trajectory(one).plan, execution)
    assert parse(plan) == Planned(trajectory(one).plan, "") and plan.endswith("</plan>")


def test_a_row_of_another_target_has_what_m1_learns_beside_it(tmp_path):
    one = problem(0)
    whole = completion(tmp_path, one, "plan+solution")
    for target, solutions in (("solution", "dataset"), ("solution", "teacher"), ("plan", "teacher")):
        _, files = built(tmp_path, [trajectory(one)], [one], target=target, solutions=solutions)
        assert files["train"][0]["whole"] == as_completion(whole)


def test_the_prompt_is_the_bare_question_in_every_arm(tmp_path):
    one = problem(0, choices=("5", "6"), answer="B", kind="choice")
    _, files = built(tmp_path, [trajectory(one)], [one])
    assert (
        files["train"][0]["prompt"] == list(ask_plainly(one)) and "(B) 6" in files["train"][0]["prompt"][1]["content"]
    )


def test_a_box_of_the_teacher_stays_and_a_missing_one_is_what_the_teacher_found(tmp_path):
    one = problem(0)
    assert completion(tmp_path, one, "solution", execution="So \\boxed{6.0}") == "So \\boxed{6.0}"
    wrong = {"answer": "5", "filter": "plan"}
    assert completion(tmp_path, one, "solution", execution="So \\boxed{5}", **wrong) == "So \\boxed{5}"
    assert completion(tmp_path, one, "solution", execution="So 5.", **wrong).endswith("\\boxed{5}.")


def test_code_is_learnt_as_it_is(tmp_path):
    code = "    return sorted(items)\n"
    one = problem(0, kind="code", answer=code, solution=code)
    assert completion(tmp_path, one, "solution", execution=code, answer=code) == code
    assert completion(tmp_path, one, "solution", "dataset", execution=code, answer=code) == code


def test_steps_stand_in_for_a_solution_and_a_problem_without_either_is_dropped_by_the_baseline_alone(tmp_path):
    made = [problem(0), problem(1, solution=None, steps=("4 * 2 = 8.", "Done.")), problem(2, solution=None)]
    _, files = built(tmp_path, map(trajectory, made), made, target="solution", solutions="dataset")
    assert completion_text(files["train"][1]) == "4 * 2 = 8.\nDone.\nThe answer is \\boxed{8}."
    assert [row["reason"] for row in files["rejected"]] == ["no solution in the data set"]
    assert built(tmp_path, map(trajectory, made), made, target="solution")[0]["train"] == 3
    assert "Set sft.solutions=teacher" in refused(
        tmp_path, [trajectory(made[2])], made, target="solution", solutions="dataset"
    )


def test_the_baseline_has_one_row_a_problem_whatever_is_kept_of_it(tmp_path):
    one = problem(0)
    came = [trajectory(one, sample, plan=(f"Multiply {NAMES[sample]}.",)) for sample in range(3)]
    summary, files = built(tmp_path, came, [one], target="solution", solutions="dataset", per_problem=3)
    assert len(files["train"]) == 1 and summary["problems"] == 1


def test_a_plan_that_was_not_carried_out_teaches_only_planning(tmp_path):
    one = problem(0)
    came = [trajectory(one, execution="", answer=None)]
    assert rejected(tmp_path, came, [one], filter="plan") == ["not executed"]
    assert built(tmp_path, came, [one], filter="plan", target="plan")[0]["train"] == 1


def test_prompts_have_the_answer_and_the_best_plan_and_no_answer_past_checking(tmp_path):
    made = [problem(0), problem(1, answer="because " * 20)]
    came = [trajectory(made[0], 0, score=81, plan=("Add.",)), trajectory(made[0], 1), trajectory(made[1])]
    summary, files = built(tmp_path, came, made, per_problem=2)
    (only,) = files["prompts"]
    assert only == {
        "problem_id": "p/0",
        "prompt": list(ask_plainly(made[0])),
        "answer": "6",
        "choices": [],
        "kind": "text",
        "plan": list(came[1].plan),
    }
    assert summary["prompts"] == 1 and summary["train"] == 3


# --- the card ---------------------------------------------------------------------------------------------------------


def card_of(tmp_path, **named) -> tuple[dict, str]:
    made = [problem(number, source="gsm8k") for number in range(30)]
    built(tmp_path, [trajectory(one) for one in made], made, {"own": [problem(40)]}, **named)
    text = (tmp_path / "corpus" / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_has_yaml_that_names_files_and_licence(tmp_path):
    front, body = card_of(tmp_path, about={"name": 'odd: "name" #1', "recipe": {"name": "x"}})
    assert front["pretty_name"] == 'odd: "name" #1' and front["license"] == "mit"
    sft, grpo = front["configs"]
    assert [split["path"] for split in sft["data_files"] + grpo["data_files"]] == [
        "train.jsonl",
        "validation.jsonl",
        "prompts.jsonl",
    ]
    for said in (
        "arxiv.org/abs/2507.07495",
        "## Recipe",
        "`gemini` (30)",
        "13 words in a row",
        "`own` 0",
        "at least 80",
    ):
        assert said in body


def test_the_datasets_library_loads_the_folder_by_its_card(tmp_path, monkeypatch):
    import datasets

    card_of(tmp_path)
    loaded = datasets.load_dataset(str(tmp_path / "corpus"), "sft", cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 28, "validation": 2}
    assert loaded["train"].column_names == ["problem_id", "prompt", "completion"]


def test_trl_trains_on_the_rows_as_they_are_written(tmp_path):
    import datasets
    from tiny import tiny_model, tiny_tokenizer
    from trl import SFTConfig, SFTTrainer

    from plantune_lite.student import presets

    many = [problem(number) for number in range(8)]
    built(tmp_path, [trajectory(one) for one in many], many, target="solution")
    rows = datasets.load_dataset("json", data_files=str(tmp_path / "corpus" / "train.jsonl"), split="train")
    tokenizer = tiny_tokenizer("qwen2")
    tokenizer.chat_template = presets.find("qwen2_5_7b").chat_template
    settings = SFTConfig(output_dir=str(tmp_path / "trl"), max_steps=2, use_cpu=True, bf16=False, report_to=[])
    trainer = SFTTrainer(tiny_model("qwen2"), args=settings, train_dataset=rows, processing_class=tokenizer)
    first = trainer.train_dataset[0]
    learned = tokenizer.decode([label for label in first["labels"] if label >= 0])
    assert completion_text(rows[0]) in learned and rows[0]["prompt"][1]["content"] not in learned
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_row_of_an_earlier_version_says_what_it_teaches():
    assert completion_text({"completion": "6"}) == completion_text({"completion": as_completion("6")}) == "6"


def test_worked_plans_are_called_what_they_are_and_an_unknown_licence_unknown(tmp_path):
    made = [problem(0, source="my file.csv")]
    about = {"origin": {"/home/ada/my file.csv": {"file": "/home/ada/my file.csv", "sha256": "12"}}}
    built(tmp_path, [trajectory(made[0], score=None, teacher="worked")], made, filter="answer", about=about)
    text = (tmp_path / "corpus" / "README.md").read_text(encoding="utf-8")
    assert "`worked` (1), which is not a model" in text and "**not scored**" in text
    assert "licence: unknown" in text and "license: unknown" in text
    assert '"file": "my file.csv"' in text and "/home" not in text


@given(st.text(alphabet="`~ab\n#\x1b\u202e"))
def test_no_text_ends_its_fence_or_its_code_span(text):
    lines = terminal.fence(text).split("\n")
    assert all(not line.strip().startswith(lines[0]) for line in lines[1:-1]) and lines[0] == lines[-1]
    ticks = terminal.code_span("x" + text + "x").partition("x")[0]
    assert terminal.code_span("x" + text + "x").count(ticks) == 2 and "\x1b" not in terminal.fence(text)


def test_the_example_row_stays_inside_its_fence(tmp_path):
    one = problem(0)
    evil = "````\n# Heading\n<script>alert(1)</script>\n\\boxed{6}"
    built(tmp_path, [trajectory(one, execution=evil)], [one])
    text = (tmp_path / "corpus" / "README.md").read_text(encoding="utf-8")
    inside = text.split("`````")
    assert len(inside) == 3 and "# Heading" in inside[1] and "<script>" in inside[1]


def test_the_figures_say_how_many_plans_are_distinct_and_how_long(tmp_path):
    one, other = problem(0), problem(1)
    came = [trajectory(one, 0), trajectory(one, 1), trajectory(other, 0, plan=("Entirely other words stand in here.",))]
    built(tmp_path, came, [one, other], dedup="none", per_problem=2)
    stats = json.loads((tmp_path / "corpus" / "stats.json").read_text(encoding="utf-8"))
    assert (stats["distinct_plans"], stats["unscored"], stats["steps"]["most"]) == (2, 0.0, 2)
