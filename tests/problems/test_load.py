"""Problems from files, functions, the generator, benchmarks in a folder and on a Hub; what is held out; the survey."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_hub import TOKEN, LoopbackHub

from plantune_lite.problems import files
from plantune_lite.problems.benchmarks import BENCHMARKS
from plantune_lite.problems.load import load_problems, load_suite, suite_names
from plantune_lite.problems.rows import problem
from plantune_lite.problems.split import hold_out, normalised
from plantune_lite.problems.survey import survey_problems
from plantune_lite.recipe.schema import Problems
from plantune_lite.types import MissingError, Problem, ProblemError


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_bytes(text.encode(encoding))
    return str(path)


def write_rows(path: Path, rows: list[dict]) -> str:
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def sums(count: int) -> list[dict]:
    return [{"question": f"What is {number} plus {number}?", "answer": str(2 * number)} for number in range(count)]


def everything(source: str, **named) -> tuple[Problem, ...]:
    return load_problems(Problems(source, held_out=0.0, **named), seed=0).pool


def refused(source: str, **named) -> str:
    with pytest.raises(ProblemError) as caught:
        load_problems(Problems(source, **named), seed=0)
    return str(caught.value)


def ids(made) -> set[str]:
    return {problem.id for problem in made}


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_semicolon_csv_with_umlauts_and_a_byte_order_mark_is_read_as_a_spreadsheet_wrote_it(tmp_path):
    text = 'Prüfungsteil;Frage;Antwort\nA;"Was ist 6 mal 7; sag es";42\nB;Wie hoch?;3,5\n'
    first, second = everything(write(tmp_path / "übung.csv", text, "utf-8-sig"))
    assert (first.id, first.question, first.answer) == ("übung/2", "Was ist 6 mal 7; sag es", "42")
    assert second.answer == "3,5" and second.extra == {"Prüfungsteil": "B"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_csv_is_seen_from_its_header(tmp_path, delimiter):
    lines = [["pregunta", "respuesta"], ["How many, in all?", "7"], ["And then, who knows?", "8"]]
    quoted = [delimiter.join(f'"{cell}"' if delimiter in cell else cell for cell in line) for line in lines]
    assert [problem.answer for problem in everything(write(tmp_path / "a.csv", "\n".join(quoted)))] == ["7", "8"]


def test_the_same_rows_are_the_same_problems_in_every_format(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"problem": "What is 1 + 1?", "gold": 2}, {"problem": "What is 3 / 2?", "gold": 1.5}]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{**row, "gold": float(row["gold"])} for row in rows]), tmp_path / "p.parquet"
    )
    sources = [
        write_rows(tmp_path / "a.jsonl", rows),
        write(tmp_path / "b.json", json.dumps(rows)),
        write(tmp_path / "c.json", json.dumps({"data": rows})),
        write(tmp_path / "d.tsv", "problem\tgold\nWhat is 1 + 1?\t2\nWhat is 3 / 2?\t1.5\n"),
        str(tmp_path / "p.parquet"),
    ]
    for source in sources:
        assert [(p.question, p.answer) for p in everything(source)] == [
            ("What is 1 + 1?", "2"),
            ("What is 3 / 2?", "1.5"),
        ]


def test_a_quoted_question_over_three_lines_counts_as_three_lines_of_the_file(tmp_path):
    text = 'question,answer\n"one\ntwo\nthree?",1\n\nlast?,2\n'
    assert [problem.id for problem in everything(write(tmp_path / "a.csv", text))] == ["a/2", "a/6"]


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1), st.sampled_from(",;\t|"))
def test_any_csv_that_python_writes_is_read_back(cells, delimiter):
    import csv
    import io

    kept = [(q, a) for q, a in cells if q.strip() and a.strip() and "\0" not in q + a]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("question", "answer"), *kept])
    columns, rows = files._csv("a.csv", file.getvalue(), delimiter)
    assert [(row.cells["question"], row.cells["answer"]) for row in rows] == kept


def test_bad_rows_are_named_by_line_and_field_and_stop_the_run(tmp_path):
    path = write(tmp_path / "my.csv", "Frage,Antwort\nWie viele?,3\nWie alt?,\n,4\nWo, genau,5\n")
    message = refused(path)
    assert "3 of 4 rows" in message and "problems.bad_rows=skip" in message
    assert "my.csv line 3: answer is empty" in message and "my.csv line 4: question is empty" in message
    assert "my.csv line 5: 3 cells under 2 column names" in message


def test_skipped_rows_are_counted_and_named(tmp_path):
    rows = [
        *sums(3),
        {"question": "What?", "answer": ["a"]},
        {"question": 5, "answer": "5"},
        {"question": "Why?", "answer": None},
    ]
    loaded = load_problems(Problems(write_rows(tmp_path / "my.jsonl", rows), bad_rows="skip"), seed=0)
    (origin,) = loaded.origin.values()
    assert (origin["rows"], origin["skipped"]) == (6, 3)
    assert loaded.notes[1:] == (
        "  my.jsonl line 4: answer is ['a'], not text or a number",
        "  my.jsonl line 5: question is 5, not text",
        "  my.jsonl line 6: answer is empty",
    )


def test_no_more_than_ten_bad_rows_are_listed(tmp_path):
    message = refused(write_rows(tmp_path / "my.jsonl", [*sums(2), *[{"question": "", "answer": "1"}] * 12]))
    assert message.count("question is empty") == 10 and "... and 2 more" in message


def test_a_file_that_is_not_utf_8_is_told_by_the_line_of_its_first_bad_byte(tmp_path):
    path = write(tmp_path / "alt.csv", "Frage,Antwort\nWie viele?,3\nWie groß?,4\n", "latin-1")
    assert "alt.csv line 3: byte 0xDF is not UTF-8; save it as UTF-8" in refused(path)
    assert "alt16.csv line 1: byte 0x" in refused(write(tmp_path / "alt16.csv", "Frage,Antwort\n", "utf-16"))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "question,answer,answer\nq?,1,2\n", "a.csv: two columns are named 'answer'"),
        ("a.csv", 'question,answer\n"q?,1\n', "a.csv line 2: unexpected end of data"),
        ("a.jsonl", '{"question": "q?", "answer": 1}\n{"question": \n', "a.jsonl line 2: not JSON"),
        ("a.json", '{"rows": []}', 'expected a list of problems or {"data": [...]}, not '),
        ("a.jsonl", "\n\n", "has no rows"),
        ("a.parquet", "nonsense", "a.parquet is not a Parquet file"),
        ("a.xlsx", "PK", "not a source"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, name, text, told):
    assert told in refused(write(tmp_path / name, text))


def test_a_parquet_file_with_two_columns_of_a_name_says_so(tmp_path):
    table = pyarrow.Table.from_arrays([["a?"], ["b?"], ["3"]], names=["question", "question", "answer"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert refused(str(tmp_path / "a.parquet")) == "a.parquet: two columns are named 'question'; rename one"


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    assert "cannot read" in refused(str(tmp_path / "gone.csv"))


def test_a_file_whose_columns_have_no_known_names_is_told_what_to_write(tmp_path):
    text = "foo,bar\nHow many apples does Ann have?,3\nHow many pears does Ben have?,4\n"
    path = write(tmp_path / "a.csv", text)
    assert "There are foo, bar. Set problems.question=COLUMN problems.answer=COLUMN" in refused(path)
    assert everything(path, question="foo", answer="bar")[1].answer == "4"
    assert refused(write(tmp_path / "a.jsonl", "{}\n")).endswith("which the answer? It has no columns")


def test_a_column_that_a_recipe_names_is_taken_or_missed_by_name(tmp_path):
    path = write(tmp_path / "a.csv", "question,answer,alt\nHow many?,3,4\n")
    assert everything(path, answer="alt")[0].answer == "4"
    assert "no column 'alternative' (problems.answer)" in refused(path, answer="alternative")


def test_what_stands_below_an_instruction_is_part_of_the_question(tmp_path):
    row = {"instruction": "Solve the word problem.", "input": "Ann has 2 pens and buys 4.", "output": "6"}
    rows = [row, {**row, "input": ""}, {**row, "input": 12}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    below = ["Solve the word problem.\n\nAnn has 2 pens and buys 4.", "Solve the word problem."]
    assert [one.question for one in everything(path)] == [*below, "Solve the word problem.\n\n12"]
    assert everything(path)[0].extra == {} and survey_problems(Problems(path), seed=0).roles["input"] == "input"
    named = everything(path, question="instruction")[0]
    assert (named.question, named.extra) == ("Solve the word problem.", {"input": row["input"]})


def test_a_worked_solution_in_the_answer_column_gives_both(tmp_path):
    rows = [
        {"question": "2 dozen?", "answer": "2 * 12 = 24\n#### 24"},
        {"question": "Half?", "answer": r"It is \boxed{\frac{1}{2}}."},
    ]
    first, second = everything(write_rows(tmp_path / "a.jsonl", rows))
    assert (first.answer, first.solution) == ("24", "2 * 12 = 24")
    (bare,) = everything(write_rows(tmp_path / "b.jsonl", [{"question": "2 dozen?", "answer": "#### 24"}]))
    assert (bare.answer, bare.solution) == ("24", None)
    assert (second.answer, second.solution) == (r"\frac{1}{2}", r"It is \boxed{\frac{1}{2}}.")


@pytest.mark.parametrize(
    ("said", "answer", "solution"),
    [
        ("She buys 2*3=6 pens.\nShe has 3+6=9 pens.\nThe answer is: 9", "9", True),
        ("Half of 18, so the answer is 9.", "9", True),
        ("**Answer:** 9", "9", False),
        ("The final answer is 9.", "9", False),
        ("Try the answer: 5. That is too low, so it is 9.", "Try the answer: 5. That is too low, so it is 9.", False),
        ("A\nB", "A\nB", False),
        ("question and answer", "question and answer", False),
    ],
)
def test_an_answer_that_prose_says_is_taken_out_of_it(tmp_path, said, answer, solution):
    (made,) = everything(write_rows(tmp_path / "a.jsonl", [{"query": "How many pens?", "response": said}]))
    assert (made.answer, made.solution) == (answer, said if solution else None)


def test_a_choice_is_not_read_for_an_answer_that_it_says(tmp_path):
    rows = [{"question": "Which?", "choices": ["The answer is B", "no"], "answer": "The answer is B"}]
    assert everything(write_rows(tmp_path / "a.jsonl", rows))[0].answer == "A"


ESSAY = "The first of them is taller than the second. " * 3


def test_explanations_are_left_out_and_counted_where_only_checked_answers_are_learned_from(tmp_path):
    words = {"question": "Sort the words.", "answer": " ".join(f"w{number}" for number in range(30))}
    rows = [*sums(5), words, {"question": "Why?", "answer": ESSAY}]
    part = Problems(write_rows(tmp_path / "a.jsonl", rows), held_out=0.0)
    loaded = load_problems(part, seed=0, checked=True)
    assert ids(loaded.pool) == {f"a/{number}" for number in range(1, 7)}
    assert "6 of 7 problems of" in loaded.notes[0] and "prose, which cannot be checked" in loaded.notes[0]
    assert len(load_problems(part, seed=0).pool) == 7, "a plan alone needs no answer that can be checked"


def test_a_file_of_explanations_alone_is_refused_before_anything_is_asked(tmp_path):
    part = Problems(write_rows(tmp_path / "a.jsonl", [{"question": "Why?", "answer": ESSAY}] * 2))
    with pytest.raises(ProblemError, match=r"every answer of .* is prose, .* set corpus.filter=plan"):
        load_problems(part, seed=0, checked=True)


@pytest.mark.parametrize(
    "choices",
    [
        ["red", "blue"],
        '["red", "blue"]',
        "red | blue",
        {"A": "red", "B": "blue"},
    ],
)
def test_choices_come_in_many_shapes_and_the_answer_becomes_a_letter(tmp_path, choices):
    rows = [{"question": "Which?", "choices": choices, "answer": answer} for answer in ("(b)", "Blue", "B")]
    made = everything(write_rows(tmp_path / "a.jsonl", rows))
    assert [(p.answer, p.choices, p.kind) for p in made] == [("B", ("red", "blue"), "choice")] * 3


def test_a_letter_beyond_the_choices_is_a_bad_row(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"question": "Which?", "options": ["red", "blue"], "answer": "E"}])
    assert "a.jsonl line 1: answer is 'E', but the choices are A to B" in refused(path)


def test_other_columns_are_kept_and_one_that_is_only_called_like_ours_is_not_taken_for_it(tmp_path):
    rows = [{"question": "q?", "final_answer": 3, "answer": "long", "kind": "algebra", "extra": {"level": "Level 2"}}]
    (problem,) = everything(write_rows(tmp_path / "a.jsonl", rows))
    assert (problem.answer, problem.kind) == ("3", "text")
    assert problem.extra == {"kind": "algebra", "level": 2}


def test_half_a_character_is_a_bad_row_and_not_a_crash_when_the_pool_is_written(tmp_path):
    path = write(tmp_path / "a.jsonl", r'{"question": "a \ud83d?", "answer": 1}' + "\n")
    assert "line 1: question contains half of a character" in refused(path)


def test_a_file_of_one_question_says_that_nothing_is_held_out(tmp_path):
    loaded = load_problems(Problems(write_rows(tmp_path / "a.jsonl", sums(1) * 3)), seed=0)
    assert len(loaded.pool) == 3 and loaded.own == () and "nothing is held out" in loaded.notes[-1]


def test_an_id_is_given_once(tmp_path):
    rows = [{"id": 7, "question": "a?", "answer": 1}, {"id": 7, "question": "b?", "answer": 2}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    assert "line 2: id '7' is also the id of a.jsonl line 1" in refused(path, id="id")
    assert ids(everything(path)) == {"a/1", "a/2"}  # a column that is only guessed to be the id is not insisted on


def test_a_pool_that_a_run_wrote_can_be_loaded_again(tmp_path):
    from plantune_lite.files import write_records

    pool = everything(write_rows(tmp_path / "a.jsonl", [{**row, "level": 2, "steps": ["s"]} for row in sums(3)]))
    write_records(tmp_path / "pool.jsonl", pool)
    again = everything(str(tmp_path / "pool.jsonl"))
    assert [(p.id, p.question, p.answer, p.steps, p.extra["level"]) for p in again] == [
        (p.id, p.question, p.answer, p.steps, p.extra["level"]) for p in pool
    ]


# --- held out, limits, levels -----------------------------------------------------------------------------------------


def test_no_row_that_was_trained_on_is_held_out_when_the_file_grows(tmp_path):
    path = tmp_path / "my.jsonl"
    before = load_problems(Problems(write_rows(path, sums(400))), seed=1)
    after = load_problems(Problems(write_rows(path, sums(500))), seed=1)
    assert ids(before.pool) < ids(after.pool) and ids(before.own) < {p.id for p in after.own}
    assert 60 < len(before.own) < 100
    much = load_problems(Problems(write_rows(path, sums(4000))), seed=1)
    assert len(much.own) == 300 and ids(before.pool) < ids(much.pool)


def test_copies_of_a_question_stay_on_one_side(tmp_path):
    rows = [row for row in sums(50) for row in (row, {**row, "question": row["question"].upper().replace(" ", "  ")})]
    loaded = load_problems(Problems(write_rows(tmp_path / "a.jsonl", rows)), seed=0)
    own, pool = ({normalised(p) for p in side} for side in (loaded.own, loaded.pool))
    assert own and pool and not own & pool and len(loaded.own) == 2 * len(own)


@given(st.lists(st.integers(0, 30), max_size=80), st.integers(0, 3), st.floats(0, 0.9), st.integers(1, 20))
def test_a_split_loses_nothing_and_never_cuts_a_group(groups, seed, share, most):
    made = [Problem(id=str(number), question=f"q{group}", answer="1") for number, group in enumerate(groups)]
    split = hold_out(made, share=share, seed=seed, most=most)
    held = {p.question for p in (*split.own, *split.left_out)}
    assert len(split.own) <= most and not held & {p.question for p in split.pool}
    assert sorted(p.id for p in (*split.pool, *split.own, *split.left_out)) == sorted(p.id for p in made)


def test_a_larger_limit_contains_a_smaller_one_and_neither_changes_what_is_held_out(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", sums(200))
    small, large = (load_problems(Problems(path, limit=limit), seed=5) for limit in (20, 60))
    assert ids(small.pool) < ids(large.pool) and small.own == large.own and len(small.pool) == 20
    numbers = [int(p.id.partition("/")[2]) for p in small.pool]
    assert numbers == sorted(numbers) and numbers != list(range(1, 21))
    assert load_problems(Problems(path, limit=20), seed=6).pool != small.pool


def test_only_the_levels_asked_for_are_taken_and_those_there_are_named(tmp_path):
    rows = [{**row, "level": f"Level {1 + number % 3}"} for number, row in enumerate(sums(30))]
    path = write_rows(tmp_path / "a.jsonl", rows)
    assert {p.extra["level"] for p in everything(path, levels=(1, 3))} == {1, 3}
    assert "its levels are 1, 2, 3" in refused(path, levels=(5,))
    own = load_problems(Problems(str(write_rows(tmp_path / "b.jsonl", sums(3))), levels=(5,), held_out=0), seed=0)
    assert len(own.pool) == 3, "a source without levels is taken whole"


@pytest.mark.parametrize("source", ["practice", "practice_stories"])
def test_what_is_made_here_holds_out_fresh_problems_of_the_same_kinds(source):
    loaded = load_problems(Problems(source, limit=60), seed=0)
    own, pool = ({p.extra["template"] for p in side} for side in (loaded.own, loaded.pool))
    assert len(loaded.pool) == 60 and len(loaded.own) == 12 and own <= pool
    assert not {p.question for p in loaded.own} & {p.question for p in loaded.pool}


def test_sources_are_joined_and_share_the_limit(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", sums(50))
    loaded = load_problems(Problems(f"practice+{path}", limit=21), seed=0)
    assert [entry["taken"] for entry in loaded.origin.values()] == [11, 10]
    assert {p.source for p in loaded.own} == {"practice", "a.jsonl"}


def test_two_files_that_count_their_problems_from_one_are_mixed(tmp_path):
    for name in ("a.csv", "b.csv", "more/b.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "id,question,answer\n" + f"1,One of {name}?,3\n2,Two of {name}?,4\n")
    part = Problems("+".join(str(tmp_path / name) for name in ("a.csv", "b.csv", "more/b.csv")), held_out=0.0)
    loaded = load_problems(part, seed=0)
    assert ids(loaded.pool) == {"1", "2", "2/1", "2/2", "3/1", "3/2"}


def test_an_unknown_source_suggests_a_near_one():
    assert "did you mean 'gsm8k'" in refused("gsm8")


# --- functions and generators -----------------------------------------------------------------------------------------

FUNCTIONS = """
from plantune_lite.types import Problem
def ten(seed, limit=None):
    for number in range(10):
        yield {"question": f"What is {number} + {seed}?", "answer": number + seed, "topic": "sums"}
