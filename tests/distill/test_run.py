import asyncio
import json
from dataclasses import replace

import pytest

from plantune_lite import Distill
from plantune_lite.distill import run as run_module
from plantune_lite.distill import stage
from plantune_lite.distill.run import AT_ONCE, Teaching, distill_all
from plantune_lite.files import read_records
from plantune_lite.runs.folder import RunFolder
from plantune_lite.teacher.ledger import BudgetError
from plantune_lite.teacher.provider import UnansweredError
from plantune_lite.types import PlantuneError, Problem, Rejected, Reply, Trajectory, Verdict

PROBLEMS = [Problem(id=f"p{n}", question=f"What is {n} plus {n + 1}, halved?", answer=f"{n}.5") for n in range(1, 7)]


class Teacher:
    """A teacher made by hand: answers by what is asked, counts what is asked, and can be told what to say."""

    def __init__(self, scores=(90,), plans=(("Add.", "Halve."),), answer=lambda problem: problem.answer):
        self.scores, self.plans, self.answer = scores, plans, answer
        self.asked = {}  # (prompt, sample) -> times

    async def __call__(self, messages, sampling, schema):
        await asyncio.sleep(0)
        text = messages[1]["content"]
        return [self.reply(text, schema, sample) for sample in range(sampling.n)]

    def reply(self, text, schema, sample):
        self.asked[text, sample] = self.asked.get((text, sample), 0) + 1
        problem = next(one for one in PROBLEMS if one.question in text)
        if schema is not None and schema.__name__ == "Plans":
            reply = json.dumps({"plans": [{"steps": steps} for steps in self.plans]})
        elif schema is not None and schema.__name__ == "JudgedPlans":
            reply = json.dumps({"judged": [{"reasons": "r", "score": score} for score in self.scores]})
        elif schema is not None:
            plan_number = next(n for n, plan in enumerate(self.plans) if plan[0] in text)
            reply = json.dumps({"reasons": "r", "score": self.scores[plan_number % len(self.scores)]})
        elif "Write a plan" in text or "Write the plan" in text:
            reply = "\n".join(f"{k}. {step}" for k, step in enumerate(self.plans[sample % len(self.plans)], 1))
        elif "<constraints>" not in text and "List what a good plan" in text:
            reply = "Halve at the end."
        else:
            reply = f"So it is \\boxed{{{self.answer(problem)}}}."
        return Reply(text=reply, tokens_in=10, tokens_out=5)


def run(out, teacher=None, problems=PROBLEMS, **part):
    teaching = Teaching(teacher, "toy") if teacher else None
    summary = asyncio.run(distill_all(problems, teaching, Distill(**part), out))
    return (
        summary,
        read_records(Trajectory, out / "trajectories.jsonl"),
        read_records(Rejected, out / "rejected.jsonl"),
    )


TWO_PLANS = (("Guess.",), ("Add.", "Halve."))


def test_a_plan_that_scores_and_leads_to_the_answer_is_kept(tmp_path):
    summary, kept, rejected = run(tmp_path, Teacher())
    assert {made.problem_id for made in kept} == {one.id for one in PROBLEMS} and rejected == []
    assert kept[0].plan == ("Add.", "Halve.") and kept[0].score == 90 and kept[0].teacher == "toy"
    assert summary["problems_kept"] == 6


@pytest.mark.parametrize("way", [{}, {"plans_per_call": 2, "plans": 2}, {"plan_from": "solution"}])
def test_a_teacher_is_told_which_way_plans_run_where_a_recipe_says_it(tmp_path, way):
    solved = [replace(one, solution=f"It is {one.answer}.") for one in PROBLEMS]
    for direction, words in (("backwards", "work backwards"), ("forwards", "work towards what is asked")):
        teacher = Teacher(plans=TWO_PLANS)
        run(tmp_path / direction, teacher, problems=solved, direction=direction, **way)
        asked = [text for text, _ in teacher.asked if "Judge" not in text and "plan" in text.split("\n")[0].lower()]
        assert any(words in text for text in asked) and "{" not in asked[0].partition("<problem>")[0]
    plain = Teacher(plans=TWO_PLANS)
    run(tmp_path / "plain", plain, problems=solved, **way)
    assert not any("backwards" in text or "towards" in text for text, _ in plain.asked)


