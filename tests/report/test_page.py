import asyncio
import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest
from browser import counting, hostile, looked_at

from plantune_lite import GRPO, Corpus, Distill
from plantune_lite.distill import corpus
from plantune_lite.distill.run import distill_all
from plantune_lite.files import read_jsonl, write_records, write_whole
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.load import load_recipe, override, to_json
from plantune_lite.report.page import write_report
from plantune_lite.types import PlantuneError, Score

chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
HOSTILE = '</pre><script>document.title="owned"</script><img src="//evil.example/x.png"> \x1b[2J'
PROBLEMS = list(practice_problems("train", seed=0, limit=12))
TESTED = list(practice_problems("test", seed=0, limit=10))


def answered(problem, right, text, mode):
    return Score(
        problem_id=problem.id,
        sample=0,
        mode=mode,
        text=text,
        prediction=problem.answer if right else "0",
        gold=problem.answer,
        same=right,
        how="same text",
        finish="stop",
        tokens=9,
        seconds=0.1,
    )


@pytest.fixture
def run(tmp_path):
    """A run folder as its stages leave it, without the hours."""
    run = tmp_path / "mine"
    write_whole(run / "recipe.json", to_json(replace(load_recipe("smollm2_135m"), grpo=GRPO())))
    asyncio.run(distill_all(PROBLEMS, None, Distill("worked"), run))
    trajectories = [row for row in map(json.loads, (run / "trajectories.jsonl").read_text().splitlines())]
    trajectories[0]["execution"] += HOSTILE
    write_records(run / "trajectories.jsonl", trajectories)
    from plantune_lite.files import from_row
    from plantune_lite.types import Trajectory

    rows = [from_row(Trajectory, row) for row in trajectories[1:]]
    wanted = corpus.Wanted(Corpus(filter="answer", validation=0.0))
    corpus.build_corpus(rows, PROBLEMS, {}, wanted, run / "corpus")
    write_records(run / "suites" / "own.jsonl", TESTED)
    untuned = [answered(one, n < 2, "I guess.", "zero_shot_cot") for n, one in enumerate(TESTED)]
    tuned = [answered(one, n > 0, f"<plan>\n1. Think.\n</plan>\n{HOSTILE}", "m1") for n, one in enumerate(TESTED)]
    write_records(run / "eval" / "own.untuned.jsonl", untuned)
    write_records(run / "eval" / "own.m1.jsonl", tuned)
    use = {"problems": 10, "won": 6, "lost": 1, "p": 0.04, "difference": {"value": 0.5, "low": 0.1, "high": 0.8}}
    share = {"problems": 10, "value": 0.9, "low": 0.6, "high": 0.98}
    found = {"line": "...", "conditions": {"own": share, "swapped": share}, "own_minus": {"swapped": use}}
    found["planned_anyway"] = 59 / 60
    write_whole(run / "eval" / "interventions" / "own.m1.summary.json", json.dumps(found))
    metrics = [{"stage": "sft", "step": n, "seconds": n, "loss": 2 / n, "token_accuracy": 0.5} for n in range(1, 9)]
    metrics += [{"stage": "grpo", "step": n, "seconds": n, "reward": n / 9, "right_answer": 0.5} for n in range(1, 9)]
    write_records(run / "metrics.jsonl", metrics)
    stages = {
        "distill": {"status": "done", "seconds": 3.0, "summary": {"line": "12 plans", "usd": 0.25}},
        "sft": {"status": "done", "seconds": 70.0, "summary": {"line": "8 steps"}},
        "grpo": {"status": "done", "seconds": 0.0, "summary": {"line": "8 steps", "rewards": {"right_answer": [0, 1]}}},
    }
    manifest = {
        "format": 1,
        "created": "2026-11-21",
        "versions": {"python": "3.12"},
        "device": "a card",
        "stages": stages,
    }
    write_whole(run / "manifest.json", json.dumps(manifest))
    return run


