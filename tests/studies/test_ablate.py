import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import toy_cpl
from toy_variants import HERE, RECIPE, REINFORCED, stages
from warm import warm_stages

from plantune_lite.distill import prompts
from plantune_lite.evaluate.compare import beside
from plantune_lite.evaluate.results import Arm
from plantune_lite.files import read_jsonl, write_records, write_whole
from plantune_lite.pipeline import runner
from plantune_lite.pipeline.mirror import Mirror, bring_back
from plantune_lite.plan import ask_plainly, render
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.load import load_recipe, override
from plantune_lite.runs.folder import LEDGER, STUDIES, RunFolder, home
from plantune_lite.runs.job import Job
from plantune_lite.runs.manifest import Summaries, read_manifest, write_manifest
from plantune_lite.student import chat
from plantune_lite.studies import definitions, page, reuse
from plantune_lite.studies.ablate import plan_study, run_study, study_cost
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.train import data, rewards, sft, stage
from plantune_lite.types import Problem, RecipeError, RunError, Score

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
SCORED = override(RECIPE, ["distill.teacher=gemini", "corpus.filter=both", "distill.execute=all"])
MIXED = override(RECIPE, ["problems.source=practice+gsm8k"])


@pytest.fixture(scope="module", autouse=True)
def warm():
    """Stages that start at once; those of a run that is killed start as a user's."""
    with warm_stages():
        yield


def toy(what, folder, recipe=RECIPE, lines=None, **options):
    say = [].append if lines is None else lines.append
    return run_study(what, recipe, to=folder, say=say, **{"stages": stages(), "seeds": 1, **options})


def variants(what, recipe):
    return {one.name: override(recipe, one.settings) for one in definitions.study(what, recipe).variants}


# --- which variants there are -----------------------------------------------------------------------------------------


def test_the_studies_are_those_whose_folders_hold_runs():
    assert tuple(definitions.STUDIES) == STUDIES


def test_a_filter_study_needs_scores_for_two_of_its_four():
    assert list(variants("filter", SCORED)) == ["unfiltered", "plan", "answer", "both"]
    assert list(variants("filter", RECIPE)) == ["unfiltered", "answer"]
    assert "These plans have no scores" in definitions.study("filter", RECIPE).notes[0]


def test_a_threshold_is_raised_from_the_recipe_s_own():
    found = variants("threshold", SCORED)
    scores = {name: one.corpus.min_score for name, one in found.items() if name != "unfiltered"}
    assert scores == {"80": 80, "85": 85, "90": 90, "95": 95}
    assert list(variants("threshold", override(SCORED, ["corpus.min_score=91"]))) == ["91", "95", "unfiltered"]
    assert all(one.distill == SCORED.distill for one in found.values()), "no variant may ask the teacher"


def test_a_threshold_stands_beside_no_threshold_where_low_scores_were_carried_out():
    assert variants("threshold", SCORED)["unfiltered"].corpus.filter == "answer"
    assert variants("threshold", override(SCORED, ["corpus.filter=plan"]))["unfiltered"].corpus.filter == "none"
    kept = definitions.study("threshold", override(SCORED, ["distill.execute=kept"]))
    assert "unfiltered" not in [one.name for one in kept.variants] and "distill.execute=all" in " ".join(kept.notes)


def test_no_verifier_is_asked_for_more_points_than_the_highest_threshold():
    assert "to 95 (" in prompts.SCORE
    with pytest.raises(RecipeError, match="threshold is 96 already, and a verifier is asked for 95 points at most"):
        definitions.study("threshold", override(SCORED, ["distill.min_score=96"]))


def test_the_targets_are_the_papers_arms_on_the_same_problems():
    found = variants("target", REINFORCED)
    arms = {name: (one.sft.target, one.sft.solutions) for name, one in found.items()}
    assert arms == {
        "baseline": ("solution", "dataset"),
        "control": ("solution", "teacher"),
        "m1": ("plan+solution", "teacher"),
        "m2": ("plan", "teacher"),
    }
    assert all(one.grpo is None and one.problems == REINFORCED.problems for one in found.values())
    assert all(one.sft.same_rows for one in found.values()), "what is too long for one is left out of all"


@pytest.mark.parametrize(("group", "shape"), [(6, (3, 2)), (8, (4, 2)), (12, (4, 3)), (5, (5, 1)), (2, (2, 1))])
def test_rewards_are_compared_at_the_same_number_of_samples(group, shape):
    guided = variants("reward", override(REINFORCED, [f"grpo.group={group}"]))["guided"].grpo
    assert (guided.plans, guided.continuations) == shape and guided.group == group


