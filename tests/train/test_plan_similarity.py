import os
import subprocess
import sys
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plantune_lite.distill import worked
from plantune_lite.problems.practice import stories
from plantune_lite.student import smollm2
from plantune_lite.train import plan_similarity
from plantune_lite.train.plan_similarity import Alignment, words
from plantune_lite.types import RecipeError

PROBLEMS = list(stories.generate("train", seed=0, limit=200))
CORPUS = [(problem.question, problem.extra["plan"]) for problem in PROBLEMS]
ALIGNMENT = Alignment(CORPUS)
BIKES, PLAN = next((question, plan) for question, plan in CORPUS if "bikes" in question)


def score(question, plan, reference):
    return ALIGNMENT([question], [plan], [reference])[0]


def of_another_kind(number):
    """Another problem, of another template."""
    kinds = [problem.extra["template"] for problem in PROBLEMS]
    return next(n for n in [*range(number + 1, len(kinds)), *range(number)] if kinds[n] != kinds[number])


def test_the_reference_itself_scores_one():
    scores = ALIGNMENT(*zip(*((question, plan, plan) for question, plan in CORPUS), strict=True))
    assert scores == pytest.approx([1.0] * len(CORPUS))


def test_a_plan_of_another_problem_scores_near_zero():
    others = [CORPUS[of_another_kind(number)][1] for number in range(len(CORPUS))]
    scores = ALIGNMENT([question for question, _ in CORPUS], others, [plan for _, plan in CORPUS])
    assert fmean(scores) < 0.03 and sorted(scores)[180] < 0.1


def test_the_same_way_in_other_words_scores_between():
    taken = [(problem, worked.plan_of(replace(problem, extra={})).plan) for problem in PROBLEMS]
    own = [score(one.question, plan, one.extra["plan"]) for one, plan in taken if plan]
    assert len(own) > 50 and 0.1 < fmean(own) < 0.8


def test_an_embedding_model_knows_a_problem_s_own_plan_from_another_s():
    alike = plan_similarity.embedding_similarity(str(smollm2.folder()))
    [[same, other]] = alike(["Halve the clips."], ["Halve the clips.", "Add both months."])
    assert same == pytest.approx(1) and 0 < other < 0.99
    assert alike([""], ["Halve the clips."]) == [[0]]
    some = CORPUS[:4]
    judge = Alignment(some, alike=alike)
    own = judge([question for question, _ in some], [plan for _, plan in some], [plan for _, plan in some])
    strange = [CORPUS[of_another_kind(number)][1] for number in range(4)]
    others = judge([question for question, _ in some], strange, [plan for _, plan in some])
    assert fmean(own) > 0.9 and fmean(others) < 0.3


def test_an_embedding_model_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(RecipeError, match="grpo.embedder is .* cannot be loaded"):
        plan_similarity.embedding_similarity(str(tmp_path))


def test_the_order_of_steps_and_endings_of_words_matter_little():
    assert score(BIKES, PLAN[::-1], PLAN) == pytest.approx(1)
    assert score(BIKES, [step.replace("Subtract", "Subtracting") for step in PLAN], PLAN) > 0.9


def test_a_missing_step_and_a_strange_step_both_cost():
    assert 0.2 < score(BIKES, PLAN[:-1], PLAN) < 0.9
    assert 0.5 < score(BIKES, [*PLAN, "Multiply the guests by the slices of cake."], PLAN) < 0.99


def test_a_step_said_again_and_again_gains_nothing():
    halfway = ["Multiply the guests by the slices of cake.", *PLAN[:1]]
    assert 0 < score(BIKES, halfway + PLAN[:1] * 20, PLAN) <= score(BIKES, halfway, PLAN)


@given(st.sampled_from(CORPUS), st.randoms(use_true_random=False), st.integers(1, 6))
def test_copying_the_question_earns_nothing_however_it_is_cut_or_shuffled(row, rng, steps):
    question, reference = row
    said = [word for word in question.split() if rng.random() < 0.9]
    if rng.random() < 0.5:
        rng.shuffle(said)
    cuts = sorted(rng.randrange(len(said) + 1) for _ in range(steps - 1))
    plan = [" ".join(said[start:end]) for start, end in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    assert score(question, plan, reference) == 0


def test_a_copied_question_with_operations_behind_it_earns_little():
    steps = [[f"{part} add subtract multiply divide" for part in question.split(". ")] for question, _ in CORPUS]
    scores = ALIGNMENT([question for question, _ in CORPUS], steps, [plan for _, plan in CORPUS])
    assert fmean(scores) < 0.08 and max(scores) < 0.25


def test_a_reference_in_the_words_of_the_question_is_still_met_by_itself():
    question = "How many eggs are left? How much does Janet earn with 3 + 4 of them?"
    reference = ["How many eggs are left? Subtract.", "How much does Janet earn?", "3 + 4"]
    assert score(question, reference, reference) == pytest.approx(1)


@given(st.sampled_from(CORPUS), st.lists(st.text(max_size=40), max_size=5), st.sampled_from(CORPUS))
def test_any_score_lies_between_zero_and_one(row, noise, other):
    question, reference = row
    assert 0 <= score(question, [*noise, *other[1]], reference) <= 1 + 1e-9


def test_a_reference_that_only_repeats_the_question_can_be_met_by_nothing():
    assert score("How many pens has Ann?", ["Ann has pens."], ["How many pens has Ann?"]) == 0
    reference = ["Double the pens.", "How many pens has Ann?"]
    assert score("How many pens has Ann?", reference, reference) == pytest.approx(1)


def test_where_all_plans_are_the_same_there_is_no_chance_to_correct_for():
    alone = Alignment([("How many?", ["Add both."]), ("How much?", ["Add both."])])
    assert alone.zero == 0 and alone(["How many?"], [["Add both."]], [["Add both."]]) == [pytest.approx(1)]


def test_zero_is_the_same_in_every_process():
    code = """if True:
        from plantune_lite.train import plan_similarity
        from plantune_lite.problems.practice import stories
        corpus = [(one.question, one.extra["plan"]) for one in stories.generate("train", seed=0, limit=200)]
        print(plan_similarity.Alignment(corpus).zero)"""
    for seed in "12":
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
        assert float(done.stdout) == ALIGNMENT.zero > 0


def test_words_are_what_a_step_is_about():
    assert words("Find how many pens are LEFT, then adding 3 + 4.") == ["pen", "left", "add", "add"]