def one():
    return [Problem(id="mine", question="Which?", answer="A", choices=("x", "y"), kind="choice")]
def odd():
    return ["a question"]
def endless():
    return 5
"""


def test_a_function_yields_dicts_or_problems_and_takes_a_seed_where_it_wants_one(tmp_path):
    home = write(tmp_path / "mine.py", FUNCTIONS)
    made = load_problems(Problems(f"{home}:ten"), seed=3)
    assert {p.answer for p in (*made.pool, *made.own)} == {str(number + 3) for number in range(10)}
    (problem,) = everything(f"{home}:one")
    assert (problem.id, problem.choices, problem.kind) == ("mine", ("x", "y"), "choice")


def test_a_function_that_gives_something_else_is_told_so(tmp_path):
    home = write(tmp_path / "mine.py", FUNCTIONS)
    assert "item 1: expected a Problem or a dict, not a str" in refused(f"{home}:odd")
    assert "returned one int; it must return or yield Problems or dicts" in refused(f"{home}:endless")


def test_reasoning_gym_is_asked_for_with_the_command_when_it_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # what an import finds where it is not installed
    with pytest.raises(MissingError, match=r"plantune-lite\[gym\].*C compiler"):
        load_problems(Problems("gym:gsm_symbolic"), seed=0)


def test_reasoning_gym_holds_whole_templates_out():
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install 'plantune-lite[gym]'")
    loaded = load_problems(Problems("gym:gsm_symbolic", limit=100), seed=0)
    own, pool = ({p.extra["template"] for p in side} for side in (loaded.own, loaded.pool))
    assert len(loaded.pool) == 100 and own and not own & pool and all(p.steps for p in loaded.pool)
    assert "did you mean 'leg_counting'" in refused("gym:leg_countin")


# --- benchmarks -------------------------------------------------------------------------------------------------------

ROWS = {
    "gsm8k": {"question": "How many?", "answer": "How many? ** 2*3=<<2*3=6>>6.\n#### 6"},
    "math": {"problem": "P", "solution": r"So \boxed{\frac12}.", "level": "Level 5", "type": "Algebra"},
    "math500": {
        "problem": "P",
        "solution": "s",
        "answer": "6",
        "level": 2,
        "subject": "Algebra",
        "unique_id": "test/a/1.json",
    },
    "olympiadbench": {
        "id": 7,
        "question": "P",
        "solution": ["s", "t"],
        "final_answer": ["$(1,2)$"],
        "context": None,
        "subfield": "Algebra",
    },
    "aime24": {"problem": "P", "solution": "s", "answer": "204"},
    "aime25": {"problem": "P", "answer": "70"},
    "aime_1983_2024": {"ID": "1983-1", "Year": 1983, "Question": "P", "Answer": 60},
    "amc23": {"problem": "P", "answer": 27.0},
    "arc_challenge": {
        "id": "M",
        "question": "P",
        "choices": {"text": ["x", "y"], "label": ["1", "2"]},
        "answerKey": "2",
    },
    "mmlu": {"question": "P", "subject": "law", "choices": ["x", "y", "z", "w"], "answer": 3},
    "mmlu_stem": {"question": "P", "subject": "astronomy", "choices": ["x", "y", "z", "w"], "answer": 0},
    "bbh": {"input": "P\nOptions:\n(A) x\n(B) y", "target": "(B)"},
    "strategyqa": {"question": "P", "answer": True, "facts": "f"},
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": "def f():\n",
        "canonical_solution": "    return 1\n",
        "test": "t",
        "entry_point": "f",
    },
}
ANSWERS = {
    "gsm8k": "6", "math": r"\frac12", "math500": "6", "olympiadbench": "(1,2)", "aime24": "204", "aime25": "70",
    "aime_1983_2024": "60", "amc23": "27", "arc_challenge": "B", "mmlu": "D", "mmlu_stem": "A", "bbh": "(B)",
    "strategyqa": "yes", "humaneval": "    return 1\n",
}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_row_of_each_benchmark_becomes_a_problem(name):
    benchmark = BENCHMARKS[name]
    made = problem(benchmark.fields(ROWS[name]), id="x", source=name, split="test", kind=benchmark.kind)
    assert made.answer == ANSWERS[name] and made.question.strip()
    assert made.kind == {"arc_challenge": "choice", "mmlu": "choice", "mmlu_stem": "choice", "humaneval": "code"}.get(
        name, "text"
    )


def test_sub_questions_steps_and_levels_come_with_the_rows():
    gsm8k = problem(BENCHMARKS["gsm8k"].fields(ROWS["gsm8k"]), id="x", source="", split="")
    assert gsm8k.steps == ("2*3=6.",) and gsm8k.extra == {"subquestions": ["How many?"]}
    math = problem(BENCHMARKS["math"].fields(ROWS["math"]), id="x", source="", split="")
    assert math.extra == {"level": 5} and math.solution == r"So \boxed{\frac12}."


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PLANTUNE_DATA", str(tmp_path))
    write_rows(tmp_path / "gsm8k_train.jsonl", sums(20))
    write_rows(tmp_path / "gsm8k_test.jsonl", [{"id": "t/0", "question": "Test?", "answer": "1"}])
    write_rows(tmp_path / "strategyqa_dev.jsonl", [{"question": "Is it?", "answer": "yes", "facts": ["f"]}])
    write_rows(tmp_path / "bbh.jsonl", [{"question": "Which?\nOptions:\n(A) x\n(B) y", "answer": "(B)"}])
    return tmp_path


def test_a_folder_of_ones_own_serves_benchmarks_and_says_which_file(folder):
    loaded = load_problems(Problems("gsm8k"), seed=0)
    assert {p.source for p in loaded.pool} == {"gsm8k"} and loaded.origin["gsm8k"]["file"].endswith("gsm8k_train.jsonl")
    suite = load_suite("strategyqa", limit=None, seed=0, own=())
    assert suite.origin["file"].endswith("strategyqa_dev.jsonl") and suite.problems[0].answer == "yes"
    (bbh,) = load_suite("bbh", limit=None, seed=0, own=()).problems
    assert (bbh.answer, bbh.choices, bbh.kind) == ("(B)", (), "text")


def test_a_test_set_is_not_trained_on(folder):
    assert "bbh has only a test split" in refused("bbh")
    assert "only the train split of gsm8k is trained on" in refused("gsm8k", split="test")


def test_a_file_that_does_not_say_its_split_is_not_guessed_at(folder):
    (folder / "gsm8k_train.jsonl").rename(folder / "gsm8k.jsonl")
    assert "rename it gsm8k_train.jsonl or gsm8k_test.jsonl" in refused("gsm8k")


# --- suites -----------------------------------------------------------------------------------------------------------


def test_groups_of_suites_are_spelled_out_once():
    assert suite_names(("own", "pta", "math500")) == ("own", "math500", "aime24", "aime25", "amc23")
    with pytest.raises(ProblemError, match="did you mean 'math500'"):
        suite_names(("math50",))


def test_the_suites_of_practice_are_of_the_levels_that_are_learned_from_or_one_hop_longer():
    pool = load_problems(Problems("practice", limit=20, levels=(2, 3)), seed=0).pool
    levels = {
        name: {one.extra["level"] for one in load_suite(name, limit=40, seed=0, own=(), pool=pool).problems}
        for name in ("practice", "practice_words", "practice_longer", "practice_stories")
    }
    assert levels == {
        "practice": {2, 3},
        "practice_words": {2, 3},
        "practice_longer": {4},
        "practice_stories": {1, 2, 3},
    }


def test_the_suite_own_is_what_was_held_out_and_never_empty():
    own = load_problems(Problems("practice", limit=100), seed=0).own
    assert ids(load_suite("own", limit=5, seed=0, own=own).problems) < ids(own)
    with pytest.raises(ProblemError, match="problems.held_out"):
        load_suite("own", limit=5, seed=0, own=())


# --- the survey -------------------------------------------------------------------------------------------------------


def test_a_survey_says_what_is_in_a_file_before_anything_is_spent(tmp_path):
    rows = [*sums(20), {"question": "Who?", "answer": ""}]
    found = survey_problems(Problems(write_rows(tmp_path / "my.jsonl", rows)), seed=0)
    assert (found.rows, found.problems, found.bad, len(found.samples)) == (21, 20, 1, 5)
    assert found.roles == {"question": "question", "answer": "answer"}
    assert found.bad_rows == (("my.jsonl line 21", "answer is empty"),)
    assert (found.tried, found.uncheckable) == (20, 0)
    assert found.held_out == len(load_problems(Problems(found.file, bad_rows="skip"), seed=0).own)


def test_a_survey_tries_a_sample_of_very_many_answers_and_says_so(tmp_path):
    found = survey_problems(Problems(write_rows(tmp_path / "my.jsonl", sums(1_030))), seed=0)
    assert (found.tried, found.uncheckable, found.problems) == (1_000, 0, 1_030)


def test_a_survey_names_the_answers_that_the_grader_cannot_check(tmp_path):
    essay = "Because the first of them is taller than the second, while the third one does not count at all here, " * 3
    found = survey_problems(
        Problems(write_rows(tmp_path / "my.jsonl", [*sums(5), {"question": "Why?", "answer": essay}])), seed=0
    )
    assert found.unchecked == (("my.jsonl line 6", essay.strip()),) and found.uncheckable == 1


# --- the Hub ----------------------------------------------------------------------------------------------------------

CARD = """---
configs:
- config_name: socratic
  data_files: [{split: train, path: socratic/train.jsonl}, {split: test, path: socratic/test.jsonl}]