@pytest.mark.parametrize("settings", ["stable", "paper"])
def test_the_arms_of_a_reward_study_differ_in_what_their_plans_earn_and_in_nothing_else(settings):
    """Two plans, one that solves and one that spoils; the second reply is too long."""
    recipe = override(REINFORCED, [f"grpo.settings={settings}", "grpo.group=2"])
    row = {"prompt": list(ask_plainly(Problem(id="", question="What is 2 + 2, halved?", answer="2")))}
    row |= {"answer": "2", "plan": ["Add the numbers.", "Halve the sum."]}
    texts = [render(row["plan"], "\\boxed{2}"), render(["Get 3 + 4 = 7."], "\\boxed{7}")]
    columns = {name: [row[name]] * 2 for name in ("answer", "plan")} | {"completion_ids": [[1] * 10, [1] * 100]}
    earned = {}
    for name, variant in variants("reward", recipe).items():
        weighed = rewards.of(variant.grpo, [row], max_completion=100)
        each = [
            [weight * one for one in reward([row["prompt"]] * 2, texts, **columns)] for _, reward, weight in weighed
        ]
        earned[name] = [sum(parts) for parts in zip(*each, strict=True)]
    too_long = 0.5 if settings == "stable" else 0
    analytic = rewards.plan_softmax([1, 0])
    assert earned["answer"] == pytest.approx([2, -too_long])
    assert earned["alignment"] == pytest.approx([3, -too_long])
    assert earned["guided"] == pytest.approx([2 + analytic[0], analytic[1] - too_long])


def test_a_teacher_judges_only_where_there_is_one():
    server = override(REINFORCED, ["distill.teacher=http://127.0.0.1:1/v1", "distill.model=m"])
    assert list(variants("reward", REINFORCED)) == ["answer", "alignment", "guided"]
    assert list(variants("reward", server)) == ["answer", "alignment", "teacher", "guided"]
    assert variants("reward", server)["teacher"].grpo.judge == "teacher"


def test_a_preference_is_learned_in_four_ways_from_one_round():
    found = variants("preference", override(toy_cpl.RECIPE, ["grpo=default"]))
    assert {name: (one.cpl.pairs, one.cpl.alpha) for name, one in found.items()} == {
        "sft": ("none", 0.0),
        "instance-dpo": ("answers", 0.0),
        "step-dpo": ("steps", 0.0),
        "step-apo": ("steps", 2.0),
    }
    assert all(one.cpl.rounds == 1 and one.grpo is None for one in found.values())
    assert variants("preference", override(toy_cpl.RECIPE, ["cpl.alpha=0"]))["step-apo"].cpl.alpha == 1


def test_a_mixture_of_two_sources_is_each_alone_all_together_weighted_ordered_and_routed():
    found = definitions.study("mixture", MIXED).variants
    weights = {one.name: override(MIXED, one.settings).corpus.weights for one in found}
    assert weights == {
        "mixed": (),
        "only-practice": (1, 0),
        "only-gsm8k": (0, 1),
        "weighted": (2, 1),
        "one-by-one": (),
        "easy-first": (),
        "routed": (),
    }
    assert found[-1].routes == {"practice": "only-practice", "gsm8k": "only-gsm8k"}
    assert {override(MIXED, one.settings).problems for one in found} == {MIXED.problems}


def test_another_domain_is_trained_on_and_tested_on():
    found = variants("domain", RECIPE)
    assert list(found) == ["own", "strategyqa"] and found["strategyqa"].problems.source == "strategyqa"


def test_a_world_is_learned_from_plans_from_walks_and_from_both_and_each_is_probed():
    recipe = override(load_recipe("smollm2_135m_worlds"), ["problems.source=world:gripper_walks"])
    assert {name: one.problems.source for name, one in variants("world", recipe).items()} == {
        "planner": "world:gripper",
        "walks": "world:gripper_walks",
        "mixed": "world:gripper_mixed",
    }
    assert all(one.grpo is None for one in variants("world", recipe).values())


@pytest.mark.parametrize(
    ("what", "settings", "sentence"),
    [
        ("world", [], "problems.source is 'practice', which is not a world: set problems.source=world:blocksworld"),
        ("filter", ["distill.teacher=gemini"], "Set distill.execute=all"),
        ("threshold", [], "set distill.teacher to one that scores"),
        ("threshold", ["distill.teacher=gemini"], "set corpus.filter=both"),
        ("threshold", ["distill.teacher=gemini", "corpus.filter=both", "distill.min_score=95"], "distill.min_score=80"),
        ("reward", [], "add grpo=default"),
        ("reward", ["grpo=default", "sft.target=solution"], "set sft.target=plan[+]solution"),
        ("preference", [], "add cpl=default"),
        ("mixture", [], "problems.source=gsm8k[+]math"),
        ("target", ["sft=none"], "add sft=default"),
        ("targets", [], "did you mean 'target'"),
    ],
)
def test_what_a_recipe_cannot_be_asked_is_refused_with_the_override_that_mends_it(what, settings, sentence):
    with pytest.raises(RecipeError, match=sentence):
        definitions.study(what, override(RECIPE, settings))