def test_first_makes_plans_one_after_another_until_one_passes(tmp_path):
    teacher = Teacher(scores=(20, 90), plans=TWO_PLANS)
    _, kept, rejected = run(tmp_path, teacher)
    assert [made.sample for made in kept] == [1] * 6
    assert {made.reason for made in rejected} == {"plan score too low"} and rejected[0].detail == "20 < 80"
    assert max(sample for _, sample in teacher.asked) == 1, "a third plan was asked for although the second passed"


def test_best_asks_for_all_and_executes_from_the_best_down(tmp_path):
    teacher = Teacher(scores=(85, 95), plans=TWO_PLANS)
    _, kept, rejected = run(tmp_path, teacher, keep="best", plans=2)
    assert [made.score for made in kept] == [95] * 6
    assert {made.reason for made in rejected} == {"a better plan was kept"}
    executed = [text for text, _ in teacher.asked if "following the plan" in text]
    assert len(executed) == 6


def test_first_and_best_ask_for_the_same_plans_so_that_neither_pays_for_the_others_again(tmp_path):
    first, best = Teacher(scores=(20,)), Teacher(scores=(20,))
    run(tmp_path / "first", first)
    run(tmp_path / "best", best, keep="best")
    assert set(best.asked) == set(first.asked)


def test_a_wrong_answer_is_rejected_with_its_reason_and_its_execution(tmp_path):
    _, kept, rejected = run(tmp_path, Teacher(answer=lambda problem: "7"), plans=2)
    assert kept == [] and {made.reason for made in rejected} == {"wrong answer"}
    assert rejected[0].execution == "So it is \\boxed{7}." and rejected[0].answer == "7"


def test_a_plan_that_spoils_the_answer_costs_no_further_call(tmp_path):
    teacher = Teacher(plans=(("Add to get 99, then halve.", "It is = 98."),))
    _, _, rejected = run(tmp_path, teacher, plans=1)
    assert {made.reason for made in rejected} == {"spoils the answer"} and rejected[0].detail
    assert not any("following the plan" in text or "Judge a plan" in text for text, _ in teacher.asked)


def test_execute_all_carries_out_what_the_score_would_have_dropped(tmp_path):
    _, kept, rejected = run(tmp_path, Teacher(scores=(10,)), plans=1, execute="all")
    assert kept == [] and {made.reason for made in rejected} == {"plan score too low"}
    assert all(made.answer == one.answer for made, one in zip(sorted(rejected, key=by_id), PROBLEMS, strict=True))


def by_id(made):
    return made.problem_id


def test_plans_in_one_call_are_scored_in_one_call(tmp_path):
    teacher = Teacher(scores=(20, 90), plans=TWO_PLANS)
    _, kept, _ = run(tmp_path, teacher, plans=2, plans_per_call=2)
    assert [made.sample for made in kept] == [1] * 6
    assert len(teacher.asked) == 6 * 4, "constraints, plans, scores, one execution"


def test_another_number_of_scores_than_plans_asks_for_each(tmp_path):
    teacher = Teacher(scores=(90,), plans=TWO_PLANS)
    _, kept, _ = run(tmp_path, teacher, plans=2, plans_per_call=2)
    assert len(kept) == 6 and len(teacher.asked) == 6 * 6


def test_a_plan_of_a_worked_solution_keeps_that_solution(tmp_path):
    problems = [Problem(id="p1", question=PROBLEMS[0].question, answer="1.5", solution="1+2=3, 3/2=1.5")]
    _, kept, _ = run(tmp_path, Teacher(), problems, plan_from="solution")
    assert kept[0].execution == "1+2=3, 3/2=1.5" and kept[0].answer == "1.5"


def test_a_plan_of_a_worked_solution_that_nobody_scores_is_one_call(tmp_path):
    solved = Problem(id="p1", question=PROBLEMS[0].question, answer="1.5", solution="1+2=3, 3/2=1.5")
    teacher = Teacher()
    _, kept, _ = run(tmp_path, teacher, [solved], plan_from="solution", min_score=None)
    assert [(one.plan, one.score) for one in kept] == [(("Add.", "Halve."), None)]
    assert len(teacher.asked) == 1


