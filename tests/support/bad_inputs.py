"""Bad inputs by the thousand, each made anew from its seed: problem files, overrides, recipes, run folders.

case = bad_input(7, tmp_path / "7", sound=tmp_path / "sound")     case.arguments -> ["show", ".../mine.csv"]

Some of what chance does to an input is harmless, so `refused` is said only where it is known.
"""

import csv
import io
import json
import os
import random
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
from finished_run import finished_run

from plantune_lite.files import encodable, write_records, write_whole
from plantune_lite.pipeline.stages import active_stages
from plantune_lite.pipeline.state import fingerprint, inputs_of
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.load import load_recipe, override, shipped, to_json
from plantune_lite.recipe.schema import leaves
from plantune_lite.report.page import write_report
from plantune_lite.runs.folder import outputs_of
from plantune_lite.runs.manifest import Entry, read_manifest, read_summary, write_manifest
from plantune_lite.types import Score, Trajectory


@dataclass(frozen=True)
class BadInput:
    """A command, whether it must fail, and of which words its error must say one."""

    arguments: list[str]
    refused: bool
    names: tuple[str, ...]


def bad_input(seed: int, folder: Path, *, sound: Path) -> BadInput:
    """Make the input of a seed in a folder of its own, of which `inputs` and `mine` hold what is given."""
    dice = random.Random(seed)
    (folder / "inputs").mkdir(parents=True)
    make = (_problem_file, _words, _recipe_file, _run_folder, _run_folder)[seed % 5]
    return make(dice, folder, sound)


# --- what is done to texts and JSON -----------------------------------------------------------------------------------

DEEP, HUGE = "@deep@", "@huge@"  # written into the text: json.dumps has limits of its own
VALUES = (
    *(None, True, False, 0, -1, 5, 1.5, 10**30, float("nan"), float("inf"), "", "x", "nan", "../../etc", "\x00"),
    *("\ud800", "ünïcode ☃", "x" * 3000, "-0", "1e400", [], {}, [None], ["x"], {"x": 1}, [[]], DEEP, HUGE),
)
WHOLE = (
    *("", "null", "5", '"x"', "[]", "{}", "{", "[{}]", "NaN", "\x00"),
    *(f'"{DEEP}"', f'"{HUGE}"', f'{{"format": "{HUGE}"}}'),
)


def _spelled(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).replace(f'"{HUGE}"', "9" * 5_000)
    return encodable(text)


