"""Load problems from any source that a recipe names: problems to learn from and problems held out.

    load(Problems("gsm8k", limit=1000), seed=0)       -> Loaded(pool=1000 problems, own=300 held out, origin, notes)
    load_suite("math500", limit=300, seed=0, own=())  -> Source("math500", 300 problems, origin, notes)

A source is a benchmark, "practice" or "practice_stories" (made here), "gym:NAME" (reasoning-gym), "hf:OWNER/NAME" (any
data set on the Hub), a data file, or a function of the user's.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plantune_lite import files
from plantune_lite.problems import columns, hub
from plantune_lite.problems.benchmarks import BENCHMARKS
from plantune_lite.problems.files import Draft, Table, read_table
from plantune_lite.problems.practice import stories
from plantune_lite.problems.practice.generate import LEVELS, LIMIT, practice_problems
from plantune_lite.problems.rows import Checked, checked_problems, is_prose
from plantune_lite.problems.sources import function_drafts, gym_drafts
from plantune_lite.problems.split import MOST, hold_out, sample, shares
from plantune_lite.recipe import user_code
from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.schema import Problems
from plantune_lite.types import Problem, ProblemError

GROUPS = {
    "paper": ("gsm8k", "math500", "olympiadbench", "aime_1983_2024", "aime24"),
    "cpl": ("gsm8k", "math500", "arc_challenge", "bbh", "mmlu", "mmlu_stem", "humaneval"),
    "pta": ("math500", "aime24", "aime25", "amc23"),
}
_GENERATORS: dict[str, Callable[..., Iterator[Problem]]] = {
    "practice": practice_problems,
    "practice_stories": stories.generate,
}
# Suites next to `own`: fresh problems, one hop more than in training, relations in new wordings, no need for plans.
PRACTICE = ("practice", "practice_longer", "practice_words", "practice_stories")


@dataclass(frozen=True)
class Loaded:
    """Problems to learn from, problems held out from all of them, and where both came from."""

    pool: tuple[Problem, ...]
    own: tuple[Problem, ...]
    origin: dict[str, dict[str, Any]]  # source -> id, config, split, revision, or file and sha256; rows, skipped
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Problems of one source or suite; a generator may have made separate test problems, which training never sees."""

    name: str
    problems: tuple[Problem, ...]
    origin: dict[str, Any]
    notes: tuple[str, ...] = ()
    own: tuple[Problem, ...] = ()
    generated: bool = False
    measured: bool = False  # it held its tests out itself and knew the limit: its problems are not cut down


