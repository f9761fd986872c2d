from dataclasses import replace

import pytest

from plantune_lite.evaluate.interventions import as_beginning, as_order, intervene, planned_after_all
from plantune_lite.evaluate.modes import evaluate_problems
from plantune_lite.files import read_records
from plantune_lite.plan import parse, render, written_plan
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.types import PlantuneError, Reply, Score

PROBLEMS = list(practice_problems("test", seed=0, limit=60))
OF_QUESTION = {problem.question: problem for problem in PROBLEMS}


def plan_of(problem):
    return tuple(problem.extra["plan"])


def obedient(prompts, sampling):
    """Right where the plan it follows, its own or a forced one, is the problem's."""
    return [[Reply(text=text_after(messages, heeds=True))] for messages in prompts]


def deaf(prompts, sampling):
    """Writes a plan and pays no heed to any."""
    return [[Reply(text=text_after(messages, heeds=False))] for messages in prompts]


def text_after(messages, heeds):
    problem = OF_QUESTION[messages[1]["content"].split("\n\n")[0]]
    followed = written_plan(messages[-1]["content"]) if "<plan>" in messages[-1]["content"] else None
    if messages[-1]["role"] == "user" and followed is None:
        return render(plan_of(problem), problem.solution)
    return problem.solution if not heeds or followed == plan_of(problem) else "so it is \\boxed{-7}"


def intervened(model, tmp_path, follow=as_beginning, **more):
    out = tmp_path / "own.m1.jsonl"
    evaluate_problems(obedient, PROBLEMS, mode="m1", out=out)
    return intervene(
        follow(model), PROBLEMS, read_records(Score, out), out=tmp_path / "interventions/own.m1.jsonl", **more
    )


def test_a_student_that_follows_plans_needs_its_own(tmp_path):
    found = intervened(obedient, tmp_path)
    shares = {name: figures["value"] for name, figures in found["conditions"].items()}
    assert shares == {"own": 1, "none": 0, "swapped": 0, "reference": 1, "dropped": 0}
    use = found["own_minus"]["swapped"]
    assert (use["difference"]["value"], use["won"], use["lost"]) == (1, 60, 0) and use["p"] < 1e-6
    assert found["line"] == "own 100.0 %, none 0.0 %, swapped 0.0 %, reference 100.0 %, dropped 0.0 %"


def test_where_plans_are_only_swapped_its_own_replies_stand_for_its_own_plan(tmp_path):
    found = intervened(obedient, tmp_path, conditions=("swapped",))
    assert {name: figures["value"] for name, figures in found["conditions"].items()} == {"own": 1, "swapped": 0}
    asked = read_records(Score, tmp_path / "interventions/own.m1.jsonl")
    assert {one.mode for one in asked} == {"swapped"} and found["own_minus"]["swapped"]["won"] == 60


def test_a_student_that_heeds_no_plan_uses_none(tmp_path):
    found = intervened(deaf, tmp_path)
    assert {figures["value"] for figures in found["conditions"].values()} == {1}
    use = found["own_minus"]["swapped"]
    assert (use["won"], use["lost"], use["p"]) == (0, 0, 1)
    assert use["difference"]["low"] < 0 < use["difference"]["high"]


def test_the_plan_is_forced_as_the_beginning_of_the_reply(tmp_path):
    heard = []

    def generate(prompts, sampling):
        heard.extend(prompts)
        return obedient(prompts, sampling)

    intervened(generate, tmp_path)
    assert {tuple(turn["role"] for turn in messages) for messages in heard} == {("system", "user", "assistant")}
    forced = [messages[-1]["content"] for messages in heard]
    assert forced[0] == render(plan_of(PROBLEMS[0])) and "<plan>\n</plan>\n" in forced


def test_a_swapped_plan_is_really_another_one(tmp_path):
    intervened(obedient, tmp_path)
    rows = [one for one in read_records(Score, tmp_path / "interventions/own.m1.jsonl") if one.mode == "swapped"]
    own = {problem.id: plan_of(problem) for problem in PROBLEMS}
    assert all(parse(one.text).plan != own[one.problem_id] for one in rows) and len(rows) == 60


