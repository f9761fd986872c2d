"""A judge of plans in use: it stays with its weights, weak plans are drawn again, and what that is worth is measured.

The student is a tiny one that writes one of two plans, of which only one comes out right.
"""

import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner
from grpo_child import load as learner
from hypothesis import given
from hypothesis import strategies as st
from manifests import mark
from taught import taught

from plantune_lite import plan
from plantune_lite.cli.main import cli
from plantune_lite.evaluate import ask, modes
from plantune_lite.evaluate.answers import Asking
from plantune_lite.files import read_jsonl, write_records
from plantune_lite.lab.probes import resample, resample_run, saved_judge
from plantune_lite.lab.probes.run import probe_run
from plantune_lite.lab.probes.saved_judge import judge_of, keep
from plantune_lite.recipe.load import load_recipe, override, to_json
from plantune_lite.report.page import write_report
from plantune_lite.types import Problem, Reply, RunError, Sampling, Score

GOOD, BAD = (plan.render([f"Add {word}."], f"\\boxed{{{answer}}}") for word, answer in (("them up", 7), ("none", 8)))
TRIES = 10  # plans, of which a third are good, and never the likeliest


def problems(name, count):
    first = {"own": 10, "other": 60, "new": 80}[name]
    numbers = range(first, first + count)
    return [Problem(id=f"{name}/{n}", question=f"What is {n} and {97 * n % 89}?", answer="7") for n in numbers]