# --- taking over ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run, and a study of it."""
    folder, lines = tmp_path_factory.mktemp("whole") / "r", []
    runner.run(RECIPE, to=folder, stages=stages(), say=lambda line: None)
    os.environ["TOY_ASKED"] = str(folder / "asked")
    found = toy("target", folder, lines=lines)
    del os.environ["TOY_ASKED"]
    return folder, found, lines


def test_what_a_variant_shares_with_its_run_is_not_made_again(whole):
    folder, _, lines = whole
    m1 = read_manifest(folder / "ablate" / "target" / "m1").stages
    assert [name for name in m1 if m1[name].taken_from] == ["problems", "suites", "distill", "corpus"]
    assert m1["corpus"].taken_from == os.path.join("..", "..", "..")
    baseline = read_manifest(folder / "ablate" / "target" / "baseline").stages
    assert [name for name in baseline if baseline[name].taken_from] == ["problems", "suites", "distill"]
    assert "taken over from r: problems, suites, distill, corpus" in lines


def test_the_untuned_model_is_asked_once(whole):
    folder, _, _ = whole
    asked = (folder / "asked").read_text().split("\n")
    assert "baseline m1" in asked and not [line for line in asked if line.startswith("untuned")]


def test_a_variant_is_whole_without_the_run_it_was_taken_from(whole, tmp_path):
    shutil.copytree(whole[0] / "ablate" / "target" / "control", tmp_path / "moved")
    lines = []
    wanted = load_recipe(tmp_path / "moved")
    runner.run(wanted, to=tmp_path / "moved", stages=stages(), say=lines.append)
    assert len(lines) == 6 and all("done before" in line for line in lines)


def test_nothing_is_taken_over_that_was_edited_or_made_otherwise(whole, tmp_path):
    (copied(whole, tmp_path) / "trajectories.jsonl").write_text("edited\n")
    other = override(RECIPE, ["sft.max_steps=3"])
    taken = reuse.take(tmp_path / "v", other, [tmp_path / "r"], stages(), runner.versions())
    assert list(taken) == ["problems", "suites", "corpus"]


def test_untuned_answers_of_other_versions_or_settings_are_not_taken_over(whole, tmp_path):
    for name, settings, versions in (
        ("same", ["sft.max_steps=3"], runner.versions()),
        ("settings", ["evaluate.max_tokens=77"], runner.versions()),
        ("versions", ["sft.max_steps=3"], {"torch": "0"}),
    ):
        reuse.take(tmp_path / name, override(RECIPE, settings), [whole[0]], stages(), versions)
        assert (tmp_path / name / "eval" / "own.untuned.jsonl").exists() == (name == "same")


# --- the whole --------------------------------------------------------------------------------------------------------


def test_a_study_ends_in_a_table_with_intervals(whole):
    folder, found, _ = whole
    rows = found.beside.rows
    assert [row.model for row in rows] == ["untuned", "baseline", "control", "m1", "m2"]
    assert rows[0].mode in ("few_shot", "zero_shot_cot") and {row.problems for row in rows} == {27}
    table = (folder / "ablate" / "target" / "table.md").read_text()
    assert "| m1 | 27 | " in table and "Holm" in table
    assert re.search(r"- own: baseline is (not better|better|worse) than untuned at its best prompt", table)
    made = json.loads((folder / "ablate" / "target" / "table.json").read_text())
    assert [(arm, cells["steps"]) for arm, cells in made["figures"].items()] == [
        ("baseline", "12"),
        ("control", "12"),
        ("m1", "12"),
        ("m2", "12"),
    ]


def test_not_better_is_said_before_better_and_each_is_compared_with_the_first(whole):
    comparisons, sentences = whole[1].beside.comparisons, whole[1].beside.sentences
    assert [(one.model, one.reference) for one in comparisons if not one.beside_untuned] == [
        ("control", "baseline"),
        ("m1", "baseline"),
        ("m2", "baseline"),
    ]
    better = ["is better than" in one for one in sentences if not one.startswith("own: baseline")]
    assert better == sorted(better) and sentences[0].startswith("own: control is not better than baseline: ")
    assert any(one.startswith("own: m2 is not better than untuned at its best prompt (") for one in sentences)
    assert any(one.startswith("own: m1 is better than untuned at its best prompt (") for one in sentences)


def test_a_study_that_is_done_does_nothing_and_says_the_same(whole):
    before = {path: path.read_text() for path in (whole[0] / "ablate" / "target").glob("table.*")}
    lines = []
    toy("target", whole[0], lines=lines)
    names = ("baseline", "control", "m1", "m2")
    assert lines[1:] == [f"({number} of 4) {name}: done before" for number, name in enumerate(names, 1)]
    assert {path: path.read_text() for path in before} == before


def test_the_cost_is_said_before_anything_is_done(tmp_path):
    asked, planned = plan_study("target", RECIPE, seeds=1, to=tmp_path / "r", stages=stages(), say=print)
    assert planned[0].to_do == ("problems", "suites", "distill", "corpus", "sft", "evaluate")
    assert planned[1].shared == dict.fromkeys(("problems", "suites", "distill"), "baseline")
    assert planned[1].to_do == ("corpus", "sft", "evaluate") and not (tmp_path / "r").exists()
    assert "4 runs, 15 stages to do" in study_cost(asked, planned)


