import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plantune_lite.files import JsonlWriter, from_row, read_jsonl, read_records, to_row, write_records, write_whole
from plantune_lite.terminal import duration, printable, size, table
from plantune_lite.types import PlantuneError, Problem, Rejected, Score

PROBLEM = Problem(id="a", question="2+2?", answer="4", steps=("2+2=4",), extra={"level": 1})
SCORE = Score(problem_id="a", sample=0, mode="m1", text="", prediction=None, gold="4", same=None, how="empty")


@pytest.mark.parametrize("record", [PROBLEM, SCORE], ids=["problem", "score"])
def test_a_record_survives_its_row(record):
    assert from_row(type(record), to_row(record)) == record


def test_a_rejected_trajectory_keeps_its_reason(tmp_path):
    rejected = Rejected(
        problem_id="a", sample=1, question="q", plan=("x",), execution="", answer=None, reason="wrong answer"
    )
    write_records(tmp_path / "r.jsonl", [rejected])
    assert read_records(Rejected, tmp_path / "r.jsonl") == [rejected]


def test_a_row_with_an_unknown_field_is_named():
    with pytest.raises(PlantuneError, match="Problem has no field 'questoin'"):
        from_row(Problem, {"id": "a", "questoin": "2+2?", "answer": "4"})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"id": 5, "question": "q", "answer": "4"}', "id is 5, which is not valid in a Problem"),
        ('{"id": "a", "question": "q"}', "Problem lacks 'answer'"),
        ("null", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
    ],
)
def test_a_line_that_is_no_record_is_named_with_its_file(tmp_path, line, why):
    write_records(tmp_path / "r.jsonl", [PROBLEM])
    (tmp_path / "r.jsonl").write_text((tmp_path / "r.jsonl").read_text() + line + "\n")
    with pytest.raises(PlantuneError, match=f"r.jsonl line 2: {why}.*Delete the line or the file"):
        read_records(Problem, tmp_path / "r.jsonl")


@given(st.lists(st.text(max_size=5), min_size=1, max_size=5), st.integers(0, 40))
def test_a_file_cut_anywhere_gives_its_whole_lines_and_can_be_appended_to(tmp_path_factory, texts, cut):
    path = tmp_path_factory.mktemp("torn") / "rows.jsonl"
    with JsonlWriter(path) as writer:
        for text in texts:
            writer.write({"text": text})
    whole = path.read_bytes()[: max(0, path.stat().st_size - cut)]
    path.write_bytes(whole)
    kept = [{"text": text} for text in texts][: whole.count(b"\n")]
    assert list(read_jsonl(path)) == kept
    with JsonlWriter(path) as writer:
        writer.write({"text": "new"})
    assert list(read_jsonl(path)) == [*kept, {"text": "new"}]


def test_a_bad_line_in_the_middle_is_named_and_not_skipped(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(PlantuneError, match="rows.jsonl line 2"):
        list(read_jsonl(tmp_path / "rows.jsonl"))


def test_a_line_is_on_disk_before_the_next_is_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    code = f"""
import os
from pathlib import Path
from plantune_lite.files import JsonlWriter
JsonlWriter(Path({str(path)!r})).write({{"a": 1}})
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert list(read_jsonl(path)) == [{"a": 1}]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_writing_whole_onto_a_full_disk_leaves_the_old_text(tmp_path):
    path = tmp_path / "f.json"
    write_whole(path, "old")
    code = f"""
import resource
from pathlib import Path
from plantune_lite.files import write_whole
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write_whole(Path({str(path)!r}), "new" * 10_000)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 1
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@given(st.text())
def test_nothing_printable_can_steer_a_terminal(text):
    shown = printable(text)
    assert not any((ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 for char in shown)


def test_markup_and_escape_codes_are_shown_as_they_are():
    assert printable("[b]x[/b] \x1b[2J\u202e") == "[b]x[/b] \\u001b[2J\\u202e"
    assert "[a, b] [/b]" in table("t", ("col",), [("[a, b] [/b]",)])


def test_lengths_are_in_words():
    assert [duration(s) for s in (0.25, 59, 61, 7300)] == ["0.2 s", "59 s", "1 min 1 s", "2 h 1 min"]
    assert [size(b) for b in (640, 1_200_000, 14.9e9)] == ["640 B", "1.2 MB", "14.9 GB"]