---
"""
TWO = "---\nconfigs: [{config_name: a, data_files: a.jsonl}, {config_name: b, data_files: b.jsonl}]\n---\n"
PLAIN = "---\nconfigs: [{config_name: default, data_files: [{split: test, path: test.jsonl}]}]\n---\n"
CHILD = """
import json, sys
from plantune_lite.problems import load
from plantune_lite.recipe.schema import Problems
from plantune_lite.types import ProblemError

def outcome(verb, name, revisions):
    try:
        if verb == "suite":
            suite = load.load_suite(name, limit=None, seed=0, own=(), revisions=revisions)
            return [problem.question for problem in suite.problems]
        loaded = load.load_problems(Problems(name), seed=0, revisions=revisions)
        revisions = load.revisions_of(loaded.origin.values())
        return {"rows": len(loaded.pool + loaded.own), "revisions": revisions, "origin": loaded.origin[name],
                "steps": loaded.pool[0].steps, "first": min((one.question, one.answer) for one in loaded.pool)}
    except ProblemError as error:
        return str(error)

json.dump([outcome(*request) for request in json.loads(sys.argv[1])], sys.stdout)
"""


def in_a_child(environment: dict[str, str], *requests: tuple[str, str, dict[str, str]]) -> list:
    """What each load or suite gave in one process of its own: huggingface_hub reads HF_ENDPOINT when it is imported."""
    command = [sys.executable, "-c", CHILD, json.dumps(requests)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    return json.loads(done.stdout)


def gsm8k(count: int) -> dict[str, str]:
    answers = [f"Sum? ** {n}+1=<<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}" for n in range(count)]
    rows = [{"question": f"How much is {n} + 1?", "answer": answer} for n, answer in enumerate(answers)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return {"README.md": CARD, "socratic/train.jsonl": lines, "socratic/test.jsonl": lines}


def jsonl(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CHATS = jsonl(
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"How much is {n} + 1?"},
            {"role": "assistant", "content": f"Add one to {n}.\nThe answer is {n + 1}."},
        ]
    }
    for n in range(5)
)
LONG = jsonl([{"messages": [{"role": role, "content": "And 2 + 2?"} for role in ("user", "assistant") * 2]}])


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> SimpleNamespace:
    """What a child that met our Hub came back with, and then two that did not reach it."""
    home = tmp_path_factory.mktemp("hub")
    with LoopbackHub() as server:
        old, new = server.commit("openai/gsm8k", gsm8k(10)), server.commit("openai/gsm8k", gsm8k(12))
        amc = server.commit(
            "math-ai/amc23", {"README.md": PLAIN, "test.jsonl": json.dumps({"question": "Which?", "answer": 27.0})}
        )
        server.commit(
            "HuggingFaceH4/MATH-500", {"README.md": PLAIN, "test.jsonl": json.dumps({"prompt": "Which?", "gold": "1"})}
        )
        card = PLAIN.replace("default", "openai_humaneval")
        server.commit("openai/openai_humaneval", {"README.md": card, "test.jsonl": "{}"}, gated=True)
        chats = server.commit(
            "planners/chats", {"README.md": PLAIN.replace("test", "train"), "train.jsonl": LONG + CHATS}
        )
        pairs = {"prompt": "How much is 1 + 1?", "completion": "2"}, {"prompt": "How much is 2 + 2?", "completion": "4"}
        server.commit("planners/pairs", {"README.md": TWO} | {f"{one}.jsonl": jsonl(pairs) for one in "ab"})
        environment = server.environment(home)
        now, then, gone, chatted, paired, unnamed, misspelt, amc23, math500, humaneval, aime25 = in_a_child(
            environment,
            ("load", "gsm8k", {}),
            ("load", "gsm8k", {"openai/gsm8k": old}),
            ("load", "gsm8k", {"openai/gsm8k": "0" * 40}),
            *(("load", f"hf:planners/{name}", {}) for name in ("chats", "pairs/b", "pairs")),
            ("load", "hf:planners", {}),
            *(("suite", name, {}) for name in ("amc23", "math500", "humaneval", "aime25")),
        )
    (away,) = in_a_child(environment, ("suite", "amc23", {}))
    pinned = [("suite", "amc23", {"math-ai/amc23": revision}) for revision in (amc, "1" * 40)]
    cached, uncached = in_a_child(
        {**environment, "HF_HUB_OFFLINE": "1"}, *pinned
    )  # without it, datasets tries for 20 s
    return SimpleNamespace(**locals())


def test_the_newest_commit_is_loaded_and_comes_back_as_the_revision(hub):
    assert hub.now["revisions"] == {"openai/gsm8k": hub.new} and hub.now["rows"] == 12
    origin = hub.now["origin"]
    assert (origin["id"], origin["config"], origin["split"]) == ("openai/gsm8k", "socratic", "train")
    assert (origin["revision"], origin["rows"], origin["skipped"]) == (hub.new, 12, 0)


def test_a_pinned_revision_gives_the_old_rows_after_the_repository_moved_on(hub):
    assert hub.then["revisions"] == {"openai/gsm8k": hub.old} and hub.then["rows"] == 10
    assert hub.then["steps"][0].partition("+1=")[1] and "<<" not in hub.then["steps"][0]


def test_a_column_with_two_known_names_is_found_and_a_missing_one_names_the_data_set(hub):
    assert hub.amc23 == ["Which?"]
    assert hub.math500.startswith("HuggingFaceH4/MATH-500 test on the Hub has no column 'answer'")
    assert "it has prompt, gold" in hub.math500


def test_any_data_set_of_the_hub_has_problems_be_they_chats_or_prompts_with_completions(hub):
    assert hub.chatted["first"] == ["How much is 0 + 1?", "1"] and hub.chatted["rows"] == 5
    assert hub.chatted["origin"]["skipped"] == 1  # nobody can mend a row of it
    assert hub.chatted["revisions"] == {"planners/chats": hub.chats} and hub.chatted["origin"]["split"] == "train"
    assert hub.paired["origin"]["config"] == "b" and hub.paired["rows"] == 2
    assert hub.paired["origin"]["columns"] == {"question": "prompt", "answer": "completion"}


def test_a_data_set_with_several_configs_says_which_there_are_and_a_name_without_owner_what_is_missing(hub):
    assert hub.unnamed.startswith("planners/pairs at revision ") and "['a', 'b']" in hub.unnamed
    assert hub.misspelt == "problems.source is 'hf:planners', but must be hf:OWNER/NAME, or hf:OWNER/NAME/CONFIG"


def test_a_conversation_of_several_questions_is_no_problem(tmp_path):
    path = write(tmp_path / "long.jsonl", LONG + CHATS)
    with pytest.raises(ProblemError, match=r"line 1: prompt has 3 turns; a problem is one question and one reply"):
        everything(path)
    assert len(everything(path, bad_rows="skip")) == 5


def test_what_the_hub_refuses_is_one_sentence(hub):
    assert (
        hub.humaneval.startswith("openai/openai_humaneval") and "gated" in hub.humaneval and "HF_TOKEN" in hub.humaneval
    )
    assert hub.aime25.startswith("math-ai/aime25 could not be loaded from the Hub (") and "PLANTUNE_DATA" in hub.aime25
    assert hub.gone.startswith("openai/gsm8k at revision 000000000000 could not be loaded from the Hub (")


def test_a_hub_out_of_reach_is_one_sentence(hub):
    assert hub.away.startswith("math-ai/amc23 could not be loaded from the Hub (") and "PLANTUNE_DATA" in hub.away


def test_out_of_reach_only_the_very_revision_of_the_run_is_taken_from_the_cache(hub):
    assert hub.cached == ["Which?"]
    assert "the cache has another revision than 111111111111" in hub.uncached


def test_the_loopback_hub_says_no(hub):
    assert {(404, "RepoNotFound"), (404, "RevisionNotFound"), (401, "GatedRepo")} <= set(hub.server.refused)


def test_the_loopback_hub_shows_a_gated_file_for_the_right_token_only():
    import httpx

    with LoopbackHub() as server:
        server.commit("a/b", {"x.txt": "hello"}, gated=True)
        url = f"{server.url}/datasets/a/b/resolve/main/x.txt"
        codes = [httpx.get(url, headers=headers).status_code for headers in ({}, {"Authorization": "Bearer hf_other"})]
        assert codes == [401, 403] and httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"}).text == "hello"