def test_another_recipe_in_the_same_study_is_refused_before_anything_is_done(whole):
    with pytest.raises(RunError, match="sft.max_steps was 12 and is now 3") as caught:
        toy("target", whole[0], override(RECIPE, ["sft.max_steps=3"]))
    assert "name=OTHER" in str(caught.value) and "--again" not in str(caught.value)


@pytest.fixture(scope="module")
def mended(whole, tmp_path_factory):
    """A study of which a variant failed, and the same command again."""
    folder = copied(whole, tmp_path_factory.mktemp("mended"))
    broken = toy("filter", folder, stages=stages(sft="breaks"))
    page = (broken.folder / "table.md").read_text()
    return broken, page, toy("filter", folder)


def copied(whole, folder):
    """The run without its studies."""
    shutil.copytree(whole[0], folder / "r", ignore=shutil.ignore_patterns("ablate"))
    return folder / "r"


def test_a_variant_that_fails_is_named_and_the_others_go_on(mended):
    broken, page, whole = mended
    assert broken.failed == {"unfiltered": "the toy wants good plans. Give it some."}
    assert [row.model for row in broken.beside.rows] == ["untuned", "answer"]
    assert "unfiltered failed, and is not in the table: the toy wants good plans" in page
    assert whole.failed == {}, "mended, the same command resumes"


def test_a_study_of_nothing_but_failures_is_an_error(tmp_path):
    with pytest.raises(RunError, match="every variant of the study filter failed:\n  unfiltered: .*missing.csv"):
        toy("filter", tmp_path / "r", override(RECIPE, ["problems.path=missing.csv"]))


def test_without_a_key_no_two_teachers_stand_side_by_side(whole, tmp_path):
    manifest = read_manifest(copied(whole, tmp_path))
    manifest.stages["distill"].inputs["distill.teacher"] = "gemini"
    write_manifest(tmp_path / "r", manifest)
    gemini = override(RECIPE, ["distill.teacher=gemini", "distill.execute=all"])
    with pytest.raises(RunError, match="needs plans from Gemini that were not made yet: set GEMINI_API_KEY"):
        toy("filter", tmp_path / "r", gemini)


# --- one search for all -----------------------------------------------------------------------------------------------