def _bent(dice: random.Random, value):
    """JSON with one place in it lost, or replaced by what nobody would write there."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(sorted(value))
        if dice.random() < 0.15:
            return {name: inner for name, inner in value.items() if name != key}
        return {**value, key: _bent(dice, value[key])}
    if isinstance(value, list) and value and dice.random() < 0.8:
        place = dice.randrange(len(value))
        return [*value[:place], _bent(dice, value[place]), *value[place + 1 :]]
    return dice.choice(VALUES)


def _torn(dice: random.Random, data: bytes) -> bytes:
    """Bytes after a kill, a bad disk, or an editor of another encoding."""
    place = dice.randrange(len(data) + 1)
    kind = dice.randrange(7)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + b"\0" * dice.randrange(1, 9) + data[place:]
    if kind == 2:
        return data[:place] + dice.randbytes(4) + data[place + 4 :]
    if kind == 3:
        return data.decode("utf-8", "replace").encode(dice.choice(("utf-16", "utf-16-le", "utf-32")))
    if kind == 4:
        return data + dice.choice((data, b"<<<<<<< HEAD\n", b'{"x": 1}\n', b"\xff\xfe\n", b"null\n", b"[]\n"))
    if kind == 5:
        return data.replace(b"e", "é".encode("latin-1"), 3)
    return bytes(len(data))


def _spoiled(dice: random.Random, path: Path) -> None:
    """Make a file of a run, or of a mirror, what it must not be."""
    kind = dice.randrange(5)
    data = path.read_bytes()
    if kind == 0:
        path.write_bytes(_torn(dice, data))
    elif kind == 1:
        path.unlink()
        if dice.random() < 0.5:
            path.mkdir()
    elif kind == 2 or path.suffix not in (".json", ".jsonl"):
        path.write_bytes(_spelled(dice.choice(WHOLE)).encode())
    elif path.suffix == ".json":
        path.write_text(_spelled(_bent(dice, json.loads(data))))
    else:
        rows = data.splitlines()
        place = dice.randrange(len(rows))
        rows[place] = _spelled(_bent(dice, json.loads(rows[place]))).encode()
        path.write_bytes(b"\n".join(rows) + b"\n")


# --- (a) problem files ------------------------------------------------------------------------------------------------

_ROWS = [
    {"id": f"p{n}", "question": f"What is {n} + {n}?", "answer": str(2 * n), "solution": f"{n} + {n} = {2 * n}."}
    for n in range(1, 7)
]


def _problem_file(dice: random.Random, folder: Path, sound: Path) -> BadInput:
    kind = dice.choice(("csv", "tsv", "jsonl", "json", "parquet"))
    path = folder / "inputs" / f"mine.{kind}"
    rows = [dict(row) for row in _ROWS]
    refused = False
    how = dice.choice(("bytes", "cell", "cell", "column", "whole", "folder", "locked", "missing"))
    if how == "cell":
        for _ in range(dice.randrange(1, 4)):
            dice.choice(rows)[dice.choice(("id", "question", "answer", "solution", "choices", "kind", "extra"))] = (
                dice.choice(VALUES)
            )
    elif how == "column":
        refused = True
        name = dice.choice(("question", "answer"))
        rows = [{("xyz" if key == name else key): value for key, value in row.items()} for row in rows]
        for row in rows:
            row.pop("solution")
    data = _as_file(kind, rows)
    if how == "bytes":
        data = _torn(dice, data)
    elif how == "whole":
        data = _spelled(dice.choice(WHOLE)).encode()
        refused = True
    elif how == "column" and kind in ("csv", "tsv") and dice.random() < 0.5:
        data = data.replace(b"xyz", b"id", 1)  # two columns of one name
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes(data)
    if how == "locked":
        path.chmod(0)
    refused |= how in ("folder", "missing") or how == "locked" and not os.access(path, os.R_OK)
    use = [f"problems.path={path}", "problems.limit=2", *(["problems.bad_rows=skip"] * dice.randrange(2))]
    told = [f"problems.{dice.choice(('question', 'answer', 'id'))}={dice.choice(('nowhere', 'id', ''))}"]
    told *= dice.random() < 0.2
    verb = dice.choice((["show", str(path), *told], ["estimate", "smollm2_135m", *use, *told]))
    return BadInput(verb, refused and not (told and how == "column"), ("mine", "nowhere"))


def _as_file(kind: str, rows: list[dict]) -> bytes:
    if kind == "jsonl":
        return "".join(_spelled(row) + "\n" for row in rows).encode()
    if kind == "json":
        return _spelled(rows).encode()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if kind == "parquet":
        cells = {name: [_spelled(row.get(name)) for row in rows] for name in columns}
        for name in columns:
            with suppress(pyarrow.ArrowException, UnicodeError, OverflowError):  # else a column of texts
                column = pyarrow.array([row.get(name) for row in rows])
                pyarrow.parquet.write_table(pyarrow.table({name: column}), io.BytesIO())
                cells[name] = column
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(cells), buffer)
        return buffer.getvalue()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, delimiter="\t" if kind == "tsv" else ",")
    writer.writeheader()
    cells = [{key: value if isinstance(value, str) else _spelled(value) for key, value in row.items()} for row in rows]
    writer.writerows(cells)
    return encodable(text.getvalue()).encode()


# --- (b) what is typed ------------------------------------------------------------------------------------------------

_TYPED = (
    *("nan", "inf", "-inf", "1e400", "-5", "0", "1e-400", "9" * 5_000, "-" + "9" * 400, "x", "", " ", "none", "true"),
    *("~nouser/x", "~", "/", ".", "..", "a,b", ",", "()", "[]", "{}", '{"x": 1}', "[" * 800 + "]" * 800, "null", "="),
    *(
        "x" * 3_000,
        "ünï ☃",
        "\udcff",
        "a\nb",
        "\x1b[2J",
        "1_000",
        "0x10",
        "1,5",
        "--json",
        "http://[",
        "https://u:p@h/",
    ),
    *("gym:nowhere", "nowhere.py:f", ":", "a:b", "os:system", "json:loads", "//x:y", "practice+practice", "+"),
    "world:x",
)
_KNOWN_BAD = ("nan", "inf", "-inf", "1e400", "x", "[" * 800 + "]" * 800, "\udcff", "-" + "9" * 400)
_VERBS = (["show"], ["estimate"], ["run", "--dry-run"], ["run", "--dry-run", "--again", "sft"])
_VERBS += (["ablate", "--dry-run", "target"], ["ablate", "--dry-run", "filter"], ["doctor"])


def _words(dice: random.Random, folder: Path, sound: Path) -> BadInput:
    kind = dice.randrange(6)
    verb = list(dice.choice(_VERBS))
    word = dice.choice(_TYPED)
    # The problems of worlds take planners some seconds, which doctor and estimate wait for.
    recipe = dice.choice(sorted(name for name in shipped() if "worlds" not in name))
    known = load_recipe(recipe)
    fields = dict(leaves(known))
    name = dice.choice(sorted(fields))
    if kind == 0:  # a name that there is none of
        name = dice.choice((name + "s", name[1:], name.upper(), f"{name}.x", f"x.{name}", "sft.", ".", ""))
        return BadInput(
            [*verb, recipe, f"{name}={word}"], name not in fields, (name, repr(name), "field", "no setting")
        )
    if kind == 1:  # an option
        option = dice.choice(("--gpu", "--seeds", "--again", "--to", "--mirror", "--nowhere", "--problems"))
        verb = {"--gpu": ["estimate"], "--seeds": ["ablate", "--dry-run", "target"], "--problems": ["probe"]}.get(
            option, ["run", "--dry-run"]
        )
        word = dice.choice((word, "1000000")) if option == "--seeds" else word
        is_path = option in ("--to", "--mirror")
        bad = option == "--nowhere" or not is_path and word in (*_KNOWN_BAD, "-5", "1000000")
        return BadInput([*verb, recipe, f"{option}={word}"], bad, (option, word[:20], repr(word)[:20], "run"))
    if kind == 2:  # a recipe, a run or a file that is none
        verb = dice.choice((verb, ["report"], ["compare"], ["push", "--dry-run", str(folder / "inputs/out")], ["copy"]))
        more = ["me/mine"] if verb[0] == "push" else []
        return BadInput([*verb, word, *more], verb[0] != "copy" and word != "--json", (repr(word)[:20], word[:20], ""))
    settings = [f"{name}={word}"]
    if kind == 3:  # several
        settings += [f"{dice.choice(sorted(fields))}={dice.choice(_TYPED)}" for _ in range(3)]
        name = ""
    if kind == 4:
        name = dice.choice(("sft.extra.max_grad_norm", "grpo.extra.beta", "sft.extra.x", "sft.extra", "grpo.weights"))
        settings = [*(["grpo=default"] if name.startswith("grpo") else []), f"{name}={word}"]
    numeric = isinstance(fields.get(name), int | float) and not isinstance(fields.get(name), bool)
    return BadInput(
        [*verb, recipe, *settings], numeric and word in _KNOWN_BAD, ("=", name, word[:20], "recipe", "evaluate")
    )


# --- (c) recipes ------------------------------------------------------------------------------------------------------

_CODE = (
    *("raise ValueError('no')", "raise SystemExit(0)", "exit()", "import sys; sys.exit('gone')", "1 / 0", "def f(:"),
    *("x = ", "RECIPE = 5", "RECIPE = None", "", "import nowhere_at_all", "def f(): f()\nf()", "raise KeyError('x')"),
    *("from plantune_lite import Recipe\nRECIPE = Recipe()", "from plantune_lite import nowhere", "\t x = 1\n  y = 2"),
    *("assert False", "(" * 500, "-" * 20_000 + "1", "x = '\\ud800'\nprint(x)", "# coding: nowhere", "class RECIPE: 1"),
    *("raise RuntimeError('a\\nb\\x1b[2J')", "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'no')"),
    *("raise OSError(28, 'full')", "from plantune_lite import run, Recipe\nrun(5)"),
)
_READERS = (["show"], ["estimate"], ["run", "--dry-run"], ["ablate", "--dry-run", "target"], ["doctor"])


def _recipe_file(dice: random.Random, folder: Path, sound: Path) -> BadInput:
    verb = list(dice.choice(_READERS))
    kind = dice.randrange(4)
    file = folder / "inputs" / "mine.py"
    if kind == 0:
        file.write_text(dice.choice(_CODE))
        return BadInput([*verb, str(file)], True, ("mine.py", "RECIPE"))
    if kind == 1:
        source = shipped()["smollm2_135m"].read_bytes()
        file.write_bytes(_torn(dice, source))
        return BadInput([*verb, str(file)], False, ("mine.py", "recipe", "is", "="))
    run = folder / "inputs" / "mine"
    run.mkdir()
    (run / "recipe.json").write_text(to_json(load_recipe("smollm2_135m")))
    if kind == 2:
        (run / "recipe.json").write_text(_spelled(dice.choice(WHOLE)))
    else:
        _spoiled(dice, run / "recipe.json")
    others = (verb, ["report"], ["compare"], ["export"], ["push", "--data", "--dry-run", str(folder / "inputs/out")])
    verb = list(dice.choice(others))
    return BadInput([*verb, str(run), *(["me/mine"] if verb[0] == "push" else [])], kind == 2, ("mine", "recipe"))


# --- (d) run folders --------------------------------------------------------------------------------------------------

_PLACES = (
    *("manifest.json", "recipe.json", ".lock", ".stage/lock", "sft/adapter_config.json", "metrics.jsonl"),
    *("eval/own.m1.jsonl", "eval/own.m1.json", "eval/suites.json", "eval/interventions/own.m1.summary.json"),
    *("corpus/stats.json", "corpus/train.jsonl", "trajectories.jsonl", "suites/own.jsonl", "problems/pool.jsonl"),
    *("probe/section.json", "merged/config.json", "../drive/mine/.mirror.json", "../drive/mine/manifest.json"),
    *("../calls.sqlite", "eval/own.untuned.jsonl", "report.html"),
)


def _run_folder(dice: random.Random, folder: Path, sound: Path) -> BadInput:
    shutil.copytree(sound, folder, dirs_exist_ok=True)
    run = folder / "mine"
    places = dice.sample(sorted(set(_PLACES)), dice.choice((1, 1, 1, 2)))
    for place in places:
        _spoiled(dice, run / place)
    verbs = (
        *(["report"], ["compare"], ["show"], ["run"], ["run", "--dry-run"], ["export"], ["estimate"], ["train"]),
        *(["run", "--mirror", str(folder / "drive")], ["ablate", "--dry-run", "target"], ["report"], ["compare"]),
        *(
            ["push", "--dry-run", str(folder / "inputs/out")],
            ["push", "--data", "--dry-run", str(folder / "inputs/out")],
        ),
        *(["run", "--again", "report"], ["evaluate"]),
    )
    verb = list(dice.choice(verbs))
    return BadInput(
        [*verb, str(run), *(["me/mine"] if verb[0] == "push" else [])],
        False,
        (*(one.split("/")[-1] for one in places), "mine"),
    )


def sound_run(folder: Path) -> None:
    """A finished run called mine, its mirror in drive, and a ledger, as a run of some minutes leaves them."""
    recipe = override(load_recipe("smollm2_135m"), ["name=mine", "problems.limit=12", "evaluate.baseline=false"])
    run = finished_run(folder / "mine", "name=mine", "problems.limit=12", "evaluate.baseline=false")
    pool, own = (list(practice_problems(split, seed=0, limit=12)) for split in ("train", "test"))
    write_records(run / "problems" / "pool.jsonl", pool)
    write_records(run / "problems" / "own.jsonl", own)
    write_records(run / "suites" / "own.jsonl", own)
    kept = [
        Trajectory(problem_id=one.id, sample=0, question=one.question, plan=("Think.",), execution="x", answer="1")
        for one in pool
    ]
    write_records(run / "trajectories.jsonl", kept)
    write_records(run / "rejected.jsonl", [])
    write_whole(folder / "calls.sqlite", b"")
    write_records(
        run / "metrics.jsonl", [{"stage": "sft", "step": n, "seconds": n, "loss": 2 / n} for n in range(1, 5)]
    )
    for model, mode, right in (("untuned", "few_shot", 4), ("m1", "m1", 9)):
        write_records(run / "eval" / f"own.{model}.jsonl", [_score(one, mode, n < right) for n, one in enumerate(own)])
        write_whole(
            run / "eval" / f"own.{model}.json", json.dumps({mode: {"model": model, "max_tokens": 9, "seed": 0}})
        )
    known = {"own": {"problems": 12, "answered": 12, "in_training": [], "words": 13}}
    write_whole(run / "eval" / "suites.json", json.dumps(known))
    use = {"problems": 12, "won": 6, "lost": 1, "p": 0.04, "difference": {"value": 0.5, "low": 0.1, "high": 0.8}}
    share = {"problems": 12, "value": 0.9, "low": 0.6, "high": 0.98}
    found = {"line": "...", "conditions": {"own": share, "swapped": share}, "own_minus": {"swapped": use}}
    write_whole(run / "eval" / "interventions" / "own.m1.summary.json", json.dumps(found))
    shown = {"title": "Probe", "sentences": ["..."], "charts": [], "tables": [{"columns": ["a"], "rows": [["b"]]}]}
    write_whole(run / "probe" / "section.json", json.dumps(shown))
    write_report(run)
    _mark_done(run, recipe)
    for lock in (run / ".lock", run / ".stage" / "lock"):
        lock.parent.mkdir(exist_ok=True)
        lock.touch()
    shutil.copytree(run, folder / "drive" / "mine", ignore=shutil.ignore_patterns(".*", "merged", "gguf"))
    write_whole(folder / "drive" / "mine" / ".mirror.json", json.dumps({"metrics.jsonl": [1, 2]}))


def _score(problem, mode: str, right: bool) -> Score:
    said = {"text": "x", "prediction": problem.answer, "gold": problem.answer, "how": "same text"}
    return Score(problem_id=problem.id, sample=0, mode=mode, same=right, **said)


def _mark_done(run: Path, recipe) -> None:
    """Mark all stages as done, with the fingerprints that they have today."""
    manifest = replace(read_manifest(run), name="mine", id="1" * 32, resumed=1.0)
    made = {}
    for stage in active_stages(recipe):
        inputs = inputs_of(recipe, stage)
        made[stage.name] = fingerprint(stage, inputs, made)
        said = {
            "line": f"{stage.name} was done",
            "usd": 0.0,
            "arm": "m1",
            "steps": 4,
            "planned_steps": 4,
            "verified": True,
        }
        manifest.stages[stage.name] = Entry(
            fingerprint=made[stage.name],
            inputs=inputs,
            status="done",
            seconds=1.5,
            summary=read_summary(stage.name, said),
            outputs=outputs_of(run, stage.outputs),
        )
    write_manifest(run, manifest)
