import json
import subprocess
import sys
from dataclasses import replace

import pytest

from plantune_lite import plan
from plantune_lite.evaluate.answers import Asking
from plantune_lite.evaluate.modes import evaluate_problems
from plantune_lite.files import read_records
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.types import Graded, PlantuneError, Problem, Reply, Sampling, Score, Verdict

PROBLEMS = list(practice_problems("test", seed=0, limit=60))
EXAMPLES = list(practice_problems("train", seed=0, limit=12))
OF_QUESTION = {problem.question: problem for problem in PROBLEMS}


def asked_about(messages):
    user = [turn["content"] for turn in messages if turn["role"] == "user"][-1]
    return OF_QUESTION[user.split("\n\n")[0]]


def answering(text_of, **more):
    """A model that is a function of the problem and the sample's number; `.heard` is what it was asked."""

    def generate(prompts, sampling):
        generate.heard += [(messages, sampling) for messages in prompts]
        return [
            [Reply(text=text_of(asked_about(messages), sample), tokens_out=10, **more) for sample in range(sampling.n)]
            for messages in prompts
        ]

    generate.heard = []
    return generate


def number(problem):
    return int(problem.id.rpartition("/")[2])


def right_on(is_right):
    return answering(lambda problem, sample: f"\\boxed{{{problem.answer if is_right(number(problem)) else -7}}}")


def planned(problem, sample=0):
    return plan.render(problem.extra["plan"], f"so \\boxed{{{problem.answer}}}")


# --- one mode ---------------------------------------------------------------------------------------------------------


def test_a_model_right_on_a_third_gets_its_share_with_an_interval(tmp_path):
    found = evaluate_problems(right_on(lambda n: n % 3 == 0), PROBLEMS, mode="m1", out=tmp_path / "own.sft.jsonl")
    assert found["line"] == "own sft m1: 20 of 60 right, 33.3 % (22.7 to 45.9)"
    assert (found["problems"], found["truncated"], found["unparsable"]) == (60, 0, 0)


def test_every_answer_is_a_line_of_the_file(tmp_path):
    evaluate_problems(right_on(lambda n: n == 1), PROBLEMS[:2], mode="m1", out=tmp_path / "own.sft.jsonl")
    wrong, right = read_records(Score, tmp_path / "own.sft.jsonl")
    assert (right.problem_id, right.prediction, right.gold) == (PROBLEMS[1].id, PROBLEMS[1].answer, PROBLEMS[1].answer)
    assert (wrong.same, right.same, right.mode, right.tokens) == (False, True, "m1", 10)


@pytest.mark.parametrize(
    ("mode", "words"), [("zero_shot_cot", "step by step"), ("plan_then_solve", "<plan>"), ("m1", ""), ("plain", "")]
)
def test_each_mode_asks_in_its_own_words(tmp_path, mode, words):
    model = right_on(lambda n: True)
    evaluate_problems(model, PROBLEMS[:1], mode=mode, out=tmp_path / "own.x.jsonl")
    [[(system, user), _]] = model.heard
    assert system == {"role": "system", "content": plan.SYSTEM}
    assert user["content"].startswith(PROBLEMS[0].question) and words in user["content"]
    assert bool(words) == (user["content"] != PROBLEMS[0].question)


def test_no_problems_are_a_sentence(tmp_path):
    with pytest.raises(PlantuneError, match="no problems"):
        evaluate_problems(right_on(bool), [], mode="m1", out=tmp_path / "a.b.jsonl")


def test_cut_off_and_unreadable_answers_are_wrong_and_counted(tmp_path):
    model = answering(lambda problem, sample: "let me think", finish="length")
    found = evaluate_problems(model, PROBLEMS[:10], mode="m1", out=tmp_path / "own.sft.jsonl")
    assert (found["accuracy"]["value"], found["truncated"], found["unparsable"]) == (0, 1, 1)


def test_progress_is_told_on_the_way(tmp_path):
    said = []
    out = tmp_path / "own.sft.jsonl"
    evaluate_problems(
        right_on(bool), PROBLEMS, mode="m1", out=out, how=Asking(chunk=20, show=lambda *line: said.append(line))
    )
    assert [last for _, last in said] == [False, False, True]
    assert said[0][0].startswith("own sft m1: 20 of 60 problems, ")
    assert said[0][0].endswith(" left") and said[-1][0].startswith("own sft m1: 59 of 60 right")