def noted(what, folder, monkeypatch, **options):
    """A study of searches, and what was done in it, in its order."""
    with monkeypatch.context() as patch:
        patch.setenv("TOY_ASKED", str(folder / "asked"))
        found = toy(what, folder, toy_cpl.RECIPE, **{"stages": toy_cpl.stages(), **options})
    asked = (folder / "asked").read_text().split()
    (folder / "asked").unlink()
    return found, [word for word in asked if word in ("searched", "imitated", "preferred")]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A study of preferences: its folder, its outcome, and what was done in it."""
    folder = tmp_path_factory.mktemp("searched") / "r"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        return folder, *noted("preference", folder, patch, lines=lines), lines


def test_all_variants_learn_from_one_search_and_one_sft(searched):
    folder, found, done, lines = searched
    assert not found.failed and done[0] == "searched"
    assert [word for word in done if word != "searched"] == ["imitated", "preferred", "preferred", "preferred"]
    assert done.index("imitated") == done.count("searched"), "nobody searches after the first"
    rounds = [folder / "ablate" / "preference" / one.name / "cpl" / "round1" for one in found.study.variants]
    for name in ("trees.jsonl", "search.json", "rows.jsonl", "sft/adapter_model.safetensors"):
        assert len({(one / name).read_bytes() for one in rounds}) == 1
    assert len({(one / "pairs.jsonl").read_bytes() for one in rounds[:3]}) == 3
    adapters = {(one.parent / "adapter_model.safetensors").read_bytes() for one in rounds}
    assert len(adapters) == 4, "each has learned something else"
    assert lines.count("taken over from sft: problems, suites, distill, corpus, sft, search of cpl, sft of cpl") == 1
    figures = list(read_jsonl(rounds[3].parents[1] / "metrics.jsonl"))
    assert (
        [row["step"] for row in figures if "sft_loss" in row]
        == [1, 2]
        == [row["step"] for row in figures if "apo_loss" in row]
    )


@pytest.mark.parametrize(
    ("setting", "taken"),
    [
        ("cpl.beta=0.1", True),
        ("cpl.rounds=2", True),
        ("cpl.iterations=13", False),
        ("cpl.temperature=0.8", False),
        ("sft.learning_rate=1e-5", False),
        ("seed=1", False),
    ],
)
def test_a_search_is_taken_over_where_only_what_comes_after_it_differs(searched, tmp_path, setting, taken):
    other = override(toy_cpl.RECIPE, ["evaluate.baseline=false", setting])
    donors = reuse.donors(searched[0])
    found = reuse.take(tmp_path / "v", other, donors, toy_cpl.stages(), runner.versions())
    assert ("search of cpl" in found) == taken == (tmp_path / "v" / "cpl" / "round1" / "trees.jsonl").exists()


def test_a_search_that_was_edited_is_not_taken_over(searched, tmp_path):
    donor = tmp_path / "r" / "ablate" / "preference" / "sft"
    shutil.copytree(searched[0] / "ablate" / "preference" / "sft", donor)
    (donor / "cpl" / "round1" / "trees.jsonl").write_text("edited\n")
    other = override(toy_cpl.RECIPE, ["evaluate.baseline=false", "cpl.rounds=1"])
    assert "corpus" in (found := reuse.take(tmp_path / "v", other, [donor], toy_cpl.stages(), runner.versions()))
    assert "search of cpl" not in found


def test_what_a_variant_had_searched_when_it_failed_serves_the_others_and_itself(tmp_path, monkeypatch):
    broken, done = noted("preference", tmp_path / "r", monkeypatch, stages=toy_cpl.stages("cpl_that_breaks_at_first"))
    assert list(broken.failed) == ["sft"] and done.count("preferred") == 3
    assert done.count("imitated") == 2, "its SFT was lost, so the next made it, and the others took that"
    whole, done = noted("preference", tmp_path / "r", monkeypatch)
    assert not whole.failed and set(done) <= {"imitated"}
    rows = list(read_jsonl(tmp_path / "r" / "ablate" / "preference" / "sft" / "metrics.jsonl"))
    assert {row["step"] for row in rows if row["stage"] == "cpl"} == {1, 2}


# --- killing ----------------------------------------------------------------------------------------------------------


def start(folder, mirror, calls, seconds="0.01"):
    environ = {**os.environ, "TOY_SECONDS": seconds, "TOY_CALLS": str(calls)}
    command = [sys.executable, HERE, "filter", str(folder), str(mirror)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_at(count, folder, mirror, calls, signal_):
    process = start(folder, mirror, calls)
    deadline = time.monotonic() + 60
    while not calls.exists() or calls.read_text().count("x") < count:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal_)
    process.wait(20)


def results(folder):
    study = folder / "ablate" / "filter"
    names = (
        "table.json",
        "unfiltered/sft/adapter.txt",
        "answer/eval/own.m1.jsonl",
        "answer/trajectories.jsonl",
    )
    return [(study / name).read_text().replace(str(study), "") for name in names]


@posix
def test_killed_anywhere_also_with_its_folder_gone_a_study_ends_the_same(mended, tmp_path):
    calm, folder, mirror, calls = mended[2].folder.parents[1], *(tmp_path / name for name in ("r", "mirror", "calls"))
    kill_at(36, folder, mirror, calls, signal.SIGINT)  # while one trains
    kill_at(145, folder, mirror, calls, signal.SIGKILL)  # while the other answers
    shutil.rmtree(folder)
    process = start(folder, mirror, calls, seconds="0")
    assert process.wait(60) == 0, process.stderr.read()
    assert results(folder) == results(calm)
    # 30 plans, 12 steps twice, 54 answers of the untuned model and 27 twice of ours; a kill repeats what was under way
    assert 162 <= calls.read_text().count("x") <= 162 + 60
    assert sorted(path.name for path in (mirror / "r" / "ablate" / "filter").glob("table.*")) == [
        "table.json",
        "table.md",
    ]


def test_a_variant_s_ledger_is_the_one_of_all_runs(tmp_path):
    variant = tmp_path / "runs" / "mine" / "ablate" / "target" / "m1"
    assert home(variant) == tmp_path / "runs" == home(tmp_path / "runs" / "mine")
    other = tmp_path / "ablate" / "runs" / "mine"  # a person may work in a folder of that name
    assert home(other) == tmp_path / "ablate" / "runs"


def test_the_ledger_of_a_variant_is_mirrored_beside_the_runs_and_restored_there(tmp_path):
    variant, kept = tmp_path / "runs/mine/ablate/target/m1", tmp_path / "mirror/mine/ablate/target"
    write_manifest(variant, read_manifest(variant))
    Ledger(home(variant) / LEDGER, run="mine").close()
    Mirror(kept, variant, print).close()
    assert (tmp_path / "mirror" / LEDGER).is_file() and (kept / "m1" / "manifest.json").is_file()
    shutil.rmtree(tmp_path / "runs")
    assert bring_back(kept, variant) == 1 and (tmp_path / "runs" / LEDGER).is_file()


def test_a_reward_study_shows_the_steps_of_each_training_and_makes_its_sft_once(whole, tmp_path):
    found = toy("reward", copied(whole, tmp_path), REINFORCED)
    page = (found.folder / "table.md").read_text()
    assert "| guided | 27 |" in page and "| 12 + 20 |" in page
    parts = [read_manifest(found.folder / one.name).stages for one in found.study.variants]
    assert [bool(one["sft"].taken_from) and not one["grpo"].taken_from for one in parts] == [True] * 3


# --- arms side by side ------------------------------------------------------------------------------------------------


def answered(run, right, *, questions, model="m1"):
    """A run whose model is right on the first problems, and whose untuned model is on none."""
    problems = [Problem(id=f"p/{n}", question=text, answer="1", source="ab"[n % 2]) for n, text in enumerate(questions)]
    write_records(run / "suites" / "own.jsonl", problems)
    for name, count in ((model, right), ("untuned", 0)):
        rows = [
            Score(problem_id=one.id, sample=0, mode=name, text="", prediction="", gold="1", same=n < count, how="")
            for n, one in enumerate(problems)
        ]
        write_records(run / "eval" / f"own.{name}.jsonl", rows)
    return run


def page_of(what, recipe, arms, figures):
    """What a study of these arms shows."""
    found = page.Outcome(
        study=definitions.study(what, recipe),
        folder=Path("study"),
        recipe=recipe.name,
        command="",
        beside=beside(arms),
        failed={},
        figures=figures,
    )
    return page.study_markdown(found)


def test_a_world_study_shows_what_a_probe_reads_beside_what_the_model_says(tmp_path):
    def probed(name, value):
        run = answered(tmp_path / name, 5, questions=[f"What is {n}?" for n in range(10)])
        auroc = {"auroc": {"value": value, "low": value - 0.1, "high": value + 0.1}}
        worlds = {"validity": {"tuned": auroc, "untuned": auroc}, "output_probability": {"tuned": {"mean": auroc}}}
        worlds["output_probability"]["untuned"] = {"mean": auroc}
        write_whole(run / "probe" / "probe.json", json.dumps({"worlds": worlds}))
        return run

    arms = [Arm("planner", (probed("a", 0.8), probed("b", 0.82))), Arm("walks", (probed("c", 0.6), None))]
    cells = page.knowledge({arm.name: arm.runs for arm in arms})
    recipe = load_recipe("smollm2_135m_worlds")
    shown = page_of("world", recipe, arms, cells)
    assert "| can a step be done? probe | its own probability |" in shown
    assert set(cells["planner"].values()) == {"81.0 % (68.3 to 93.7)"}, "of two trainings, by t"
    assert set(cells["walks"].values()) == {"60.0 % (50.0 to 70.0)"} and "untuned" in cells


def test_a_probe_that_fails_leaves_the_study_its_table(tmp_path, monkeypatch):
    def probe(run, problems, say, show):
        assert problems == 16
        if run.name == "b":
            raise RunError("too few problems")

    monkeypatch.setattr(page.user_code, "load_from_lab", {"probe_once": probe}.get)
    failed = page.probe_all({"arm": (tmp_path / "a", None, tmp_path / "b")}, 16, lambda line: None)
    assert list(failed) == ["b could not be probed: too few problems"]


def test_problems_of_several_seeds_count_once_and_others_of_the_same_id_apart(tmp_path):
    same, other = [f"What is {n}?" for n in range(10)], [f"Which is {n}?" for n in range(10)]
    one = answered(tmp_path / "1", 10, questions=same)
    two = answered(tmp_path / "2", 5, questions=same)
    three = answered(tmp_path / "3", 0, questions=other)
    _, row = beside([Arm("m1", (one, two))]).rows
    assert (row.problems, row.accuracy.value, row.by_seed) == (10, 0.75, (1.0, 0.5))
    _, row = beside([Arm("m1", (one, three))]).rows
    assert (row.problems, row.accuracy.value, row.by_seed) == (20, 0.5, (1.0, 0.0))


def test_arms_are_compared_on_the_problems_of_the_seeds_that_both_have(tmp_path):
    questions = [f"What is {n}?" for n in range(10)]
    good, bad = (answered(tmp_path / str(right), right, questions=questions) for right in (10, 0))
    found = beside([Arm("first", (good, bad)), Arm("second", (None, good))])
    compared = next(one for one in found.comparisons if one.reference == "first")
    assert (compared.paired.won, compared.paired.lost) == (10, 0), "only the second seed is common to both"


def test_the_best_prompt_over_seeds_is_that_of_the_problems_that_all_prompts_have(tmp_path):
    run = answered(tmp_path / "1", 5, questions=[f"What is {n}?" for n in range(10)])
    path = run / "eval" / "own.untuned.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    every = [{**row, "mode": "zero_shot_cot", "same": n < 6} for n, row in enumerate(rows)]
    first = [{**row, "mode": "few_shot", "same": n < 3} for n, row in enumerate(rows[:4])]
    write_records(path, [*every, *first])
    untuned, _ = beside([Arm("m1", (run,))]).rows
    assert (untuned.mode, untuned.accuracy.value) == ("zero_shot_cot", 0.6)


def test_seeds_that_chose_different_prompts_all_count_for_the_untuned_model(tmp_path):
    """The prompt is chosen on problems of each seed's own pool."""
    runs = []
    for seed, mode in enumerate(("few_shot", "zero_shot_cot", "few_shot")):
        run = answered(tmp_path / str(seed), 5, questions=[f"What is {seed} and {n}?" for n in range(10)])
        path = run / "eval" / "own.untuned.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        write_records(path, [{**row, "mode": mode, "same": n < seed} for n, row in enumerate(rows)])
        runs.append(run)
    found = beside([Arm("m1", tuple(runs))])
    untuned, _ = found.rows
    assert (untuned.mode, untuned.problems, untuned.by_seed) == ("few_shot or zero_shot_cot", 30, (0.0, 0.1, 0.2))
    assert found.comparisons[0].paired.problems == 30


