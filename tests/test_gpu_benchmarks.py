import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.gpu import __main__ as entry
from benchmarks.gpu import card, fits, grpo, pays, pays_table, same, sft
from benchmarks.gpu.jobs import Job, known, measured, whole
from benchmarks.gpu.pays_rows import FULL, TINY

ROOT = Path(__file__).parent.parent


def told(work, name, rows):
    (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def fitted(recipe, gib, fit, allocated=5.0, t4=False):
    row = {"recipe": recipe, "gib": gib, "t4": t4, "fits": fit, "allocated_gib": allocated, "outside_gib": 0.5}
    return {"job": fits.key(recipe, gib, t4), **row}


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A program that prints its one word as JSON, or fails on "bad", and notes each time that it was run."""
    (tmp_path / "child.py").write_text(
        "import sys, json, pathlib\n"
        "pathlib.Path(sys.argv[1]).open('a').write(sys.argv[2] + '\\n')\n"
        "print('some library says hello')\n"
        "assert sys.argv[2] != 'bad', 'it was bad'\n"
        "print(json.dumps({'said': sys.argv[2]}))\n"
        "print('and good bye')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda word: Job(word, "child", (str(tmp_path / "runs"), word), needs=1)


def test_what_a_process_found_is_kept_and_not_asked_again(child, tmp_path):
    for _ in range(2):
        found = measured([child("one"), child("two")], tmp_path, "words", at_once=2)
        assert {name: row["said"] for name, row in found.items()} == {"one": "one", "two": "two"}
    assert sorted((tmp_path / "runs").read_text().split()) == ["one", "two"]


def test_a_process_that_failed_says_why_and_is_asked_again(child, tmp_path):
    for _ in range(2):
        found = measured([child("bad"), child("one")], tmp_path, "words")
        assert "it was bad" in found["bad"]["error"]
        assert list(whole(found)) == ["one"]
    assert (tmp_path / "runs").read_text().split() == ["bad", "one", "bad"]
    assert list(whole(known(tmp_path, "words"))) == ["one"]


def test_a_process_whose_file_was_lost_is_asked_again(child, tmp_path):
    job = replace(child("one"), makes=tmp_path / "runs")
    for _ in range(2):
        measured([job], tmp_path, "words")
    (tmp_path / "runs").unlink()
    measured([job], tmp_path, "words")
    assert (tmp_path / "runs").read_text() == "one\n"
    assert len((tmp_path / "words.jsonl").read_text().splitlines()) == 2


def test_no_process_is_begun_that_would_not_end_in_time(child, tmp_path):
    assert measured([child("one")], tmp_path, "words", ends=0.0) == {}
    assert not (tmp_path / "runs").exists()


# --- which sizes are tried --------------------------------------------------------------------------------------------


def test_the_smallest_size_above_the_peak_is_tried_next():
    found = {row["job"]: row for row in [fitted("qwen3_4b_sft", 22.5, True, allocated=7.0)]}
    assert fits.to_try(found, "qwen3_4b_sft", 0.5) == 11.0


def test_where_that_fails_the_next_larger_one_is_tried_and_where_it_fits_none():
    rows = [fitted("qwen3_4b_sft", 22.5, True, allocated=7.0), fitted("qwen3_4b_sft", 11.0, False)]
    assert fits.to_try({row["job"]: row for row in rows}, "qwen3_4b_sft", 0.5) == 14.6
    rows.append(fitted("qwen3_4b_sft", 14.6, True))
    assert fits.to_try({row["job"]: row for row in rows}, "qwen3_4b_sft", 0.5) is None


def test_what_does_not_fit_into_the_largest_size_is_tried_in_no_smaller():
    row = fitted("qwen2_5_7b_sft", 22.5, False, allocated=21.0)
    assert fits.to_try({row["job"]: row}, "qwen2_5_7b_sft", 0.5) is None


def test_the_page_of_fits_says_what_was_not_tried_and_how_far_the_estimate_is_off(tmp_path, capsys):
    rows = [fitted("qwen3_4b_sft", 22.5, True, 4.3), fitted("qwen3_4b_sft", 7.4, True, 4.3)]
    told(tmp_path, "fits", [*rows, fitted("gemma3_1b_sft", 14.6, False, t4=True)])
    fits.write_down(tmp_path, tiny=True)
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in capsys.readouterr().out.splitlines()}
    said = fits.estimated("qwen3_4b_sft", False)
    assert lines["qwen3_4b_sft"].startswith(f"| qwen3_4b_sft | 4.8 | {said:.1f} | {100 * (said / 4.8 - 1):+.0f} % |")
    assert lines["qwen3_4b_sft"].endswith("fits | fits | fits | fits |")
    assert lines["gemma3_1b_sft, T4"].endswith("|  |  | fails |  |")
    assert lines["qwen2_5_7b_grpo"].count("not tried") == 5


def test_every_shipped_recipe_for_a_card_is_asked_whether_it_fits():
    shipped = {path.stem for path in (ROOT / "recipes").glob("*.py") if not path.stem.startswith("smollm2")}
    # Qwen3.5 is not: its weights cannot be made by shapes.py yet.
    assert set(fits.RECIPES) == {name for name in shipped if name.endswith(("_sft", "_grpo"))} - {"qwen3_5_2b_sft"}
    assert {fits.student_of(recipe) for recipe in fits.RECIPES} == {"gemma3_1b", "qwen3_4b", "qwen2_5_7b"}


# --- the pages --------------------------------------------------------------------------------------------------------


def test_nothing_is_written_down_that_no_card_has_measured(tmp_path):
    card.noted(tmp_path)
    noted = json.loads((tmp_path / "machine.json").read_text())
    assert noted["machine"]["card"] is None
    assert {"python", "torch", "trl"} <= {check["name"] for check in noted["doctor"]}
    assert not any("/" in check["found"] for check in noted["doctor"])
    with pytest.raises(SystemExit, match="no GPU has measured this"):
        card.write_down("none", tmp_path, tiny=False, about="", command="", found={}, text="")


def test_the_page_of_speeds_has_the_ratio_of_each_pair(tmp_path, capsys):
    row = {"student": "qwen3_4b", "length": 512, "allocated_gib": 3.0}
    told(
        tmp_path,
        "sft",
        [
            {"job": "a", **row, "side": "unsloth", "tokens_a_second": 300.0},
            {"job": "b", **row, "side": "plain", "tokens_a_second": 200.0, "allocated_gib": 6.0},
        ],
    )
    sft.write_down(tmp_path, tiny=True)
    assert "| qwen3_4b | 512 | 300.0 | 200.0 | 1.50 | 3.0 | 6.0 | 0.50 |" in capsys.readouterr().out
    one = {"student": "qwen3_4b", "sampling": 0.75, "tokens": 90, "asked_tokens": 100, "allocated_gib": 3.0}
    pairs = [("unsloth", 300.0), ("plain", 100.0)]
    rows = [{"job": f"qwen3_4b {side} 0", **one, "side": side, "tokens_a_second": speed} for side, speed in pairs]
    told(tmp_path, "grpo", rows)
    grpo.write_down(tmp_path, tiny=True)
    printed = capsys.readouterr().out
    assert "| qwen3_4b, unsloth | 1 | 90.0% | 300.0 | 75% | 25% | 3.00 | 3.00 (3.00 to 3.00) |" in printed


def test_answers_are_the_same_to_the_token_at_which_they_part():
    found = same.compared([[1, 2, 3], [4, 5]], [[1, 2, 3], [4, 6]])
    assert found == {"answers": 0.5, "tokens": 4 / 5}
    assert same.compared([[1, 2]], [[1, 2, 3, 4]]) == {"answers": 0.0, "tokens": 0.5}


# --- what pays --------------------------------------------------------------------------------------------------------


def test_an_arm_is_trained_once_all_its_rates_were_tried(tmp_path):
    assert pays.names("sft", tmp_path, FULL, None) == []
    told(tmp_path, "pays", [{"job": f"choose m1 {rate}", "accuracy": 0.1} for rate in FULL.rates])
    assert pays.names("sft", tmp_path, FULL, 1) == ["sft m1 1"]
    assert pays.names("mixed", tmp_path, FULL, None) == ["sft mixed 0", "sft mixed 1", "sft mixed 2"]
    assert pays.names("grpo", tmp_path, FULL, None) == ["sft m1 0"]


def test_a_part_goes_on_from_an_adapter_that_is_there(tmp_path):
    rates = [{"job": f"choose m1 {rate}", "accuracy": 0.1} for rate in FULL.rates]
    told(tmp_path, "pays", [*rates, {"job": "sft m1 0"}])
    assert pays.names("grpo", tmp_path, FULL, None) == ["sft m1 0"]
    file = pays.adapter("m1", tmp_path)
    file.parent.mkdir()
    file.write_bytes(b"")
    assert pays.names("grpo", tmp_path, FULL, None) == ["grpo answer", "grpo answer+plan", "grpo guided"]


def test_the_filters_are_asked_once_their_rows_are_there(tmp_path):
    rates = [{"job": f"choose m1 {rate}", "accuracy": 0.1} for rate in FULL.rates]
    told(tmp_path, "pays", [*rates, {"job": "sft m1 0"}, {"job": "own m1"}])
    assert pays.names("filter", tmp_path, FULL, 0) == ["sft m1 0"]
    arms = ["sft unfiltered 0", "sft one_stage 0", "sft two_stage 0"]
    for file, asked in ((pays.adapter("m1", tmp_path), ["own m1"]), (pays.filters(tmp_path), arms)):
        file.parent.mkdir()
        file.write_bytes(b"")
        assert pays.names("filter", tmp_path, FULL, 0) == asked


def test_every_reward_has_as_many_steps_and_completions():
    assert (FULL.grpo_steps, FULL.prompts * FULL.group) == (100, 32)
    assert pays.names("choose", ROOT, TINY, None) == ["choose m1 2e-4", "choose baseline 2e-4", "choose m2 2e-4"]


def test_the_page_of_what_pays_leaves_out_answers_that_are_not_whole(tmp_path, capsys):
    test = [SimpleNamespace(id=f"p/{number}") for number in range(4)]

    def answered(name, right):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"problem_id": one.id, "sample": 0, "mode": "m1", "text": "", "prediction": None, "gold": "1"}
            | {"same": correct, "how": "", "finish": "stop", "tokens": 1, "seconds": 0.0}
            for one, correct in zip(test, right, strict=False)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    answered("m10/test.jsonl", [True, True, True, False])
    answered("m11/test.jsonl", [True, True])
    answered("baseline0/test.jsonl", [True, False, False, False])
    answered("grpo answer/test.jsonl", [True, True, True, True])
    (tmp_path / "rows").mkdir()
    control = {"rows": 7, "other_than_the_baseline": 0, "rejected": {"spoils the answer": 3}}
    (tmp_path / "rows" / "control.json").write_text(json.dumps(control))
    pays_table.write_down(tmp_path, test, {"use m1 0": {"line": "own 75 %"}}, pays.told(FULL), tiny=True)
    printed = capsys.readouterr().out
    assert "| m1 | 75.0 % (30.1 to 95.4) | 75.0 |" in printed
    assert "| m2 | not measured |  |" in printed
    assert "| m1 minus baseline | +50.0 points" in printed
    assert "| GRPO, R_ans minus m1, first seed | +25.0 points" in printed
    assert "word for word the baseline" in printed and "3 spoils the answer" in printed and "own 75 %" in printed


# --- all of it --------------------------------------------------------------------------------------------------------


def test_the_entry_lists_its_parts_and_what_it_cannot_begin(tmp_path, capsys):
    entry.main([])
    listed = capsys.readouterr().out
    assert all(f"| {part} |" in listed for part in entry.PARTS)
    entry.main(["same", "--work", str(tmp_path), "--minutes", "0"])
    assert "same: no time left for it" in capsys.readouterr().out


IN_MINIATURE = {
    "fits": ("--recipes", "gemma3_1b_grpo", "--at-once", "1"),
    "sft": ("--students", "qwen3_4b", "--lengths", "256"),
    "grpo": ("--students", "gemma3_1b", "--rounds", "1"),
    "same": (),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", IN_MINIATURE)
def test_each_part_runs_in_miniature_and_writes_no_page(part, tmp_path):
    before = sorted((ROOT / "benchmarks" / "gpu").glob("*.[jm][sd]*"))
    command = [sys.executable, "-m", f"benchmarks.gpu.{part}", "--work", str(tmp_path), "--tiny", *IN_MINIATURE[part]]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    found = known(tmp_path, part)
    assert found and not [row["error"] for row in found.values() if "error" in row]
    assert sorted((ROOT / "benchmarks" / "gpu").glob("*.[jm][sd]*")) == before


@pytest.mark.slow
def test_what_pays_runs_in_miniature_from_rows_to_page(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    for split, count in (("train", 30), ("test", 4)):
        rows = [row_of(split, number) for number in range(count)]
        told(data, f"gsm8k_{split}", rows)
    monkeypatch.setenv("PLANTUNE_DATA", str(data))
    command = [sys.executable, "-m", "benchmarks.gpu", "pays-sft", "pays-rl", "--work", str(tmp_path / "work")]
    done = subprocess.run([*command, "--tiny", "--minutes", "30"], check=True, cwd=ROOT, capture_output=True, text=True)
    found = known(tmp_path / "work", "pays")
    assert not [row["error"] for row in found.values() if "error" in row]
    assert {"untuned few_shot", "sft m2 0", "grpo guided", "use m1 0", "sft mixed 0"} <= set(found)
    assert "| m1 minus baseline |" in done.stdout


def row_of(split, number):
    """A problem as the data set's file has it."""
    pens, price = number + 3, number * 7 % 11 + 2
    where = {"train": "market", "test": "harbour"}[split]
    cost = pens * price
    steps = [f"The pens cost {pens}*{price} = {cost} dollars.", f"With the bag she pays {cost}+5 = {cost + 5} dollars."]
    return {
        "id": f"gsm8k/{split}/{number}",
        "question": f"At the {where} Ann buys {pens} pens at {price} dollars and a bag for 5. What does she pay?",
        "answer": str(cost + 5),
        "solution": "\n".join(steps),
        "subquestions": ["What do the pens cost?", "What does she pay?"],
        "steps": steps,
    }