def test_with_no_worked_solution_there_is_no_plan_of_it_and_nothing_to_pay(tmp_path):
    solved = Problem(id="s", question=PROBLEMS[0].question, answer="1.5", solution="1+2=3, 3/2=1.5")
    teacher = Teacher()
    _, kept, rejected = run(tmp_path / "one", teacher, [solved, PROBLEMS[1]], plan_from="solution")
    assert [made.problem_id for made in kept] == ["s"]
    assert [(made.problem_id, made.reason) for made in rejected] == [("p2", "no worked solution")]
    assert not any(PROBLEMS[1].question in text for text, _ in teacher.asked)


class CutOff(Teacher):
    """One whose replies of some kind break off."""

    def __init__(self, breaks_off, **said):
        super().__init__(**said)
        self.breaks_off = breaks_off

    def reply(self, text, schema, sample):
        reply = super().reply(text, schema, sample)
        return replace(reply, finish="length") if self.breaks_off(text, sample) else reply


def test_a_plan_that_was_cut_off_is_none_however_it_would_score(tmp_path):
    cut = CutOff(lambda text, sample: "Write a plan" in text and sample == 0, scores=(95, 90), plans=TWO_PLANS)
    _, kept, rejected = run(tmp_path, cut, keep="best", plans=2)
    assert [made.score for made in kept] == [90] * 6
    assert {(made.plan, made.reason) for made in rejected} == {((), "plan cut off")}


def test_half_an_execution_is_learned_from_under_no_filter(tmp_path):
    cut = CutOff(lambda text, sample: "following the plan" in text, scores=(10, 90), plans=TWO_PLANS)
    _, kept, rejected = run(tmp_path, cut, plans=2, execute="all")
    assert kept == [] and {made.reason for made in rejected} == {"execution cut off"} and len(rejected) == 12
    assert list(stage._trajectories(RunFolder(tmp_path))) == []


@pytest.mark.parametrize("way", [{}, {"plans": 2, "plans_per_call": 2}])
@pytest.mark.parametrize("stop_after", range(1, 24, 4))
def test_a_distillation_that_was_cut_off_anywhere_ends_the_same(tmp_path, stop_after, way):
    class Failing(Teacher):
        def reply(self, text, schema, sample):
            if len(self.asked) >= stop_after:
                raise PlantuneError("the money is spent")
            return super().reply(text, schema, sample)

    with pytest.raises(PlantuneError, match="money"):
        run(tmp_path / "cut", Failing(scores=(20, 90), plans=TWO_PLANS), **way)
    (tmp_path / "cut" / "trajectories.jsonl").open("a").write('{"problem_id": "p3", "torn')
    cut = run(tmp_path / "cut", Teacher(scores=(20, 90), plans=TWO_PLANS), **way)
    whole = run(tmp_path / "whole", Teacher(scores=(20, 90), plans=TWO_PLANS), **way)
    assert cut[0] == whole[0]
    for one, other in zip(cut[1:], whole[1:], strict=True):
        assert sorted(one, key=by_id) == sorted(other, key=by_id)


def test_worked_solutions_that_were_cut_off_anywhere_end_the_same(tmp_path, monkeypatch):
    problems = [replace(one, solution=f"Add.\nHalve: {one.answer}") for one in PROBLEMS]
    whole = run(tmp_path / "whole", problems=problems, teacher=None)
    taken = run_module.worked
    for stop_at in range(6):
        made = []

        def dies(problem, direction, made=made, stop_at=stop_at):
            if len(made) == stop_at:
                raise KeyboardInterrupt
            return made.append(problem) or taken(problem, direction)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(run_module, "worked", dies)
            run(tmp_path / str(stop_at), problems=problems)
        for name in ("trajectories.jsonl", "rejected.jsonl"):
            with open(tmp_path / str(stop_at) / name, "a") as file:
                file.write('{"problem_id": "p6", "torn')
        assert run(tmp_path / str(stop_at), problems=problems) == whole


