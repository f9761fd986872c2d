"""What CONTRIBUTING.md says is tested of which model is a test that is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_contributing_names_is_there():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    there = {
        name
        for file in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 10 and named - there == set()


def test_every_family_has_its_row_and_a_cell_is_a_test_or_says_that_there_is_none():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| family | load |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()[2:]]
    assert all(len(row) == 8 for row in rows) and "Qwen3.5" in page and "Gemma 4" in page
    assert all(re.fullmatch(r"`test_\w+`|not tested yet", cell) for row in rows for cell in row[1:])
