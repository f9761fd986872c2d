import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "benchmarks" / "methods.md").read_text(encoding="utf-8")


def test_every_test_that_the_table_of_methods_names_exists():
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", PAGE)
    assert len(named) == PAGE.count("`tests/") - 1 > 40, "a test is named in another form"
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"


def test_every_row_of_the_methods_says_where_it_stands():
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")][2:]
    assert all(len(row) == 4 or row[2].startswith("left out") for row in rows)
    assert {row[0] for row in rows} >= {"PLAN-TUNING", "CPL", "PTA-GRPO", "worlds", "ROSCOE", "GRPO settings"}
