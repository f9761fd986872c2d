import pytest

from plantune_lite.runs.job import Progress
from plantune_lite.terminal import redrawn

LONG = "own untuned few_shot: 12 of 300 problems, 3 min 20 s left; " * 3


@pytest.mark.parametrize("columns", [20, 80])
def test_a_line_that_is_redrawn_takes_one_row(monkeypatch, columns):
    monkeypatch.setenv("PLANTUNE_COLUMNS", str(columns))
    assert redrawn(LONG) == f"\x1b[2K{LONG[: columns - 2]}…\r"
    assert redrawn("short") == "\x1b[2Kshort\r"


def test_the_last_line_of_progress_stays_whole(monkeypatch, capsys):
    monkeypatch.setenv("PLANTUNE_TTY", "1")
    monkeypatch.setenv("PLANTUNE_COLUMNS", "40")
    show = Progress()
    show(LONG)
    show(LONG, last=True)
    first, _, last = capsys.readouterr().out.partition("\r")
    assert len(first) == len("\x1b[2K") + 39 and last == f"\x1b[2K{LONG}\n"


def test_where_nothing_can_be_redrawn_a_line_is_a_line(monkeypatch, capsys):
    monkeypatch.delenv("PLANTUNE_TTY", raising=False)
    Progress()(LONG)
    assert capsys.readouterr().out == LONG + "\n"
