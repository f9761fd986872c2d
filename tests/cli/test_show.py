from dataclasses import replace

from manifests import mark

from plantune_lite.cli.show import show_ending
from plantune_lite.files import write_records
from plantune_lite.recipe.load import load_recipe
from plantune_lite.types import Score

WANTED = load_recipe("smollm2_135m")


def run_of(folder, **answers):
    """A run that has answered: model -> how many of ten problems it is right on, in each of two suites."""
    for suite in ("own", "practice_words"):
        for model, right in answers.items():
            rows = [
                Score(
                    problem_id=f"p/{number}",
                    sample=0,
                    mode=mode,
                    text="...",
                    prediction="1",
                    gold="1",
                    same=number < right - bad,
                    how="",
                    finish="stop",
                )
                for mode, bad in (("few_shot", 0), ("zero_shot_cot", 1))[: 2 if model == "untuned" else 1]
                for number in range(10)
            ]
            write_records(folder / "eval" / f"{suite}.{model}.jsonl", rows)
    mark(folder, final="sft")
    return folder


def test_a_run_ends_in_a_table_of_the_answers_and_what_to_do_next(tmp_path, capsys):
    folder = run_of(tmp_path / "my run", untuned=4, baseline=5, grpo=9)
    (folder / "report.html").write_text("")
    show_ending(WANTED, folder)
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines()]
    assert [row[3] for row in rows if row[:2] == ["grpo", "few_shot"] and row[2] == "10"] == ["90.0", "90.0"]
    assert "own: grpo (few_shot) is" in said
    assert f"plantune ask '{folder}' \"...\" --beside-base" in said and f"open '{folder}'/report.html" in said
    assert "problems.path=my.csv" in said


def test_a_run_without_a_model_or_answers_promises_neither(tmp_path, capsys):
    mark(tmp_path, {"problems": {"seconds": 1.0}})
    show_ending(replace(WANTED, sft=None, grpo=None), tmp_path)
    said = capsys.readouterr().out
    assert "right" not in said and "ask" not in said and "push" not in said and "plantune recipes" in said