def test_each_problem_is_routed_to_the_adapter_of_its_source(tmp_path):
    questions = [f"What is {n}?" for n in range(10)]
    a, b = (Arm(str(right), (answered(tmp_path / str(right), right, questions=questions),)) for right in (10, 0))
    rows = beside([a, b, Arm("routed", routes={"a": a.name, "b": b.name})]).rows
    assert [row.accuracy.value for row in rows if row.model == "routed"] == [0.5]


def test_where_arms_have_several_trainings_the_training_is_the_unit(tmp_path):
    """The second arm wins 20 problems, by two of its five trainings."""
    questions = [f"What is {n}?" for n in range(30)]
    first, second = (
        Arm(
            name,
            tuple(answered(tmp_path / name / str(at), right, questions=questions) for at, right in enumerate(rights)),
        )
        for name, rights in (("first", (10, 10, 10, 10, 10)), ("second", (30, 4, 30, 4, 12)))
    )
    found = beside([first, second])
    (compared,) = [one for one in found.comparisons if one.reference == "first"]
    assert (compared.paired.trainings, compared.paired.won) == (5, 20)
    assert compared.verdict == "not better" and compared.paired.difference.low < -0.2
    (sentence,) = [one for one in found.sentences if one.startswith("own: second is not better than first: ")]
    assert sentence.endswith("20 won, 6 lost, over 5 trainings")
    assert found.rows[-1].accuracy.high - found.rows[-1].accuracy.low > 0.5, "an arm's own interval is as unsure"


