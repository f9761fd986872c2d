"""Turn problems into graded answers, written to disk as they come: shared by evaluation and interventions.

Input: problems and an Answer, which asks a model about some of them in its own way. Output: Score rows in
eval/SUITE.MODEL.jsonl, and next to it in SUITE.MODEL.json the settings they were made with. One row:

    {"problem_id": "practice/test/3", "sample": 0, "mode": "m1", "text": "<plan>\\n1. Subtract ... \\\\boxed{19}.",
     "prediction": "19", "gold": "19", "same": true, "how": "equal as numbers", "tokens": 88, "seconds": 0.41, ...}

A cut-off evaluation resumes: what is in the file is not asked again. Answers made with other settings are never mixed
with new ones: the error names the first setting that differs, and nothing is overwritten.
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

# The replies to each problem, each the whole text, as soon as they are ready: (index of the problem, its replies).
Answer = Callable[[Sequence[Problem], Sampling], Iterable[tuple[int, list[Reply]]]]
Show = Callable[[str, bool], object]  # a progress line, and whether it is the last

# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Settings for asking a model."""

    sampling: Sampling = Sampling()
    model: str = ""  # identifies the weights, so that the answers of two models are never mixed
    executor: Generate | None = None  # follows the plans of m2
    examples: Sequence[Problem] = ()  # solved problems, for few_shot
    allow_code: bool = False  # grade programs by running what the model wrote
    chunk: int = 128  # problems asked together, then written to disk
    show: Show = lambda line, last: None


AS_IT_COMES = Asking()


def each(generate: Generate, prompts: Sequence[Messages], sampling: Sampling) -> Iterator[tuple[int, list[Reply]]]:
    """Yield the replies to each prompt as soon as they are ready if `generate` can stream them; else all at once."""
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
    """Return the graded answers of one mode to all problems: those in the file, then new ones as they come."""
    sampling = how.sampling
    wanted = {problem.id: problem for problem in problems}
    options = asdict(sampling)
    scores = _done_before(out, mode, wanted, {"samples": options.pop("n"), **options, "model": how.model, **settings})
    done = {(score.problem_id, score.sample) for score in scores}
    samples = range(sampling.n)
    todo = [problem for problem in problems if any((problem.id, sample) not in done for sample in samples)]
    what, began = f"{out.stem.replace('.', ' ', 1)} {mode}", time.monotonic()
    with JsonlWriter(out) as file:
        for start in range(0, len(todo), how.chunk):
            chunk = todo[start : start + how.chunk]
            last = time.monotonic()
            seeded = replace(sampling, seed=_seed(sampling.seed, mode, chunk[0].id))
            for index, replies in answer(chunk, seeded):
                problem, seconds = chunk[index], round((time.monotonic() - last) / sampling.n, 4)
                for sample, reply in enumerate(replies):
                    if (problem.id, sample) not in done:
                        scores.append(_score(problem, sample, mode, reply, grade_reply(problem, reply.text), seconds))
                        file.write(scores[-1])
                last = time.monotonic()
            finished = start + len(chunk)
            if left := len(todo) - finished:  # else the last line is the caller's
                time_left = duration((time.monotonic() - began) / finished * left)
                how.show(f"{what}: {len(problems) - left} of {len(problems)} problems, {time_left} left", False)
    return scores


def _seed(seed: int, mode: str, first: str) -> int:
    """Derive a seed for each chunk: a shared one would correlate their samples."""
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


# --- existing answers -------------------------------------------------------------------------------------------------


def _done_before(out: Path, mode: str, wanted: Mapping[str, Problem], settings: Mapping[str, Any]) -> list[Score]:
    """Read this mode's rows that can be reused; write its settings to disk before its first row."""
    settings = json.loads(json.dumps(settings))  # as they will be read back
    settings_file = out.with_suffix(".json")
    known = read_object(settings_file) if settings_file.is_file() else {}
    rows = [from_row(Score, row) for row in read_jsonl(out) if row["mode"] == mode] if out.is_file() else []
    if rows and known.get(mode) != settings:
        before = known.get(mode, {})
        name = next(name for name in [*settings, *before] if settings.get(name) != before.get(name))
        raise PlantuneError(
            f"{out} holds answers of mode {mode} made with {name}={before.get(name)!r}, and now it is "
            f"{settings.get(name)!r}. Restore that setting, or move the file away (in a run: --again evaluate)"
        )
    for score in rows:
        if score.problem_id in wanted and wanted[score.problem_id].answer != score.gold:
            raise PlantuneError(
                f"{out} answers a different {score.problem_id}: its gold answer there is {score.gold!r}, here "
                f"{wanted[score.problem_id].answer!r}. Move the file away to start over (in a run: --again evaluate)"
            )
    write_whole(settings_file, json.dumps({**known, mode: settings}, indent=1, ensure_ascii=False) + "\n")
    return [score for score in rows if score.problem_id in wanted and score.sample < settings["samples"]]
