"""Whatever the input, the command ends in one plain sentence, or does what it says: hundreds of them, by chance.

`BAD_INPUTS=5000 BAD_INPUTS_FROM=20000 pytest tests/cli/test_bad_inputs.py` tries others and more.
"""

import contextlib
import io
import os
import re
import shutil
import signal
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from bad_inputs import bad_input, sound_run

from plantune_lite.cli.main import main
from plantune_lite.files import write_whole
from plantune_lite.pipeline import runner
from plantune_lite.recipe.load import load_recipe, to_json
from plantune_lite.types import RunError

COUNT, FIRST = int(os.environ.get("BAD_INPUTS", 300)), int(os.environ.get("BAD_INPUTS_FROM", 10_000))
SECONDS = 20.0  # for one input
STARTS = "a stage would start here"
PROGRAMMERS = re.compile(
    r"Traceback|\b[A-Z]\w+(Error|Exception)\(|<class |object at 0x|object has no attribute|NoneType"
)


class Hangs(BaseException):
    """The deadline of one input has passed."""


def said_by(arguments):
    """Run the command in this process; its status, and what it wrote to standard output and error."""

    def ring(*_):
        raise Hangs

    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            main(arguments)
    except SystemExit as ended:
        status = ended.code
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return status if isinstance(status, int) else 0, *(
        one.buffer.getvalue().decode("utf-8", "replace") for one in streams
    )


def files_of(folder):
    """Everything but what the run owns: its folder, its ledger, its mirror, what was asked to be written."""
    owned = ("mine", "inputs/mine/", "drive", "inputs/out", "calls.sqlite")
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return {name for name in names if not name.startswith(owned) and "__pycache__" not in name}


def faults(case, status, out, err):
    """What is wrong with how the command ended."""
    if PROGRAMMERS.search(out + err):
        yield "traceback"
    if STARTS in err:
        return
    if status == 0:
        if case.refused:
            yield "accepted"
        return
    errors = re.findall(r"(?m)^(?:error|Error): ", err)
    if len(errors) != 1 and "cannot run here" not in out and case.arguments[0] != "estimate":
        yield f"{len(errors)} errors"
    if errors and not any(name in err for name in case.names):
        yield "nameless"
    if len(err) > 4_000 + 2 * len(" ".join(case.arguments)):
        yield "endless"


DEEP = "[" * 800 + "]" * 800


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *((("estimate", "smollm2_135m", f"--gpu={gigabytes}"), "'--gpu'") for gigabytes in ("nan", "1e400", "-5", "0")),
        (("ablate", "target", "smollm2_135m", "--dry-run", "--seeds=1000000"), "'--seeds': 1000000"),
        (("estimate", "smollm2_135m", "problems.path=~nobody-here/x"), "cannot read ~nobody-here/x"),
        (("show", "smollm2_135m", f'sft.extra={{"x": {DEEP}}}'), "sft.extra is"),
        (("show", "smollm2_135m", f"sft.extra.x={DEEP}"), "sft.extra is"),
        (("show", "smollm2_135m", "name=a\0b"), "name is"),
        (("show", "exits.py"), "exits.py line 1: SystemExit"),
        (("show", "huge.jsonl"), "huge.jsonl line 1: not JSON"),
        (("show", "deep.json"), "deep.json: not JSON"),
        (("show", "utf16.csv"), "byte 0x00 is not UTF-8"),
        (("estimate", "smollm2_135m", "problems.path=nul.jsonl"), "nul.jsonl line 1: question contains"),
        (("show", "latin.parquet"), "latin.parquet is not a Parquet file: 'utf-8'"),
        (("show", "smollm2_135m", "sft.=none"), "SFT has no field ''"),
        (("report", "list"), "recipe.json: not a recipe"),
        (("show", "null"), "manifest.json is not a manifest"),
    ],
)
def test_what_once_was_a_traceback_or_hung_is_a_sentence(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    row = '{"question": "What is 2 + 2?", "answer": 4'
    texts = {
        "exits.py": "raise SystemExit(0)",
        "huge.jsonl": row[:-1] + "4" * 5_000 + "}\n",
        "deep.json": "[" * 100_000,
        "nul.jsonl": row.replace("?", "?\\u0000") + "}\n",
        "list/recipe.json": "[]",
        "null/recipe.json": to_json(load_recipe("smollm2_135m")),
        "null/manifest.json": '{"format": 1, "stages": {"sft": null}}',
    }
    for name, text in texts.items():
        write_whole(tmp_path / name, text)
    (tmp_path / "utf16.csv").write_text("question,answer\n2+2?,4\n", encoding="utf-16-le")
    buffers = [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xb2")]
    questions = pyarrow.Array.from_buffers(pyarrow.string(), 1, buffers)
    pyarrow.parquet.write_table(pyarrow.table({"question": questions, "answer": ["4"]}), tmp_path / "latin.parquet")
    status, _, err = said_by(list(arguments))
    assert status in (1, 2) and words in err and not PROGRAMMERS.search(err)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    import torch  # noqa: F401 - the first import takes seconds, which no input is to blame for

    folder = tmp_path_factory.mktemp("sound")
    sound_run(folder)
    return folder


def no_process(folder, stage, **_):
    raise RunError(f"{STARTS}: {stage}")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_no_bad_input_ends_in_a_traceback_hangs_passes_or_writes_elsewhere(tmp_path, monkeypatch, sound):
    monkeypatch.setattr(runner, "run_stage", no_process)  # a process each would take an hour
    wrong, kinds = [], Counter()
    for seed in range(FIRST, FIRST + COUNT):
        folder = tmp_path / str(seed)
        case = bad_input(seed, folder, sound=sound)
        (folder / "here").mkdir()
        monkeypatch.chdir(folder / "here")
        monkeypatch.setenv("PLANTUNE_RUNS", str(folder))
        monkeypatch.setenv("PLANTUNE_CACHE", str(folder / "cache"))
        before = files_of(folder)
        try:
            status, out, err = said_by(case.arguments)
            found = list(faults(case, status, out, err))
        except Hangs:
            status, out, err, found = None, "", "", ["hangs"]
        if files_of(folder) - before:
            found.append("wrote elsewhere")
        kinds.update(found)
        if found:
            shown = " ".join(one[-100:] for one in case.arguments)
            wrong.append(f"{', '.join(found)}: seed {seed}, status {status}: {shown!r}\n{err[-1500:]}")
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(folder)
    assert not wrong, f"{len(wrong)} of {COUNT}: {dict(kinds)}\n" + "\n".join(wrong)