def test_of_one_training_the_sentence_says_so(tmp_path):
    runs = [answered(tmp_path / str(right), right, questions=[f"What is {n}?" for n in range(30)]) for right in (3, 25)]
    found = beside([Arm("first", (runs[0],)), Arm("second", (runs[1],))])
    assert all(one.endswith("; but one training each, and another seed could say otherwise") for one in found.sentences)
    assert any(one.startswith("own: second is better than first") for one in found.sentences)


@pytest.mark.slow
def test_a_mixture_is_tested_on_the_same_problems_and_trained_on_others(tmp_path):
    rows = [
        {
            "question": f"What is {n} plus {n}?",
            "answer": 2 * n,
            "solution": f"{n} + {n} = {2 * n}",
            "plan": ["Add both."],
        }
        for n in range(30)
    ]
    write_records(tmp_path / "mine.jsonl", rows)
    source = f"problems.source=practice+{tmp_path / 'mine.jsonl'}"
    recipe = override(RECIPE, [source, "problems.held_out=0.4", "corpus.dedup=none", "corpus.spoilers=keep"])
    found = toy("mixture", tmp_path / "r", recipe, stages=stages(distill=None, corpus=None))
    assert not found.failed
    rows = {row.model: row for row in found.beside.rows}
    assert len({row.problems for row in rows.values()}) == 1
    counts = {name: int(cells["rows"]) for name, cells in found.figures.items() if cells["rows"]}
    assert counts["only-practice"] < counts["mixed"] > counts["only-mine-jsonl"] and "routed" in rows
    assert counts["mixed"] == counts["one-by-one"] == counts["easy-first"]


@pytest.mark.slow
def test_another_domain_is_trained_and_tested_on_its_own_problems(whole, tmp_path, monkeypatch):
    for split, count in (("train", 12), ("test", 8)):
        rows = [
            {"question": f"Could {split} {n} fly?", "answer": n % 2 == 0, "solution": f"Look at wing {n}.\nJudge it."}
            for n in range(count)
        ]
        write_records(tmp_path / "data" / f"strategyqa_{split}.jsonl", rows)
    monkeypatch.setenv("PLANTUNE_DATA", str(tmp_path / "data"))
    found = toy("domain", copied(whole, tmp_path), stages=stages())
    assert not found.failed
    counts = {(row.suite, row.model): row.problems for row in found.beside.rows}
    assert counts == {
        ("own", "untuned"): 27,
        ("own", "own"): 27,
        ("strategyqa", "untuned"): 8,
        ("strategyqa", "strategyqa"): 8,
    }


# --- curricula --------------------------------------------------------------------------------------------------------

POOL = [
    replace(one, source="ab"[n % 2], extra={"level": n % 3})
    for n, one in enumerate(practice_problems("train", seed=0, limit=40))
]
ROWS = [{"problem_id": one.id} for one in POOL]


