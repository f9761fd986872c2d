from pathlib import Path

import pytest
from manifests import mark

from plantune_lite.cli import stages
from plantune_lite.cli.frame import as_path, folder_of_run, load_asked, reporting
from plantune_lite.files import runs_folder
from plantune_lite.pipeline.runner import folder_of
from plantune_lite.recipe.load import load_recipe, override, to_json
from plantune_lite.runs.folder import outputs_of
from plantune_lite.types import RunError


def run_of(folder, *settings):
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(to_json(override(load_recipe("smollm2_135m"), settings)))
    return folder


@pytest.mark.parametrize("named", ["second", "here/../second"])
def test_a_run_that_is_named_by_its_folder_is_worked_on_in_that_folder(tmp_path, monkeypatch, named):
    monkeypatch.setenv("PLANTUNE_RUNS", str(tmp_path))
    (tmp_path / "here").mkdir()
    folder = run_of(tmp_path / "second", "name=first", "problems.limit=30")
    run_of(tmp_path / "first", "name=first")
    wanted, to = load_asked(named, (), None)
    assert wanted.problems.limit == 30 and folder_of(wanted, to).samefile(folder)
    other, to = load_asked(named, ("name=third",), None)
    assert folder_of(other, to) == tmp_path / "third"


def test_a_shipped_name_is_that_recipe_whatever_lies_in_a_folder_of_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTUNE_RUNS", str(tmp_path))
    run_of(tmp_path / "smollm2_135m", "problems.limit=30", "name=other")
    wanted, to = load_asked("smollm2_135m", (), None)
    assert wanted == load_recipe("smollm2_135m") and folder_of(wanted, to) == tmp_path / "smollm2_135m"


def test_a_home_that_the_shell_left_as_it_is_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("PLANTUNE_RUNS", "~/pt")
    run_of(tmp_path / "pt" / "mine", "name=mine")
    assert runs_folder() == tmp_path / "pt" and load_recipe("mine").name == "mine"
    assert as_path("~/drive") == tmp_path / "drive"
    assert as_path("drive") == Path("drive") and as_path("~nobody-here/x") == Path("~nobody-here/x")


def test_what_another_model_answers_is_mirrored_while_it_answers(tmp_path):
    wanted = override(load_recipe("smollm2_135m"), ["problems.limit=20", "evaluate.limit=3", "evaluate.suites=own"])
    options = {"to": tmp_path / "r", "mirror": tmp_path / "drive", "again": None}
    with stages._ready_to_answer(wanted, True, **options) as (folder, _):
        (folder / "eval").mkdir()
        (folder / "eval" / "own.other.jsonl").write_text("{}\n")
    assert (tmp_path / "drive" / "r" / "eval" / "own.other.jsonl").is_file()


@pytest.mark.parametrize(("name", "stage"), [("suites/own.jsonl", "suites"), ("trajectories.jsonl", "distill")])
def test_of_a_run_with_a_damaged_part_the_file_is_told_and_what_to_do(tmp_path, name, stage):
    folder = run_of(tmp_path / "mine")
    (folder / "suites").mkdir()
    (folder / name).write_text("{}\n")
    outputs = outputs_of(folder, (name,))
    mark(folder, {stage: {"status": "done", "outputs": outputs}})
    assert folder_of_run(folder) == folder
    (folder / name).write_text('{"a": 1}\n')
    with pytest.raises(RunError, match=rf"{name} is not what {stage} wrote: .*--mirror FOLDER.*--again {stage}"):
        folder_of_run(folder)
    mark(folder, {stage: {"status": "running", "outputs": outputs}})
    assert folder_of_run(folder) == folder


def test_a_mistake_of_ours_shows_its_traceback_which_cannot_steer_the_terminal(capsys):
    def work():
        raise ValueError("what nobody has \x1b[2Jthought of")

    with pytest.raises(SystemExit) as ended:
        reporting(work)
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "Traceback" in said and "ValueError: what nobody has" in said
    assert "\x1b[2J" not in said
