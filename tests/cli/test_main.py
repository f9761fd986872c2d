import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import plantune
from tiny import tiny_student
from transformers import AutoTokenizer
from warm import TRAINING, warm_stages

from plantune_lite.recipe.load import load_recipe
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.student import presets


def test_help_names_the_verbs_in_groups():
    command = [sys.executable, "-m", "plantune_lite.cli.main", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "Start:" in text and text.index("  run ") < text.index("  doctor ") < text.index("  show ")
    assert "part.field=value" in text and "--resume" not in text


def test_help_costs_little_more_than_click_itself():
    def cost(*command):
        """Seconds of a processor, which other tests at the same time do not add to as they do to the clock's."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    pairs = [(cost("-m", "plantune_lite.cli.main", "--help"), cost("-c", "import click")) for _ in range(5)]
    ours, click = map(min, zip(*pairs, strict=True))
    assert ours < 3 * click


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["run"], "Missing argument 'RECIPE'", 2),
        (["run", "smolm2_135m"], "did you mean 'smollm2_135m'?", 1),
        (["run", "smollm2_135m", "sft.epoch=2"], "did you mean 'epochs'?", 1),
        (["run", "smollm2_135m", "--resume"], "No such option", 2),
        (["rum"], "No such command 'rum'", 2),
        (["show", "nowhere.csv"], "nowhere.csv", 1),
        (["copy", "gemma"], "no shipped recipe 'gemma'", 1),
    ],
)
def test_a_mistake_is_a_sentence_and_never_a_traceback(arguments, words, status):
    done = plantune(*arguments)
    assert words in done.stderr and "Traceback" not in done.stderr
    assert done.returncode == status


def test_the_version_is_said():
    assert plantune("--version").stdout.startswith("plantune-lite 0.")


def test_recipes_are_listed_with_their_first_sentence():
    assert "learns to plan before it solves" in plantune("recipes").stdout
    assert "smollm2_135m" in json.loads(plantune("recipes", "--json").stdout)


def test_a_recipe_is_copied_once_and_never_over_another_file(tmp_path):
    assert "plantune run mine.py" in plantune("copy", "smollm2_135m", "mine.py", cwd=tmp_path).stdout
    assert load_recipe(tmp_path / "mine.py") == load_recipe("smollm2_135m")
    again = plantune("copy", "smollm2_135m", "mine.py", cwd=tmp_path)
    assert again.returncode == 1 and "already exists" in again.stderr


def test_what_show_prints_of_a_recipe_can_be_said_back():
    lines = plantune("show", "smollm2_135m", "sft.epochs=2", "sft.max_steps=none").stdout.splitlines()
    settings = [line for line in lines if "." in line.partition("=")[0] and not line.endswith("={}")]
    assert "sft.epochs=2.0" in settings
    again = plantune("show", "smollm2_135m", *settings).stdout.splitlines()
    assert again == lines


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path):
    done = plantune("run", "smollm2_135m", "--dry-run", cwd=tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines() if "to do" in line][:2] == ["problems", "suites"]
    assert not list(tmp_path.iterdir())


def test_a_whole_run_of_a_tiny_student_ends_in_a_report(tmp_path):
    tiny = tiny_student(tmp_path / "tiny", "llama", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = presets.find("smollm2_135m").chat_template
    tokenizer.save_pretrained(tiny)
    small = (
        "problems.limit=20",
        "evaluate.limit=3",
        "headroom=2",
        "evaluate.max_tokens=16",
        "sft.max_steps=2",
        "grpo=none",  # random weights solve nothing, so there would be nothing to prefer
    )
    student = (f"student.model={tiny}", "student.bits=32", "student.max_length=500", "export.formats=merged")
    environ = {**os.environ, "PLANTUNE_RUNS": str(tmp_path)}
    with warm_stages(*TRAINING):  # the slow tests of the notebooks start theirs as a user does
        done = plantune("run", "smollm2_135m", *small, *student, environ=environ)
    assert "20 problems to learn from" in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    assert "not better than untuned" in done.stdout and "--beside-base" in done.stdout.partition("next:")[2]
    assert "not better than untuned" in (tmp_path / "smollm2_135m" / "report.html").read_text(encoding="utf-8")
    manifest = read_manifest(tmp_path / "smollm2_135m")
    assert manifest.final == "sft" and manifest.summaries.sft.steps == 2
    assert manifest.summaries.export.verified is True
    assert {path.name for path in (tmp_path / "smollm2_135m" / "eval").glob("*.jsonl")} == {
        f"{suite}.{model}.jsonl" for suite in ("own",) for model in ("untuned", "baseline", "m1")
    }
    shown = plantune("show", tmp_path / "smollm2_135m").stdout
    assert "20 problems to learn from" in shown and "20 rows to learn from" in shown
    compared = plantune("compare", tmp_path / "smollm2_135m")
    first, second = compared.stdout.splitlines()[:2]
    assert compared.returncode == 0 and "not better than baseline" in first and "not better than untuned" in second


def test_a_run_folder_goes_on_with_its_own_settings(tmp_path):
    environ = {**os.environ, "PLANTUNE_RUNS": str(tmp_path)}
    first = [sys.executable, "-m", "plantune_lite.cli.main", "distill", "smollm2_135m", "problems.limit=20"]
    subprocess.run(first, env=environ, capture_output=True, check=True)
    again = plantune("distill", tmp_path / "smollm2_135m", environ=environ)
    assert "done before: 20 problems" in again.stdout
    other = plantune("distill", "smollm2_135m", "problems.limit=30", environ=environ)
    assert "problems.limit was 20 and is now 30" in other.stderr


def test_show_of_a_csv_guesses_checks_and_spends_nothing(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "Frage;Antwort\nWas ist 2+2?;4\nWas ist 3+3?;6\nWas ist 2+2?;4\nWas kostet ein Ei?;2,50 €\n"
        "Warum ist der Himmel blau?;weil das Licht der Sonne in der Luft gestreut wird und das Blau am meisten\n",
        encoding="utf-8",
    )
    done = plantune("show", path)
    assert done.returncode == 0, done.stderr
    for words in ("Frage", "Antwort", "4 of the 5 answers", "Was ist 3+3?", "weil das Licht"):
        assert words in done.stdout, (words, done.stdout)
    assert "problems.question" in plantune("show", path, "problems.question=Fragen").stderr


def test_colours_and_control_codes_in_data_do_not_reach_the_terminal(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("question,answer\nIs [b]it[/b] \x1b[2Jred?,4\nWhat [/i] is?,5\n")
    done = plantune("show", path)
    assert done.returncode == 0, done.stderr
    assert "\x1b[2J" not in done.stdout and "[b]it[/b]" in done.stdout


def test_the_example_of_own_problems_makes_its_problems(tmp_path):
    example = Path(__file__).parents[2] / "examples" / "own_problems.py"
    environ = {**os.environ, "PLANTUNE_RUNS": str(tmp_path)}
    broken = tmp_path / "broken"  # no student: it ends where training begins
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (broken / "model.safetensors").touch()
    settings = ["problems.limit=20", "headroom=0", f"student.model={broken}"]
    done = subprocess.run(
        [sys.executable, example, *settings], env=environ, capture_output=True, text=True, check=False
    )
    assert "20 problems to learn from" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