# --- few shot and m2 --------------------------------------------------------------------------------------------------


def test_few_shot_shows_three_worked_examples_none_of_them_tested(tmp_path):
    model = right_on(bool)
    evaluate_problems(
        model, PROBLEMS, mode="few_shot", out=tmp_path / "own.x.jsonl", how=Asking(examples=[*PROBLEMS, *EXAMPLES[:3]])
    )
    for messages, _ in model.heard:
        assert [turn["role"] for turn in messages] == ["system", *["user", "assistant"] * 3, "user"]
        shown = {messages[at]["content"].split("\n\n")[0]: messages[at + 1]["content"] for at in (1, 3, 5)}
        assert set(shown) == {example.question for example in EXAMPLES[:3]}
        assert all("\\boxed{" in solution for solution in shown.values())


def test_a_test_problem_under_another_id_is_no_example(tmp_path):
    disguised = [
        replace(problem, id=f"mine/{problem.id}", question=f"{problem.question.upper()} ") for problem in PROBLEMS
    ]
    with pytest.raises(PlantuneError, match="2 of 62 are"):
        examples = [*disguised, *EXAMPLES[:2]]
        evaluate_problems(
            right_on(bool), PROBLEMS, mode="few_shot", out=tmp_path / "a.b.jsonl", how=Asking(examples=examples)
        )


def test_in_m2_another_model_follows_the_students_plan(tmp_path):
    student, executor = answering(planned), right_on(lambda n: n % 2 == 0)
    out = tmp_path / "own.m2.jsonl"
    found = evaluate_problems(student, PROBLEMS[:10], mode="m2", out=out, how=Asking(executor=executor))
    assert found["accuracy"]["value"] == 0.5
    assert student.heard[0][1].stop == ("</plan>",)
    order = executor.heard[0][0][-1]["content"]
    assert plan.render(PROBLEMS[0].extra["plan"]) in order and "boxed{" + PROBLEMS[0].answer not in order
    first = read_records(Score, out)[0]
    assert plan.parse(first.text).plan == tuple(PROBLEMS[0].extra["plan"]) and first.tokens == 20


def test_a_plan_stopped_at_its_closing_tag_is_a_plan_and_one_cut_off_is_none(tmp_path):
    stopped = answering(lambda problem, sample: planned(problem).partition("</plan>")[0])
    executor = right_on(bool)
    evaluate_problems(stopped, PROBLEMS[:5], mode="m2", out=tmp_path / "a.b.jsonl", how=Asking(executor=executor))
    assert executor.heard[0][0] == plan.ask_to_follow(PROBLEMS[0], PROBLEMS[0].extra["plan"])
    cut_off = answering(lambda problem, sample: "<plan>\n1. Add the", finish="length")
    executor = right_on(bool)
    evaluate_problems(cut_off, PROBLEMS[:5], mode="m2", out=tmp_path / "a.c.jsonl", how=Asking(executor=executor))
    assert executor.heard[0][0] == plan.ask_step_by_step(PROBLEMS[0])


def test_several_sampled_plans_are_each_followed_greedily(tmp_path):
    executor = right_on(bool)
    out = tmp_path / "own.m2.jsonl"
    evaluate_problems(
        answering(planned),
        PROBLEMS[:4],
        mode="m2",
        out=out,
        how=Asking(sampling=Sampling(n=3, temperature=0.8), executor=executor),
    )
    assert len(executor.heard) == 12 and {(s.n, s.temperature) for _, s in executor.heard} == {(1, 0)}
    assert [(one.problem_id, one.sample) for one in read_records(Score, out)][:4] == [
        *((PROBLEMS[0].id, sample) for sample in range(3)),
        (PROBLEMS[1].id, 0),
    ]


def test_m2_without_an_executor_is_a_sentence(tmp_path):
    with pytest.raises(PlantuneError, match="needs an executor"):
        evaluate_problems(right_on(bool), PROBLEMS, mode="m2", out=tmp_path / "a.b.jsonl")


# --- several samples --------------------------------------------------------------------------------------------------