class Poor(Teacher):
    """One with a budget of so many calls; what was answered before comes from `known`, free, as the ledger gives it."""

    def __init__(self, calls, known, **said):
        super().__init__(**said)
        self.calls, self.known = calls, known

    def reply(self, text, schema, sample):
        if (text, sample) not in self.known:
            if self.calls == 0:
                raise BudgetError("could exceed distill.max_usd")
            self.calls -= 1
            self.known[text, sample] = super().reply(text, schema, sample)
        return self.known[text, sample]


def test_a_spent_budget_leaves_what_was_kept_and_more_money_goes_on_from_there(tmp_path):
    known = {}
    with pytest.raises(BudgetError):
        run(tmp_path, Poor(3, known))  # nothing at all was kept
    poor, kept, _ = run(tmp_path, Poor(20, known))
    assert poor["partial"] and 0 < len(kept) == poor["problems_done"] < 6
    rich = Poor(100, known)
    summary, kept, _ = run(tmp_path, rich)
    assert "partial" not in summary and len(kept) == 6 and len(known) == 24
    assert set(rich.asked.values()) == {1} and len(rich.asked) == 24 - 23, "a call was asked twice"


def test_when_time_is_up_no_further_problem_is_begun_and_more_time_goes_on_from_there(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "AT_ONCE", 1)

    class Slow(Teacher):
        async def __call__(self, messages, sampling, schema):
            await asyncio.sleep(0.02)
            return await super().__call__(messages, sampling, schema)

    def summary(teacher, hours):
        part = Distill(min_score=None)
        return asyncio.run(distill_all(PROBLEMS, Teaching(teacher, "toy"), part, tmp_path, hours=hours))

    first = summary(Slow(), 0.05 / 3600)
    assert first["out_of_time"] and first["partial"] and 0 < first["problems_done"] < 6
    again = Slow()
    whole = summary(again, None)
    assert whole["problems_kept"] == 6 and "partial" not in whole
    assert len(again.asked) == 2 * (6 - first["problems_done"]), "what was done was not asked again"


def test_with_a_spent_budget_what_needs_no_further_call_is_still_done(tmp_path):
    known = {}
    run(tmp_path / "first", Poor(1000, known), PROBLEMS[1:])
    summary, kept, _ = run(tmp_path / "second", Poor(0, known))
    assert summary["partial"] and {made.problem_id for made in kept} == {one.id for one in PROBLEMS[1:]}


class Silent(Teacher):
    """One who cannot answer some problems."""

    def __init__(self, problems, **said):
        super().__init__(**said)
        self.problems = problems

    def reply(self, text, schema, sample):
        if any(one.question in text for one in self.problems):
            self.asked[text, sample] = 1
            raise UnansweredError("one request failed 12 times")
        return super().reply(text, schema, sample)


def test_a_problem_that_cannot_be_answered_is_left_out_and_the_others_are_done(tmp_path):
    summary, kept, rejected = run(tmp_path, Silent(PROBLEMS[2:3]))
    assert len(kept) == 5 and rejected == [] and not summary.get("partial")
    assert "1 left out (the teacher could not answer: one request failed 12 times)" in summary["line"]
    summary, kept, _ = run(tmp_path, Teacher())
    assert len(kept) == 6 and "left out" not in summary["line"]


def test_a_teacher_that_answers_nobody_is_the_end_before_all_are_asked(tmp_path):
    problems = [Problem(id=str(n), question=f"What is {n}, roughly?", answer=str(n)) for n in range(400)]
    teacher = Silent(problems)
    with pytest.raises(UnansweredError, match="12 times.*kept"):
        run(tmp_path, teacher, problems)
    assert len(teacher.asked) <= AT_ONCE + 20
    with pytest.raises(UnansweredError, match="12 times"):
        run(tmp_path / "few", teacher, problems[:2])