class Seen(HTMLParser):
    """Every tag with its attributes, and the words of the page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def seen(run):
    summary = write_report(run)
    return summary, Seen((run / "report.html").read_text(encoding="utf-8"))


def test_the_page_begins_with_who_is_better_and_whether_the_plan_does_the_work(run):
    summary, page = seen(run)
    words = " ".join(page.words)
    assert "m1 is better than untuned at its best prompt" in summary.line and summary.line[13:] in words
    order = ["is better than untuned", "Right answers on own", "Does the plan do the work?", "Won and lost"]
    order += ["From problems to rows", "Training", "kept plans", "Time and money", "To make it again"]
    places = [words.index(title) for title in order]
    assert places == sorted(places)
    assert "+50.0 points" in words and "the plan of another problem" in words


def test_first_the_scores_are_a_picture_and_one_problem_is_shown_that_only_the_plan_solves(run):
    solved_alone = [answered(one, n < 3, f"Straight on {n}.", "plain") for n, one in enumerate(TESTED)]
    write_records(run / "eval" / "own.baseline.jsonl", solved_alone)
    _, page = seen(run)
    words = " ".join(page.words)
    first = words[: words.index("Right answers on own")]
    assert "own: right answers, with 95 % intervals" in first and "chosen to need planning" in first
    shown = first[first.index("One problem, without a plan and with one") :]
    assert TESTED[3].question in shown and "baseline: 0" in shown and f"m1: {TESTED[3].answer}" in shown
    assert "Straight on 3." in shown and "Straight on 4." not in shown


def test_a_student_that_planned_though_it_was_given_an_empty_plan_is_told_of(run):
    assert "given an empty plan, 98.3 % wrote one themselves." in " ".join(seen(run)[1].words)


def test_nothing_is_loaded_run_or_read_as_markup_whatever_a_model_wrote(run):
    _, page = seen(run)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "link", "iframe", "object", "a")]
    assert not [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    policy = next(at["content"] for tag, at in page.tags if at.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert 'document.title="owned"' in " ".join(page.words) and "\x1b" not in "".join(page.words)


def test_what_was_won_and_what_was_lost_is_counted_and_shown_side_by_side(run):
    _, page = seen(run)
    words = " ".join(page.words)
    assert "Won by m1: 8 on own" in words and "Lost by m1: 1 on own" in words
    assert TESTED[0].question in words and "I guess." in words


def test_of_several_samples_what_is_won_is_what_is_right_more_often(run):
    right = {0: ((1, 1, 0), (0, 1, 1)), 1: ((0, 1, 1), (1, 0, 0)), 2: ((1, 0, 0), (0, 1, 1))}  # untuned, tuned
    for number, (model, mode) in enumerate((("untuned", "zero_shot_cot"), ("m1", "m1"))):
        rows = [
            replace(answered(TESTED[place], bool(same), f"{model} {place}.{sample}", mode), sample=sample)
            for place, samples in right.items()
            for sample, same in enumerate(samples[number])
        ]
        write_records(run / "eval" / f"own.{model}.jsonl", rows)
    summary, page = seen(run)
    words = " ".join(page.words)
    assert "1 won, 1 lost" in summary.line
    assert "Won by m1: 1 on own" in words and "Lost by m1: 1 on own" in words
    won = words[words.index("Won by m1") : words.index("Lost by m1")]
    assert TESTED[2].question in won and "m1 2.1" in won and "untuned 2.1" in won
    assert f"m1: {TESTED[2].answer}, right in 2 of 3" in won and "untuned: 0, right in 1 of 3" in won


def test_time_and_money_add_up_and_the_recipe_is_there_to_be_run_again(run, tmp_path):
    _, page = seen(run)
    words = " ".join(page.words)
    assert "1 min 13 s" in words and "$0.25" in words
    again = next(word for word in page.words if word.lstrip().startswith('{\n "name"') or '"problems": {' in word)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "recipe.json").write_text(again, encoding="utf-8")
    assert asdict(load_recipe(tmp_path / "again")) == asdict(replace(load_recipe("smollm2_135m"), grpo=GRPO()))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["grpo=default"], "trained by SFT and GRPO."),
        (["grpo=default", "grpo.start=base"], "trained by GRPO from base."),
        (["grpo=default", "grpo.start=older"], "trained by GRPO from older."),
        (["grpo=default", "sft.start=older"], "trained by SFT from older and GRPO."),
    ],
)
def test_a_training_is_named_where_the_model_has_been_through_it(run, settings, said):
    recipe = override(load_recipe("smollm2_135m"), settings)
    write_whole(run / "recipe.json", to_json(recipe))
    write_report(run)
    assert said in (run / "report.html").read_text()


def charts_of(run):
    return {path.stem for path in (run / "figures").glob("*.svg")}


def test_charts_lie_beside_it_as_files(run):
    write_report(run)
    assert {"scores_own", "sft_loss", "sft_accuracy", "grpo_reward", "grpo_parts"} <= charts_of(run)
    for path in (run / "figures").iterdir():
        assert path.read_text(encoding="utf-8").startswith("<svg")


def test_what_a_search_left_to_be_shown_is_shown_as_data(run):
    write_whole(run / "cpl" / "loss.svg", "<svg><title>loss by round</title></svg>")
    shown = {
        "title": "What the search found",
        "sentences": [f"Round 1: {HOSTILE}"],
        "tables": [{"columns": ["", "round 1"], "rows": [["trees", "8"], [HOSTILE, "<b>"]]}],
        "charts": ["loss.svg"],
        "folded": [{"title": f"A tree: {HOSTILE}", "text": f"+1.00 1. Count.\n{HOSTILE}"}],
    }
    write_whole(run / "cpl" / "section.json", json.dumps(shown))
    _, page = seen(run)
    words = "".join(page.words)
    assert "loss by round" in words and "+1.00 1. Count.\n" in words and "trees" in page.words
    assert words.count('document.title="owned"') >= 4 and not [tag for tag, _ in page.tags if tag in ("script", "img")]
    assert words.index("Training") < words.index("What the search found") < words.index("kept plans")


def test_steps_that_begin_anew_each_round_are_no_curve_of_the_report_s_own(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    again = [{"stage": "cpl", "round": number, "step": 1, "seconds": 1, "loss": 9.0} for number in (1, 2)]
    write_report(run)
    before = charts_of(run)
    write_records(run / "metrics.jsonl", [*rows, *again])
    write_report(run)
    assert charts_of(run) == before and not any(name.startswith("cpl") for name in before)


def test_a_run_that_was_only_distilled_has_a_page_too(run):
    shutil.rmtree(run / "eval")
    (run / "metrics.jsonl").unlink()
    summary, page = seen(run)
    assert summary.line == "report.html: nothing was evaluated"
    assert "12 of 12 kept plans" in " ".join(page.words) or "10 of 12 kept plans" in " ".join(page.words)


@pytest.mark.parametrize("name", ["eval/own.m1.jsonl", "metrics.jsonl", "eval/interventions/own.m1.summary.json"])
def test_a_part_that_cannot_be_read_is_named_and_not_passed_over(run, name):
    with open(run / name, "a") as file:
        file.write('{"step": "one"}\n')
    with pytest.raises(PlantuneError, match=name):
        write_report(run)


def test_a_run_stopped_before_its_first_answer_was_whole_has_a_page_too(run):
    for file in (run / "eval").glob("*.jsonl"):
        file.write_text('{"problem_id": ')
    assert write_report(run).line == "report.html: nothing was evaluated"


@chromium
def test_a_browser_runs_and_loads_nothing_of_what_a_problem_a_plan_or_a_reply_holds(run, tmp_path):
    with counting() as (url, paths):
        texts = hostile(url)
        asked = [replace(one, question=f"{texts[n % 4]} {one.question}") for n, one in enumerate(TESTED)]
        write_records(run / "suites" / "own.jsonl", asked)
        for model, mode in (("untuned", "zero_shot_cot"), ("baseline", "plain"), ("m1", "m1")):
            rows = [answered(one, model == "m1" or n < 2, texts[n % 4], mode) for n, one in enumerate(asked)]
            said = [replace(one, text=f"<plan>\n1. {one.text}\n</plan>\n{one.text}") for one in rows]
            write_records(run / "eval" / f"own.{model}.jsonl", said)
        for name in ("trajectories.jsonl", "corpus/train.jsonl"):
            file = run / name
            write_records(
                file,
                [json.loads(json.dumps(row).replace("Add", json.dumps(texts[0])[1:-1])) for row in read_jsonl(file)],
            )
        _, page = seen(run)
        shown = looked_at(run / "report.html", tmp_path / "profile")
        assert paths == [] and "<title>owned" not in shown and "owned" in "".join(page.words)
        assert not [tag for tag, _ in page.tags if tag in ("script", "img", "iframe", "link", "object")]


@chromium
def test_a_browser_shows_it_on_a_phone_and_has_nothing_to_complain_of(run, tmp_path):
    write_report(run)
    shot = tmp_path / "shot.png"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,844"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0", "--force-dark-mode"]
    command += [f"--screenshot={shot}", (run / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not re.findall(r"CONSOLE.*|Refused to.*", done.stderr)
    assert shot.stat().st_size > 10_000