def test_rows_come_by_level_or_by_source():
    assert data.ranks("easy_first", ROWS, POOL) == [n % 3 for n in range(40)]
    assert data.ranks("by_source", ROWS, POOL) == [n % 2 for n in range(40)]


def test_without_levels_the_shortest_completions_come_first():
    alike, rows = [replace(one, extra={}) for one in POOL], [{**row, "completion": "Add."} for row in ROWS]
    rows[0]["completion"] = "Add, then halve."
    assert data.ranks("easy_first", rows, alike) == [16] + [4] * 39


def test_a_training_takes_rows_of_a_lower_rank_first_and_no_others_than_without(tmp_path):
    from sft_child import learner, make_base, rows

    from plantune_lite.recipe.schema import SFT
    from plantune_lite.runs.job import Training

    base, found = make_base(tmp_path / "base", "llama"), rows(16)

    def seen(ranks):
        """The rows of each step, as the model sees them."""
        student, steps = learner(base), []

        def look(model, args, given):
            if model.training:
                steps.append([tuple(ids[ids != student.tokenizer.pad_token_id].tolist()) for ids in given["input_ids"]])

        student.model.register_forward_pre_hook(look, with_kwargs=True)
        part = SFT(max_steps=4, batch_size=4, accumulate=1)
        ranked = [{**row, "rank": rank} for row, rank in zip(found, ranks, strict=True)] if ranks else found
        sft.train(student, ranked, part, tmp_path / f"out{ranks is None}", Training())
        return steps

    plain, ranked = seen(None), seen([-number for number in range(16)])
    assert sorted(sum(plain, [])) == sorted(sum(ranked, [])), "only the order may differ"
    student = learner(base)
    whole = [chat.encode(student.tokenizer, row["prompt"][-1]["content"]) for row in found]

    def row_of(ids):
        return next(n for n, asked in enumerate(whole) if str(asked)[1:-1] in str(list(ids)))

    assert [row_of(ids) for step in ranked for ids in step] == list(range(15, -1, -1))


def test_a_recipe_s_order_reaches_the_training(tmp_path, monkeypatch):
    from sft_child import make_base

    base = make_base(tmp_path / "base", "llama")
    settings = [f"student.model={base}", "student.bits=32", "student.lora_rank=4", "evaluate.max_tokens=16"]
    settings += ["sft.order=easy_first", "sft.max_steps=2", "sft.batch_size=4", "sft.accumulate=1"]
    wanted = override(RECIPE, settings)
    pool = [replace(one, extra={}) for one in POOL[:8]]
    rows = [{"problem_id": one.id, "prompt": list(ask_plainly(one)), "completion": one.answer} for one in pool]
    write_records(tmp_path / "problems" / "pool.jsonl", pool)
    write_records(tmp_path / "corpus" / "train.jsonl", rows)
    write_records(tmp_path / "corpus" / "validation.jsonl", [])
    (tmp_path / "sft").mkdir()
    ranked, train = [], sft.train

    def noted(loaded, rows, *rest, **named):
        ranked.extend(rows)
        return train(loaded, rows, *rest, **named)

    monkeypatch.setattr(sft, "train", noted)
    folder, nothing = RunFolder(tmp_path), Summaries()
    job = Job(run=folder, stage="sft", out=tmp_path / "sft", recipe=wanted, earlier=nothing, hours_left=None)
    assert stage.run_sft(job).steps == 2
    assert [row["rank"] for row in ranked] == [len(row["completion"]) for row in rows]


# --- the command ------------------------------------------------------------------------------------------------------


def plantune(*arguments):
    command = [sys.executable, "-m", "plantune_lite.cli.main", "ablate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_what_would_be_done_and_what_cannot(tmp_path):
    done = plantune("target", "smollm2_135m", "--seeds", 2, "--dry-run")
    assert "8 runs, 30 stages to do" in done.stdout and "baseline-s1" in done.stdout and done.returncode == 0
    refused = plantune("mixture", "smollm2_135m")
    assert "problems.source=gsm8k+math" in refused.stderr and refused.returncode == 1


@pytest.mark.slow
def test_the_command_trains_the_embedded_student_four_ways(tmp_path):
    settings = ("problems.limit=40", "sft.max_steps=3", "evaluate.suites=own", "evaluate.limit=8")
    settings += ("evaluate.max_tokens=48", "evaluate.prompts=zero_shot_cot")
    done = plantune("target", "smollm2_135m", "--seeds", 1, *settings)
    assert done.returncode == 0, done.stderr
    made = json.loads(Path(os.environ["PLANTUNE_RUNS"], "smollm2_135m/ablate/target/table.json").read_text())
    assert [row["model"] for row in made["rows"]] == ["untuned", "baseline", "control", "m1", "m2"]
    assert {row["problems"] for row in made["rows"]} == {8} and not made["failed"]