def quiet(line):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose model has learned both plans, with problems to probe and test it on."""
    run = tmp_path_factory.mktemp("runs") / "mine"
    base = taught(run / "base", [(plan.ask_plainly(one), (GOOD, BAD, BAD)) for one in problems("own", 16)])
    learner(base).save(run / "sft")
    settings = [f"student.model={base}", "student.bits=32", "student.lora_rank=4", "name=mine"]
    recipe = override(load_recipe("smollm2_135m"), [*settings, "evaluate.max_tokens=48"])
    (run / "recipe.json").write_text(to_json(recipe), encoding="utf-8")
    mark(run, final="sft")
    write_records(run / "problems" / "own.jsonl", problems("own", 40))
    write_records(run / "suites" / "own.jsonl", problems("own", 40)[:20])
    write_records(run / "suites" / "other.jsonl", [*problems("other", 12), *problems("own", 40)[:2]])
    return run


@pytest.fixture(scope="module")
def probed(trained):
    """The run with its judge."""
    return trained, probe_run(trained, samples=4, say=quiet)


@pytest.fixture(scope="module")
def measured(probed):
    """What drawing weak plans again is worth, and what was said of it."""
    said = []
    return resample_run.resample_run(probed[0], tries=TRIES, say=said.append), said


# --- the judge --------------------------------------------------------------------------------------------------------


def test_a_model_whose_plans_decide_the_answer_is_known_to_know_it(probed):
    _, found = probed
    plans_found = found["plans"]
    assert 0.1 < plans_found["right"] < 0.8 and plans_found["auroc"]["value"] > 0.95
    assert plans_found["resampled"]["probe"]["value"] > plans_found["resampled"]["plain"]["value"]


def test_a_judge_that_was_kept_judges_as_before_and_knows_what_it_was_fitted_on(probed):
    run, found = probed
    kept, asked = judge_of(run), problems("own", 40)
    _, _, loaded = ask.final_student(run, quiet)
    planned = [
        (*plan.ask_plainly(asked[0]), {"role": "assistant", "content": text.partition("\\boxed")[0].rstrip()})
        for text in (GOOD, BAD)
    ]
    good, bad = kept.judge.scores(loaded, planned)
    assert good > 0 > bad
    reported = set(found["plans"]["reported_on"])
    assert reported < {one.id for one in asked[:20]}, "what is tested on is fitted on last"
    assert len(reported) == 8 and [not kept.knows(one) for one in asked] == [one.id in reported for one in asked]
    renamed = Problem(id="x", question=next(one for one in asked if kept.knows(one)).question.upper(), answer="7")
    assert kept.knows(renamed)
    keep(run, kept.judge, fitted_on=[one for one in asked if kept.knows(one)], plan_is_all=False)
    assert judge_of(run).identity == kept.identity, "what is kept is what was read"


def test_a_judge_of_other_weights_is_refused(probed, tmp_path):
    run = tmp_path / "mine"
    shutil.copytree(probed[0], run)
    (run / "sft" / "adapter_model.safetensors").write_bytes(b"trained once more")
    with pytest.raises(RunError, match="belongs to other weights .*sft:.* plantune probe"):
        judge_of(run)
    with pytest.raises(RunError, match="other weights"):
        ask.ask_student(run, "What is 1?", resample=2, say=quiet)


def test_a_file_that_is_no_judge_and_a_run_without_one_are_sentences(trained, tmp_path):
    run = tmp_path / "mine"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("probe"))
    done = CliRunner().invoke(cli, ["ask", str(run), "What is 1?", "--resample", "2"])
    assert isinstance(done.exception, RunError) and "has no judge of plans; plantune probe" in str(done.exception)
    with pytest.raises(RunError, match="has no judge of plans"):
        resample_run.resample_run(run, tries=2)
    (run / "probe").mkdir()
    (run / "probe" / "judge.json").write_text('{"layer": 1}', encoding="utf-8")
    with pytest.raises(RunError, match="judge.json is not a judge of plans .*plantune probe .* makes a new one"):
        judge_of(run)
    with pytest.raises(RunError, match="has no trained model yet"):
        saved_judge.judged(tmp_path / "nowhere", tries=2)


# --- ask --------------------------------------------------------------------------------------------------------------


def test_ask_draws_weak_plans_again_and_says_how_many_and_how_they_were_judged(probed):
    run, _ = probed
    questions = [one.question for one in problems("new", 3)]
    found = [ask.ask_student(run, one, resample=20, say=quiet)[0] for one in questions]
    once = [ask.ask_student(run, one, say=quiet)[0] for one in questions]
    assert all(one.drawn[-1] >= 0 and all(score < 0 for score in one.drawn[:-1]) for one in found)
    assert {one.answer for one in found} == {"7"} and {one.answer for one in once} == {"8"}
    assert all(one.drawn == () for one in once)
    for again, first in zip(found, once, strict=True):
        assert len(again.drawn) > 1 and again.tokens > first.tokens, "what is thrown away counts"


def test_the_command_shows_the_scores(probed):
    done = CliRunner().invoke(cli, ["ask", str(probed[0]), "What is 3?", "--resample", "4"], catch_exceptions=False)
    assert done.exit_code == 0 and " drawn, judged " in done.stdout and "(below 0 is weak)" in done.stdout
    found = replace(ask.taken_apart("m", "m1", Reply(text="x")), drawn=(-0.5, None, 1.25))
    assert list(ask.lines(found))[1] == ("3 plans drawn, judged -0.50, no plan, +1.25 (below 0 is weak)")


# --- drawing ----------------------------------------------------------------------------------------------------------


class Says:
    """A student that says what it is told to, in turn; a judge that likes plans with `up`."""

    def __init__(self, *texts):
        self._texts = iter(texts)

    def generate(self, prompts, sampling):
        return [[next(self._texts)] for _ in prompts]

    def scores(self, student, planned):
        return [1.0 if "up" in messages[-1]["content"] else -1.0 for messages in planned]


def drawn(student, tries, max_tokens=50):
    told = []
    generate = resample.resampling(student, student, tries=tries, tell=told.append)
    [[reply]] = generate([plan.chat("a")], Sampling(max_tokens=max_tokens))
    return reply, told


def test_a_reply_without_a_plan_is_a_weak_one_and_the_reply_where_nothing_better_comes():
    no, weak = Reply(text="It is 8.", tokens_out=5), Reply(text="<plan>\n1. Add.\n", tokens_out=9)
    rest = Reply(text="\\boxed{7}", tokens_out=4)
    reply, told = drawn(Says(no, weak, rest), 2)
    assert (reply.text, reply.tokens_out) == ("<plan>\n1. Add.\n</plan>\n\\boxed{7}", 18) and told == [[None, -1.0]]
    reply, told = drawn(Says(no, no), 2)
    assert (reply.text, reply.tokens_out) == ("It is 8.", 10) and told == [[None, None]]
    cut = Reply(text="<plan>\n1. Add up and", finish="length", tokens_out=50)
    assert drawn(Says(cut), 1) == (cut, [[None]])


@pytest.mark.parametrize(("all_of_it", "stop"), [(True, ()), (False, (plan.CLOSE,))])
def test_nothing_follows_a_plan_that_is_all_that_is_wanted(all_of_it, stop):
    weak, good = (Reply(text=f"<plan>\n1. Add{how}.\n", tokens_out=9) for how in ("", " up"))
    student = Says(weak, good)
    generate = resample.resampling(student, student, tries=2, plan_is_all=all_of_it)
    [[reply]] = generate([plan.chat("a")], Sampling(max_tokens=50, stop=stop))
    assert (reply.text, reply.tokens_out, reply.finish) == ("<plan>\n1. Add up.\n</plan>", 18, "stop")


def test_no_reply_is_longer_than_a_reply_may_be(probed):
    _, _, loaded = ask.final_student(probed[0], quiet)
    asked = [plan.ask_plainly(one) for one in problems("new", 3)]
    whole = modes.way_to_answer("m1", loaded.generate, [], Asking())[0](problems("new", 3), Sampling())
    longest = max(reply.tokens_out for _, [reply] in whole)
    generate = resample.resampling(loaded, judge_of(probed[0]).judge, tries=1)
    for most in (longest - 3, longest):
        ways = (way(asked, Sampling(max_tokens=most)) for way in (generate, loaded.generate))
        for [again], [plain] in zip(*ways, strict=True):
            assert (again.text, again.finish, again.tokens_out) == (plain.text, plain.finish, plain.tokens_out)


@given(st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=5), min_size=1, max_size=8), st.floats(1, 300))
def test_votes_cost_no_more_than_their_budget_except_for_the_first_of_each_problem(lengths_P_n, budget):
    found = resample.voters(lengths_P_n, budget, lambda one: one)
    spent = 0
    for number, (some, lengths) in enumerate(zip(found, lengths_P_n, strict=True), 1):
        assert some and some == lengths[: len(some)]
        spent += sum(some)
        assert len(some) == 1 or spent <= number * budget + 1e-6


def test_what_one_problem_leaves_of_its_budget_the_next_one_has():
    found = resample.voters([[10] * 4] * 4, 15.0, lambda one: one)
    assert list(map(len, found)) == [1, 2, 1, 2]
    assert list(map(len, resample.voters([[10] * 4] * 4, 30.0, lambda one: one))) == [3] * 4


# --- what it is worth -------------------------------------------------------------------------------------------------


def scores_of(mode, rows, tokens):
    """Scores from answers, problem by problem."""
    return [
        Score(
            problem_id=f"p/{number}",
            sample=sample,
            mode=mode,
            text="",
            prediction=said,
            gold="7",
            same=said == "7",
            how="",
            tokens=tokens,
        )
        for number, answers in enumerate(rows)
        for sample, said in enumerate(answers)
    ]


def test_the_four_ways_are_compared_on_the_same_problems_at_the_tokens_they_took():
    found = resample_run.compared(
        {
            "judged": scores_of("judged", ["7", "7", "7", "8"], 60),
            "one": scores_of("one", ["7", "8", "8", "8"], 20),
            "drawn": scores_of("drawn", ["787", "778", "887", "898"], 20),
        },
        [Problem(id=f"p/{number}", question="?", answer="7") for number in range(4)],
        seed=0,
    )
    ways = {name: (round(one["value"], 3), one["tokens"]) for name, one in found["ways"].items()}
    assert ways == {"judged": (0.75, 60), "one": (0.25, 20), "plain": (0.417, 20), "majority": (0.5, 60)}
    minus = found["judged_minus"]
    assert found["votes"] == 3 and (minus["one"]["won"], minus["one"]["lost"]) == (2, 0)
    assert minus["majority"]["difference"]["value"] == 0.25


def test_a_run_is_measured_on_problems_that_its_judge_was_not_fitted_on(probed, measured):
    run, (found, said) = probed[0], measured
    kept = judge_of(run)
    for name, suite in (("own", problems("own", 40)[:20]), ("other", [*problems("other", 12), *problems("own", 2)])):
        unknown = [one.id for one in suite if not kept.knows(one)]
        files = sorted((run / "probe" / "resampled").glob(f"{name}.*.jsonl"))
        assert [file.name.split(".")[1] for file in files] == [f"drawn{TRIES}", f"judged{TRIES}", "one"]
        rows = [row for file in files for row in read_jsonl(file)]
        assert {row["problem_id"] for row in rows} == set(unknown)
        assert {mode: sum(row["mode"] == mode for row in rows) for mode in ("judged", "one", "drawn")} == {
            "judged": len(unknown),
            "one": len(unknown),
            "drawn": TRIES * len(unknown),
        }
        left_out = len(suite) - len(unknown)
        assert found["suites"][name]["left_out"] == left_out and found["suites"][name]["problems"] == len(unknown)
    assert sum("problems are left out: the judge was fitted on them" in line for line in said) == 2


def test_a_judge_that_knows_makes_a_model_better_than_its_own_draws(measured):
    ways = measured[0]["suites"]["other"]["ways"]
    assert ways["judged"]["value"] > 0.75 > ways["plain"]["value"]
    assert ways["judged"]["tokens"] > ways["plain"]["tokens"]
    assert abs(ways["majority"]["tokens"] - ways["judged"]["tokens"]) < ways["plain"]["tokens"]
    assert resample_run.as_text(measured[0]).startswith(f"up to {TRIES} plans")
    assert [row[0] for row in resample_run.rows(measured[0])] == ["other, 12"] * 4 + ["own, 8"] * 4


def test_what_was_answered_is_not_asked_again(probed, measured):
    file = probed[0] / "probe" / "resampled" / f"other.drawn{TRIES}.jsonl"
    whole = file.read_bytes()
    assert resample_run.resample_run(probed[0], tries=TRIES, say=quiet) == measured[0] and file.read_bytes() == whole
    kept = b"".join(whole.splitlines(keepends=True)[:-7])
    file.write_bytes(kept + b'{"torn')
    resample_run.resample_run(probed[0], tries=TRIES, say=quiet)
    assert file.read_bytes().startswith(kept) and file.read_bytes().count(b"\n") == whole.count(b"\n")


def test_the_report_shows_what_drawing_weak_plans_again_is_worth(probed, measured):
    write_report(probed[0])
    page = (probed[0] / "report.html").read_text(encoding="utf-8")
    assert "weak plans drawn again" in page and "judged minus it" in page and "will the answer be right?" in page


def test_a_run_whose_test_problems_the_judge_all_knows_says_what_to_do(probed, tmp_path):
    run = tmp_path / "mine"
    shutil.copytree(probed[0], run)
    kept = judge_of(run)
    (run / "suites" / "other.jsonl").unlink()
    write_records(run / "suites" / "own.jsonl", [one for one in problems("own", 40) if kept.knows(one)])
    with pytest.raises(
        RunError, match="no suite has 5 problems that are new to the judge.*problems.held_out, evaluate.limit"
    ):
        resample_run.resample_run(run, tries=2, say=quiet)


def test_another_model_has_no_judge(trained):
    done = CliRunner().invoke(cli, ["evaluate", str(trained), "--model", "x", "--resample", "2"])
    assert done.exit_code == 2 and "--resample is for the run's own model" in done.output


def test_the_command_makes_the_test_problems_and_says_which_verb_comes_first(tmp_path):
    settings = ["problems.limit=20", "evaluate.suites=own", "evaluate.limit=5", "--to", str(tmp_path / "mine")]
    done = CliRunner().invoke(cli, ["evaluate", "smollm2_135m", *settings, "--resample", "4"])
    assert isinstance(done.exception, RunError) and "has no trained model yet; plantune train" in str(done.exception)
    assert len(list(read_jsonl(tmp_path / "mine" / "suites" / "own.jsonl"))) == 5