def revisions_of(origins: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return Hub id -> loaded commit: pass it to `load_problems` to get the same rows again."""
    return {origin["id"]: origin["revision"] for origin in origins if "revision" in origin}


def load_problems(part: Problems, *, seed: int, revisions: Mapping[str, str] = {}, checked: bool = False) -> Loaded:
    """Load a recipe's problems; pass the `revisions` of an earlier start to resume with the same rows.

    If only `checked` answers are learned from, problems with prose for an answer are left out: each would cost money,
    and none would be kept.
    """
    names = _source_names(part)
    if part.limit is not None and part.limit < len(names):
        raise ProblemError(f"problems.limit is {part.limit}, less than one problem for each of {len(names)} sources")
    limits = shares(part.limit, len(names))
    max_own = math.ceil(MOST / len(names))
    sources = [
        _of_levels(_source(name, part, seed=seed, limit=limit, max_own=max_own, revisions=revisions), part.levels)
        for name, limit in zip(names, limits, strict=True)
    ]
    sources = _with_ids_once([_without_prose(source) for source in sources] if checked else sources)
    together = [problem for source in sources if not source.own for problem in source.problems]
    own_tests = tuple(problem for source in sources for problem in source.own)
    split = hold_out(together, share=part.held_out, seed=seed, most=MOST - len(own_tests))
    kept = {problem.id for problem in split.pool}
    pool: list[Problem] = []
    origin = {}
    for source, limit in zip(sources, limits, strict=True):
        mine = source.problems if source.own else [problem for problem in source.problems if problem.id in kept]
        if source.measured:
            taken = tuple(mine)
        elif source.generated:
            # A generator's first problems are as good a sample as any, and a larger limit begins with them.
            taken = tuple(mine[:limit])
        else:
            taken = sample(mine, limit, seed=seed)
        pool += taken
        origin[source.name] = {**source.origin, "taken": len(taken)}
    if not pool:
        raise ProblemError(f"problems.source={part.source} leaves nothing to train on: {len(together)} problems in all")
    notes = [note for source in sources for note in source.notes]
    if split.left_out:
        notes.append(f"{len(split.left_out)} problems of a held-out template are neither trained on nor tested on")
    if part.held_out and not (own_tests or split.own):
        notes.append("nothing is held out for the suite 'own': all problems have the same question")
    return Loaded(tuple(pool), own_tests + split.own, origin, tuple(notes))


def _source_names(part: Problems) -> list[str]:
    if part.path is not None:
        return [part.path]
    names = [name.strip() for name in part.source.split("+")]
    if len(set(names)) < len(names):
        raise ProblemError(f"problems.source={part.source} names a source twice; raise problems.limit for more of it")
    return names


def _source(
    name: str, part: Problems, *, seed: int, limit: int | None, max_own: int, revisions: Mapping[str, str]
) -> Source:
    if part.path is None and name.startswith("hf:"):
        table, origin = hub.load_table(name, part.split, revision=revisions.get(hub.place_of(name)[0]))
        return _table(name, table, origin, part)
    if part.path is not None or files.is_data_file(name):
        table = read_table(files.as_path(name))
        return _table(str(table.path), table, {"file": str(table.path), "sha256": table.sha256}, part)
    if user_code.is_reference(name):
        return _function(name, part, seed=seed, limit=limit)
    if name.startswith("gym:"):
        return _gym(name, part, seed=seed, limit=limit or LIMIT)
    if part.split != "train" and (name in _GENERATORS or name in BENCHMARKS):
        raise ProblemError(
            f"problems.split is {part.split!r}, but only the train split of {name} is trained on: "
            f"name {name} in evaluate.suites to test on it"
        )
    if name in _GENERATORS:
        return _practice(name, part, seed=seed, limit=limit or LIMIT, max_own=max_own)
    if name in BENCHMARKS:
        return _benchmark(name, "train", revisions)
    known = [*BENCHMARKS, *_GENERATORS, "gym:NAME", "hf:OWNER/NAME", "a data file", "module_or_path.py:function"]
    raise ProblemError(f"problems.source is {name!r}, which is not a source{nearest(name, known)}")


# --- the sources ------------------------------------------------------------------------------------------------------


def _benchmark(name: str, split: str, revisions: Mapping[str, str]) -> Source:
    benchmark = BENCHMARKS[name]
    rows, origin = hub.load_rows(name, split, revision=revisions.get(benchmark.hub))
    # A user cannot fix a row of a public benchmark, so a bad one is left out, counted and named.
    return _from_rows(name, checked_problems(rows, source=name, split=split, kind=benchmark.kind), origin, "skip")


def _table(name: str, table: Table, origin: dict[str, Any], part: Problems) -> Source:
    table = columns.without_chats(table)
    names = columns.guess(table, part)
    id = origin.get("id")  # on the Hub, where a user cannot fix a row either
    checked = checked_problems(columns.drafts(table, names), source=id or table.path.name, split=part.split)
    return _from_rows(name, checked, {**origin, "columns": names}, "skip" if id else part.bad_rows)


def _function(name: str, part: Problems, *, seed: int, limit: int | None) -> Source:
    wanted = None if limit is None else _before_holding_out(limit, part.held_out)
    drafts, origin = function_drafts(name, seed=seed, limit=wanted)
    takes_limit = limit is not None and "limit" in inspect.signature(user_code.load(name)).parameters
    given: list[Draft] = []
    measured = False
    for draft in drafts:
        given.append(draft)
        if takes_limit and _is_for_tests(draft):
            # It holds out by itself, so call it with the limit of what to learn from and take all that it returns:
            # random walks are longer than plans, and fewer of them have as many words.
            given, measured = list(function_drafts(name, seed=seed, limit=limit)[0]), True
            break
    tests = [draft for draft in given if _is_for_tests(draft)]
    learned = [draft for draft in given if not _is_for_tests(draft)]
    checked = checked_problems(learned, source=name, split=part.split)
    source = replace(_from_rows(name, checked, origin, part.bad_rows), measured=measured)
    if not tests or not part.held_out:
        return source
    # It marks its own tests: nothing else is held out.
    own = _from_rows(name, checked_problems(tests, source=name, split="test"), origin, part.bad_rows)
    return replace(source, own=own.problems, notes=(*source.notes, *own.notes))


def _is_for_tests(draft: Draft) -> bool:
    return isinstance(draft[2], Mapping) and draft[2].get("split") == "test"


def _practice(name: str, part: Problems, *, seed: int, limit: int, max_own: int) -> Source:
    own = 0 if part.held_out == 0 else min(max_own, max(1, round(limit * part.held_out)))
    generate = _GENERATORS[name]
    pool = tuple(generate("train", seed=seed, limit=limit, levels=part.levels))
    tests = tuple(generate("test", seed=seed, limit=own, levels=part.levels)) if own else ()
    origin = {"generator": name, "seed": seed, "rows": len(pool)}
    return Source(name, pool, origin, own=tests, generated=True)


def _gym(name: str, part: Problems, *, seed: int, limit: int) -> Source:
    # A fifth more than needed: templates are held out whole, so how many problems that takes is not known yet.
    size = math.ceil(1.2 * _before_holding_out(limit, part.held_out))
    drafts, origin = gym_drafts(name.removeprefix("gym:"), size=size, seed=seed)
    checked = checked_problems(drafts, source=name, split="train")
    return replace(_from_rows(name, checked, origin, "skip"), generated=True)


def _before_holding_out(limit: int, share: float) -> int:
    return math.ceil(limit / (1 - share)) + 1


def _from_rows(name: str, checked: Checked, origin: dict[str, Any], bad_rows: str) -> Source:
    """Return a source's problems; raise for its bad rows, or leave them out and note them."""
    good, bad = checked
    rows = len(good) + len(bad)
    named = [f"  {where}: {reason}" for where, reason in bad[:10]]
    if len(bad) > 10:
        named.append(f"  ... and {len(bad) - 10} more")
    if bad and bad_rows == "stop":
        title = f"{len(bad)} of {rows} rows of {name} are not valid: fix them, or set problems.bad_rows=skip:"
        raise ProblemError("\n".join([title, *named]))
    notes = [f"{len(bad)} of {rows} rows of {name} are left out:", *named] if bad else []
    if not good:
        raise ProblemError("\n".join([f"{name} has no problems", *notes]))
    problems = tuple(problem for _, problem in good)
    return Source(name, problems, {**origin, "rows": rows, "skipped": len(bad)}, tuple(notes))


def _of_levels(source: Source, levels: tuple[int, ...]) -> Source:
    """Keep the problems of these levels."""
    there = sorted({level for problem in source.problems if isinstance(level := problem.extra.get("level"), int)})
    if not levels or not there:  # a recipe's levels are for its source, which the user may have replaced
        return source
    kept = [problem for problem in source.problems if problem.extra.get("level") in levels]
    none = f"{source.name} has no problem of problems.levels; its levels are {', '.join(map(str, there))}"
    return _of(source, kept, none, f"only those of level {','.join(map(str, levels))}")


def _without_prose(source: Source) -> Source:
    """Keep the problems whose answer is not an explanation."""
    kept = [problem for problem in source.problems if not is_prose(problem)]
    none = (
        f"every answer of {source.name} is prose, which cannot be checked, so there is nothing to learn from: "
        "name a column of short answers in problems.answer, or set corpus.filter=plan"
    )
    some = "the other answers are prose, which cannot be checked (corpus.filter=plan does not need to)"
    return _of(source, kept, none, some)


def _of(source: Source, kept: list[Problem], none: str, why: str) -> Source:
    if not kept:
        raise ProblemError(none)
    if len(kept) == len(source.problems):
        return source
    note = f"{len(kept)} of {len(source.problems)} problems of {source.name} are kept: {why}"
    return replace(source, problems=tuple(kept), notes=(*source.notes, note))


def _with_ids_once(sources: Sequence[Source]) -> list[Source]:
    """Make ids unique: where two files both count from 1, the second one's ids get the prefix 2/."""
    seen: set[str] = set()
    unique = []
    for number, source in enumerate(sources, 1):
        while seen & {problem.id for problem in (*source.problems, *source.own)}:
            renamed = [tuple(replace(p, id=f"{number}/{p.id}") for p in side) for side in (source.problems, source.own)]
            source = replace(source, problems=renamed[0], own=renamed[1])
        seen |= {problem.id for problem in (*source.problems, *source.own)}
        unique.append(source)
    return unique


# --- suites -----------------------------------------------------------------------------------------------------------


def suite_names(suites: Sequence[str]) -> tuple[str, ...]:
    """Expand suite names and groups to their suites, each once."""
    known = ("own", *PRACTICE, *BENCHMARKS)
    names: dict[str, None] = {}
    for suite in suites:
        if suite not in known and suite not in GROUPS:
            raise ProblemError(f"evaluate.suites has no suite {suite!r}{nearest(suite, [*known, *GROUPS])}")
        names.update(dict.fromkeys(GROUPS.get(suite, (suite,))))
    return tuple(names)


def load_suite(
    name: str,
    *,
    limit: int | None,
    seed: int,
    own: Sequence[Problem],
    pool: Sequence[Problem] = (),
    revisions: Mapping[str, str] = {},
) -> Source:
    """Load the test problems of one suite; `pool`, the training problems, sets the levels of the practice suites."""
    if name == "own":
        if not own:
            raise ProblemError("nothing is held out for the suite 'own': set problems.held_out=0.2, or leave 'own' out")
        sources = ", ".join(dict.fromkeys(problem.source for problem in own))
        source = Source("own", tuple(own), {"held out of": sources})
    elif name in BENCHMARKS:
        source = _benchmark(name, "test", revisions)
    else:
        source = _generated(name, limit or MOST, seed, pool)
    taken = sample(source.problems, limit, seed=seed)
    return replace(source, problems=taken, origin={**source.origin, "taken": len(taken)})


def _generated(name: str, size: int, seed: int, pool: Sequence[Problem]) -> Source:
    """Generate a suite; its ids differ from those of `own`."""
    levels = tuple(sorted({problem.extra["level"] for problem in pool if problem.source == "practice"}))
    if name == "practice_longer":
        levels = (max(levels or LEVELS) + 1,)
    elif name == "practice_stories":
        levels = ()
    generate = _GENERATORS.get(name, practice_problems)
    split = "words" if name == "practice_words" else "test"
    problems = tuple(
        replace(problem, id=f"{name}/{number}")
        for number, problem in enumerate(generate(split, seed=seed, limit=size, levels=levels))
    )
    return Source(name, problems, {"generator": name, "seed": seed, "rows": size})