def test_samples_give_pass_at_k_and_a_majority(tmp_path):
    def text(problem, sample):  # right in one sample of four, and twice the same wrong answer
        return f"\\boxed{{{[problem.answer, '-7', '-7.0', 'none'][(number(problem) + sample) % 4]}}}"

    out = tmp_path / "own.sft.jsonl"
    found = evaluate_problems(
        answering(text), PROBLEMS, mode="m1", out=out, how=Asking(sampling=Sampling(n=4, temperature=0.7))
    )
    assert (found["samples"], found["accuracy"]["value"]) == (4, 0.25)
    assert (found["passed"]["value"], found["majority"]["value"]) == (1, 0)
    assert found["line"].startswith("own sft m1: 25.0 % (")


def test_answers_that_nobody_can_read_have_no_vote(tmp_path):
    def text(problem, sample):
        return "\\boxed{5 or 6}" if sample < 3 else f"\\boxed{{{problem.answer}}}"

    out = tmp_path / "own.sft.jsonl"
    found = evaluate_problems(
        answering(text), PROBLEMS[:5], mode="m1", out=out, how=Asking(sampling=Sampling(n=4, temperature=0.7))
    )
    assert (found["unparsable"], found["majority"]["value"]) == (0.75, 1)


def test_chunks_have_seeds_of_their_own_that_a_second_run_has_too(tmp_path):
    models = [right_on(bool), right_on(bool)]
    for model, name in zip(models, "ab", strict=True):
        evaluate_problems(
            model,
            PROBLEMS,
            mode="m1",
            out=tmp_path / f"{name}.x.jsonl",
            how=Asking(sampling=Sampling(temperature=0.7, seed=3), chunk=20),
        )
    seeds = [[sampling.seed for _, sampling in model.heard] for model in models]
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == 3


# --- going on ---------------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from plantune_lite.evaluate.answers import Asking
from plantune_lite.evaluate.modes import evaluate_problems
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.types import Reply

asked = 0

def generate(prompts, sampling):
    global asked
    asked += len(prompts)
    if asked > 24:
        with open(sys.argv[1], "ab") as file:
            file.write(b'{"problem_id": "practice/test/24", "sam')  # the line a kill tears
        os._exit(137)
    return [[Reply(text="\\\\boxed{1}")] for _ in prompts]