def test_a_dropped_plan_is_ones_own_less_one_step(tmp_path):
    intervened(obedient, tmp_path)
    rows = [one for one in read_records(Score, tmp_path / "interventions/own.m1.jsonl") if one.mode == "dropped"]
    own = {problem.id: plan_of(problem) for problem in PROBLEMS}
    for one in rows:
        left = parse(one.text).plan
        assert len(left) == len(own[one.problem_id]) - 1 and set(left) < set(own[one.problem_id])


def test_in_m2_the_executor_is_told_another_plan(tmp_path):
    found = intervened(obedient, tmp_path, follow=as_order)
    assert found["conditions"]["own"]["value"] == 1 and found["conditions"]["swapped"]["value"] == 0


def test_problems_without_a_plan_are_left_out_and_counted(tmp_path):
    def sometimes(prompts, sampling):
        replies = obedient(prompts, sampling)
        return [[Reply(text="\\boxed{1}")] if number % 4 == 0 else reply for number, reply in enumerate(replies)]

    out = tmp_path / "own.m1.jsonl"
    evaluate_problems(sometimes, PROBLEMS, mode="m1", out=out)
    found = intervene(as_beginning(obedient), PROBLEMS, read_records(Score, out), out=tmp_path / "i.jsonl")
    assert found["conditions"]["own"]["problems"] == 45


def test_a_student_that_never_plans_has_nothing_to_exchange(tmp_path):
    out = tmp_path / "own.m1.jsonl"
    evaluate_problems(lambda prompts, _: [[Reply(text="1")] for _ in prompts], PROBLEMS, mode="m1", out=out)
    found = intervene(as_beginning(obedient), PROBLEMS, read_records(Score, out), out=tmp_path / "i.jsonl")
    assert found["line"].startswith("no interventions: the student wrote 0 plans in 60 answers")
    assert "conditions" not in found and not (tmp_path / "i.jsonl").exists()


def test_interventions_go_on_and_do_not_mix_plans_of_another_student(tmp_path):
    first = intervened(obedient, tmp_path)
    silent = lambda prompts, sampling: pytest.fail("asked again")  # noqa: E731
    assert intervened(silent, tmp_path) == first
    scores = read_records(Score, tmp_path / "own.m1.jsonl")
    others = [replace(one, text=render(("Guess.", one.problem_id))) for one in scores]
    with pytest.raises(PlantuneError, match="mode own made with plans="):
        intervene(as_beginning(obedient), PROBLEMS, others, out=tmp_path / "interventions/own.m1.jsonl")


def test_a_student_that_plans_again_after_an_empty_plan_is_told_apart(tmp_path):
    def stubborn(prompts, sampling):
        return [[Reply(text="<plan>\n1. My own.\n</plan>\nso \\boxed{1}")] for _ in prompts]

    found = intervened(stubborn, tmp_path)
    assert found["planned_anyway"] == 1 and "; without a plan 100.0 % wrote one themselves" in found["line"]
    found = intervened(deaf, tmp_path / "other")
    assert found["planned_anyway"] == 0 and "wrote one themselves" not in found["line"]


@pytest.mark.parametrize(
    ("text", "planned"),
    [
        ("1. Find May.\n2. Add both.\n</plan>\nMay has 24.", True),
        ("1. Find May.\n2. Add both.\n\nMay has 24.", True),
        ("The plan:\n1) Find May.\n2) Add both.", True),
        ("1. Find May.\n</plan>\nMay has 24.", True),
        ("May has 24.\n1. is the first", False),
        ("24 in May, 72 in all.", False),
        ("1. 48 / 2 = 24\n2. 48 + 24 = 72", False),
    ],
)
def test_a_second_end_of_a_plan_or_numbered_lines_before_the_working_are_a_plan_after_all(text, planned):
    assert planned_after_all(text) is planned
