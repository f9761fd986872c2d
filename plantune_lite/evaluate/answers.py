"""Problems to graded answers, written down as they come: what evaluation and interventions have in common.

What comes in: problems and an Answer, which asks a model about some of them in its own way. What goes out: Score rows
in eval/SUITE.MODEL.jsonl, and beside it in SUITE.MODEL.json the settings they were made with. One row:

    {"problem_id": "practice/test/3", "sample": 0, "mode": "m1", "text": "<plan>\\n1. Subtract ... \\\\boxed{19}.",
     "prediction": "19", "gold": "19", "same": true, "how": "equal as numbers", "tokens": 88, "seconds": 0.41, ...}

A cut-off evaluation goes on: what is in the file is not asked again. Answers made with other settings are never mixed
with new ones: that is an error that names the first setting that differs, and nothing is overwritten.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from plantune_lite.files import JsonlWriter, from_row, read_jsonl, read_object, write_whole
from plantune_lite.grading.grade import grade_reply
from plantune_lite.terminal import duration
from plantune_lite.types import Generate, Graded, Messages, PlantuneError, Problem, Reply, Sampling, Score

# The replies to each problem, each the whole text, as soon as they are there: (place of the problem, its replies).
Answer = Callable[[Sequence[Problem], Sampling], Iterable[tuple[int, list[Reply]]]]
Show = Callable[[str, bool], object]  # a line of progress, and whether it is the last

# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Settings for asking a model."""

    sampling: Sampling = Sampling()
    model: str = ""  # says which weights answer, so that the answers of two are never mixed
    executor: Generate | None = None  # follows the plans of m2
    examples: Sequence[Problem] = ()  # solved problems, for few_shot
    allow_code: bool = False  # a program is graded by running what a model wrote
    chunk: int = 128  # problems that are asked together, and then written down
    show: Show = lambda line, last: None


AS_IT_COMES = Asking()


def each(generate: Generate, prompts: Sequence[Messages], sampling: Sampling) -> Iterator[tuple[int, list[Reply]]]:
    """Yield the replies to each prompt as soon as they are there, where who answers can say so; else all at once."""
    if (as_they_end := getattr(generate, "each", None)) is not None:
        yield from as_they_end(prompts, sampling)
    else:
        yield from enumerate(generate(prompts, sampling))


def answered(
    problems: Sequence[Problem],
    answer: Answer,
    *,
    mode: str,
    out: Path,
    how: Asking,
    settings: Mapping[str, Any] = {},
) -> list[Score]:
    """Return the graded answers of one mode to all problems: those in the file, and the others as they come."""
    sampling = how.sampling
    wanted = {problem.id: problem for problem in problems}
    said = asdict(sampling)
    scores = _done_before(out, mode, wanted, {"samples": said.pop("n"), **said, "model": how.model, **settings})
    done = {(one.problem_id, one.sample) for one in scores}
    samples = range(sampling.n)
    todo = [problem for problem in problems if any((problem.id, sample) not in done for sample in samples)]
    what, began = f"{out.stem.replace('.', ' ', 1)} {mode}", time.monotonic()
    with JsonlWriter(out) as file:
        for start in range(0, len(todo), how.chunk):
            some = todo[start : start + how.chunk]
            last = time.monotonic()
            seeded = replace(sampling, seed=_seed(sampling.seed, mode, some[0].id))
            for place, texts in answer(some, seeded):
                problem, seconds = some[place], round((time.monotonic() - last) / sampling.n, 4)
                for sample, reply in enumerate(texts):
                    if (problem.id, sample) not in done:
                        scores.append(_score(problem, sample, mode, reply, grade_reply(problem, reply.text), seconds))
                        file.write(scores[-1])
                last = time.monotonic()
            answered_now = start + len(some)
            if left := len(todo) - answered_now:  # else the last line is the caller's
                time_left = duration((time.monotonic() - began) / answered_now * left)
                how.show(f"{what}: {len(problems) - left} of {len(problems)} problems, {time_left} left", False)
    return scores


def _seed(seed: int, mode: str, first: str) -> int:
    """Another seed for each chunk: the same one would give all chunks the same luck."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{mode}\0{first}".encode()).digest()[:4], "big")


def _score(problem: Problem, sample: int, mode: str, reply: Reply, graded: Graded, seconds: float) -> Score:
    return Score(
        problem_id=problem.id,
        sample=sample,
        mode=mode,
        text=reply.text,
        prediction=graded.prediction,
        gold=problem.answer,
        same=graded.verdict.same,
        how=graded.verdict.how,
        finish=reply.finish,
        tokens=reply.tokens_out,
        seconds=seconds,
        tokens_in=reply.tokens_in,
    )


# --- what is there already --------------------------------------------------------------------------------------------


def _done_before(out: Path, mode: str, wanted: Mapping[str, Problem], settings: Mapping[str, Any]) -> list[Score]:
    """Read this mode's rows that are still of use; write its settings to disk before its first row."""
    settings = json.loads(json.dumps(settings))  # as they will be read back
    beside = out.with_suffix(".json")
    known = read_object(beside) if beside.is_file() else {}
    rows = [from_row(Score, row) for row in read_jsonl(out) if row["mode"] == mode] if out.is_file() else []
    if rows and known.get(mode) != settings:
        before = known.get(mode, {})
        name = next(name for name in [*settings, *before] if settings.get(name) != before.get(name))
        raise PlantuneError(
            f"{out} holds answers of mode {mode} made with {name}={before.get(name)!r}, and now it is "
            f"{settings.get(name)!r}. Go back to that, or move the file away (in a run: --again evaluate)"
        )
    for one in rows:
        if one.problem_id in wanted and wanted[one.problem_id].answer != one.gold:
            raise PlantuneError(
                f"{out} answers another {one.problem_id}: its gold answer there is {one.gold!r}, here "
                f"{wanted[one.problem_id].answer!r}. Move the file away to begin anew (in a run: --again evaluate)"
            )
    write_whole(beside, json.dumps({**known, mode: settings}, indent=1, ensure_ascii=False) + "\n")
    return [one for one in rows if one.problem_id in wanted and one.sample < settings["samples"]]