problems = list(practice_problems("test", seed=0, limit=60))
evaluate_problems(generate, problems, mode="m1", out=Path(sys.argv[1]), how=Asking(chunk=8))
"""


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path):
    out = tmp_path / "own.sft.jsonl"
    assert subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False).returncode == 137
    before = out.read_bytes().splitlines(keepends=True)[:-1]
    assert len(before) == 24
    model = right_on(lambda n: True)
    found = evaluate_problems(model, PROBLEMS, mode="m1", out=out, how=Asking(chunk=8))
    assert [asked_about(messages) for messages, _ in model.heard] == PROBLEMS[24:]
    assert out.read_bytes().splitlines(keepends=True)[:24] == before
    assert {one.problem_id for one in read_records(Score, out)} == set(p.id for p in PROBLEMS)
    assert round(found["accuracy"]["value"] * 60) == 36 + sum(problem.answer == "1" for problem in PROBLEMS[:24])


def test_what_is_done_is_not_asked_again(tmp_path):
    out = tmp_path / "own.sft.jsonl"
    first = evaluate_problems(right_on(bool), PROBLEMS, mode="m1", out=out)
    silent = answering(lambda problem, sample: pytest.fail("asked again"))
    assert evaluate_problems(silent, PROBLEMS, mode="m1", out=out) == first


def test_samples_that_a_kill_left_out_are_filled_in(tmp_path):
    out = tmp_path / "own.sft.jsonl"
    evaluate_problems(
        right_on(bool), PROBLEMS[:3], mode="m1", out=out, how=Asking(sampling=Sampling(n=2, temperature=0.7))
    )
    out.write_text("".join(out.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    model = right_on(bool)
    evaluate_problems(model, PROBLEMS[:3], mode="m1", out=out, how=Asking(sampling=Sampling(n=2, temperature=0.7)))
    assert [asked_about(messages) for messages, _ in model.heard] == PROBLEMS[1:3]
    assert [(one.problem_id, one.sample) for one in read_records(Score, out)] == [
        (problem.id, sample) for problem in PROBLEMS[:3] for sample in range(2)
    ]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (Asking(sampling=Sampling(max_tokens=64)), "max_tokens"),
        (Asking(sampling=Sampling(temperature=0.5)), "temperature"),
        (Asking(model="another"), "model"),
    ],
)
def test_answers_of_other_settings_are_not_mixed_in(tmp_path, changed, name):
    out = tmp_path / "own.sft.jsonl"
    evaluate_problems(right_on(bool), PROBLEMS, mode="m1", out=out)
    before = out.read_bytes()
    with pytest.raises(PlantuneError, match=f"answers of mode m1 made with {name}="):
        evaluate_problems(right_on(bool), PROBLEMS, mode="m1", out=out, how=changed)
    assert out.read_bytes() == before


def test_other_examples_are_another_prompt(tmp_path):
    out = tmp_path / "own.untuned.jsonl"
    evaluate_problems(right_on(bool), PROBLEMS, mode="few_shot", out=out, how=Asking(examples=EXAMPLES[:3]))
    with pytest.raises(PlantuneError, match="made with prompt="):
        evaluate_problems(right_on(bool), PROBLEMS, mode="few_shot", out=out, how=Asking(examples=EXAMPLES[3:6]))


def test_another_mode_shares_the_file_and_has_settings_of_its_own(tmp_path):
    out = tmp_path / "own.sft.jsonl"
    evaluate_problems(right_on(bool), PROBLEMS[:5], mode="m1", out=out)
    evaluate_problems(right_on(bool), PROBLEMS[:5], mode="plain", out=out, how=Asking(sampling=Sampling(max_tokens=64)))
    assert json.loads(out.with_suffix(".json").read_text())["plain"]["max_tokens"] == 64
    assert [one.mode for one in read_records(Score, out)] == ["m1"] * 5 + ["plain"] * 5


def test_more_problems_are_added_and_fewer_are_counted_alone(tmp_path):
    out = tmp_path / "own.sft.jsonl"
    evaluate_problems(right_on(bool), PROBLEMS[:20], mode="m1", out=out)
    model = right_on(bool)
    assert evaluate_problems(model, PROBLEMS[:30], mode="m1", out=out)["problems"] == 30 and len(model.heard) == 10
    assert evaluate_problems(model, PROBLEMS[:10], mode="m1", out=out)["problems"] == 10


def test_another_problem_of_the_same_id_is_found_out(tmp_path):
    out = tmp_path / "own.sft.jsonl"
    evaluate_problems(right_on(bool), PROBLEMS[:5], mode="m1", out=out)
    with pytest.raises(PlantuneError, match=f"answers a different {PROBLEMS[4].id}"):
        evaluate_problems(right_on(bool), [*PROBLEMS[:4], replace(PROBLEMS[4], answer="-1")], mode="m1", out=out)


# --- programs ---------------------------------------------------------------------------------------------------------


def test_programs_are_refused_unless_somebody_may_run_them(tmp_path, monkeypatch):
    problem = Problem(id="he/0", question=PROBLEMS[0].question, answer="assert f(1) == 2", kind="code")
    model = answering(lambda _, sample: "def f(x): return x + 1")
    with pytest.raises(PlantuneError, match="evaluate.allow_code=true"):
        evaluate_problems(model, [problem], mode="plain", out=tmp_path / "a.b.jsonl")

    def run_code(problem, text):
        return Graded(text, Verdict(same="x + 1" in text, how="ran"))

    monkeypatch.setattr("plantune_lite.evaluate.answers.grade_reply", run_code)
    out = tmp_path / "a.b.jsonl"
    found = evaluate_problems(model, [problem], mode="plain", out=out, how=Asking(allow_code=True))
    assert found["accuracy"]["value"] == 1


def test_answers_are_written_as_they_come_and_a_cut_costs_only_those_under_way(tmp_path):
    class Streaming:
        def __call__(self, prompts, sampling):
            raise AssertionError("it can give each reply by itself")

        def each(self, prompts, sampling):
            for place in (1, 0, 2):
                yield place, [Reply(text=f"\\boxed{{{asked_about(prompts[place]).answer}}}")]
                if place == 0 and len(prompts) == 3:
                    raise KeyboardInterrupt

    out = tmp_path / "own.sft.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate_problems(Streaming(), PROBLEMS[:3], mode="m1", out=out)
    assert [one.problem_id for one in read_records(Score, out)] == [PROBLEMS[1].id, PROBLEMS[0].id]
    rest = right_on(lambda n: True)
    found = evaluate_problems(rest, PROBLEMS[:3], mode="m1", out=out)
    assert found["accuracy"]["value"] == 1 and [asked_about(messages) for messages, _ in rest.heard] == [PROBLEMS[2]]