def test_many_problems_are_worked_on_at_once(tmp_path):
    asking = most = 0

    async def ask(messages, sampling, schema):
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0.05)
        asking -= 1
        return [Reply(text="")] * sampling.n

    problems = [Problem(id=str(n), question=f"What is {n}?", answer=str(n)) for n in range(300)]
    asyncio.run(distill_all(problems, Teaching(ask, "toy"), Distill(plans=1), tmp_path))
    assert most == AT_ONCE


def test_rows_of_a_half_written_problem_are_made_again_once(tmp_path):
    run(tmp_path, Teacher())
    done = tmp_path / "distilled.jsonl"
    done.write_text("".join(done.read_text().splitlines(keepends=True)[:-1]))
    _, kept, _ = run(tmp_path, Teacher())
    assert len(kept) == 6


def test_what_is_done_is_not_asked_again(tmp_path):
    run(tmp_path, Teacher())
    teacher = Teacher()
    run(tmp_path, teacher)
    assert teacher.asked == {}


def test_worked_solutions_need_no_teacher_and_are_not_scored(tmp_path):
    steps = ("There are 1 + 2 = 3 buns in all.", "That is 3 / 2 = 1.5 buns a child.")
    problems = [
        Problem(id="a", question="Share 1 and 2 among 2?", answer="1.5", steps=steps),
        Problem(id="b", question="Why?", answer="because"),
    ]
    summary, kept, rejected = run(tmp_path, None, problems)
    assert kept[0].plan == ("Add to find the buns in all.", "Divide to find the buns a child.")
    assert kept[0].score is None, "nobody scored it"
    assert [made.reason for made in rejected] == ["no worked solution"] and "worked" in summary["line"]


CODE = Problem(
    id="c",
    question='def half(x):\n    """Half of x."""\n',
    answer="    return x / 2\n",
    solution="    return x / 2\n",
    kind="code",
)


def test_programs_are_refused_where_nobody_may_run_them(tmp_path):
    with pytest.raises(PlantuneError, match="1 of the 1 problems .* evaluate.allow_code=true"):
        run(tmp_path, Teacher(), [CODE])


def passes(problem, text):
    """Stands for the sandbox, which has tests of its own."""
    if "```" not in text:
        return Verdict(same=None, how="no program in the reply")
    return Verdict(same="x / 2" in text, how="ran")


def programmer(*executions):
    """A teacher whose executions of the plans are these, one after another."""
    said = iter(executions)

    async def ask(messages, sampling, schema):
        text = messages[1]["content"]
        if schema is not None:
            reply = json.dumps({"reasons": "r", "score": 90})
        elif "following the plan" in text:
            reply = next(said)
        else:
            reply = "1. Divide it by two."
        return [Reply(text=reply)] * sampling.n

    return ask


def test_a_program_is_kept_where_it_passes_and_rejected_with_what_came_of_it(tmp_path):
    ask = programmer("It is x.", "```python\ndef half(x): return x\n```", "```python\ndef half(x): return x / 2\n```")
    asyncio.run(distill_all([CODE], Teaching(ask, "toy"), Distill(), tmp_path, passes))
    [kept] = read_records(Trajectory, tmp_path / "trajectories.jsonl")
    rejected = read_records(Rejected, tmp_path / "rejected.jsonl")
    assert [(made.reason, made.detail) for made in rejected] == [
        ("no answer in the execution", "no program in the reply"),
        ("wrong answer", "ran"),
    ]
    assert kept.answer == CODE.answer and [made.answer for made in rejected] == [None, None]


def test_the_data_sets_own_program_follows_its_plan_as_a_whole_one(tmp_path):
    part = Distill(plan_from="solution")
    asyncio.run(distill_all([CODE], Teaching(programmer(), "toy"), part, tmp_path, passes))
    [kept] = read_records(Trajectory, tmp_path / "trajectories.jsonl")
    assert kept.execution == f"```python\n{CODE.question}{CODE.answer}```"


def test_no_reply_is_a_reason_and_not_a_crash(tmp_path):
    class Blocked(Teacher):
        def reply(self, text, schema, sample):
            return Reply(text="", finish="blocked")

    _, kept, rejected = run(tmp_path, Blocked(), plans=2)
    assert kept == [] and [made.reason for made in rejected] == ["no plan in the reply"] * 12
