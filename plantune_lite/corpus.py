r"""From trajectories to training rows: which are good, which repeat another, which stand in a test set, what is learnt.

    build(trajectories, problems, suites, Corpus(filter="both"), Path("corpus")) -> {"line": "950 rows to learn from, ..."}

writes train.jsonl, validation.jsonl (SFT), prompts.jsonl (GRPO), rejected.jsonl, stats.json and README.md (the data
set's card). One line of train.jsonl for target="plan+solution":

    {"problem_id": "gsm8k/train/0",
     "prompt": [{"role": "system", "content": "You solve ..."}, {"role": "user", "content": "Natalia sold clips ..."}],
     "completion": "<plan>\n1. Halve the clips sold in April.\n2. Add both.\n</plan>\nIn May ... \\boxed{72}."}

All targets go through the same choice of problems, so that what is trained on plans and what is not can be compared.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from plantune_lite import card, corpus_stats, dedup, held_out, plans
from plantune_lite.recipe import Corpus
from plantune_lite.records import PlantuneError, Problem, Rejected, Trajectory, Verdict, write_records, write_whole
from plantune_lite.verify import answer_kind, same_answer

NO_SOLUTION = "no solution in the data set"
_LEAST_TO_VALIDATE = 20  # problems: of fewer than that, none is spared for validation unless the share says so
_NAMED = 10  # problems in a test set that a summary names


@dataclass
class _Sieve:
    """What is left so far, best first, and what fell through with its reason."""

    left: list[Trajectory]
    rejected: list[Rejected] = field(default_factory=list)

    def drop(self, reason_of: Callable[[Trajectory], str | None]) -> None:
        """Reject what has a reason."""
        left, self.left = self.left, []
        for trajectory in left:
            if reason := reason_of(trajectory):
                self.rejected.append(Rejected(**vars(trajectory), reason=reason))
            else:
                self.left.append(trajectory)

    def drop_copies(self, copies: Sequence[int | None], word: str) -> None:
        """Reject what repeats another one that is left; the copies are by index."""
        copied = {
            id(one): f"duplicate: {word} as {self.left[at].problem_id} sample {self.left[at].sample}"
            for one, at in zip(self.left, copies, strict=True)
            if at is not None
        }
        self.drop(lambda one: copied.get(id(one)))


def build(
    trajectories: Iterable[Trajectory],
    problems: Sequence[Problem],
    suites: Mapping[str, Sequence[Problem]],
    part: Corpus,
    out: Path,
    *,
    target: str = "plan+solution",
    solutions: str = "teacher",
    seed: int = 0,
    min_score: int = 80,
    about: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """Write the corpus and sum it up; `about` goes into its card: name, recipe, and the origin of each source."""
    by_id = {problem.id: problem for problem in problems}
    sieve = _Sieve(_best_first(trajectories, by_id))
    came = tuple(sieve.left)
    _scored_or_refused(came, part)
    grade = _Grader(by_id)

    overlaps = _overlaps(came, by_id, suites, part.decontaminate)
    sieve.drop(lambda one: _in_test_set(overlaps.get(one.problem_id)))
    sieve.drop(lambda one: _unusable(one, target))
    sieve.drop(lambda one: _not_good(one, part.filter, min_score, grade))
    if part.spoilers == "drop":
        sieve.drop(lambda one: _spoils(one, by_id[one.problem_id]))
    good = tuple(sieve.left)
    _drop_copies(sieve, by_id, part.dedup, seed)
    _drop_all_but_best(sieve, part.per_problem)
    mixed = _mix(sieve, problems, part.weights, seed)
    validating = _validating({one.problem_id for one in sieve.left}, part.validation, seed)
    if (target, solutions) == ("solution", "dataset"):
        sieve.drop(lambda one: None if _solution(by_id[one.problem_id]) else NO_SOLUTION)

    write_records(out / "rejected.jsonl", sieve.rejected)
    reasons = Counter(counted(one.reason) for one in sieve.rejected)
    if not sieve.left:
        raise PlantuneError(_empty(reasons, len(problems), out / "rejected.jsonl"))

    place = {problem.id: number for number, problem in enumerate(problems)}
    kept = sorted(sieve.left, key=lambda one: place[one.problem_id])  # stable: the best of a problem stays first
    rows = _rows(kept, by_id, target, solutions, grade)
    train = [row for row in rows if row["problem_id"] not in validating]
    validation = [row for row in rows if row["problem_id"] in validating]
    prompts, unchecked = _prompts(kept, by_id, validating)
    write_records(out / "train.jsonl", train)
    write_records(out / "validation.jsonl", validation)
    write_records(out / "prompts.jsonl", prompts)

    in_test_set = {
        "words": part.decontaminate,
        "suites": {name: sum(name in found for found in overlaps.values()) for name in suites},
        "problems": len(overlaps),
        "first": sorted(overlaps, key=place.__getitem__)[:_NAMED],
    }
    counts = {
        "train": len(train),
        "validation": len(validation),
        "prompts": len(prompts),
        "problems": len({row["problem_id"] for row in rows}),
        "rejected": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "in_test_set": in_test_set,
    }
    stats = {
        **counts,
        "target": target,
        "solutions": solutions,
        "seed": seed,
        "min_score": min_score,
        "part": asdict(part),
        "prompts_left_out": unchecked,
        "mixed": mixed,
        "funnel": {
            "problems": len(problems),
            "problems_with_trajectories": len({one.problem_id for one in came}),
            "trajectories": len(came),
            "good": len(good),
            "kept": len(kept),
        },
        **corpus_stats.of(good, kept, rows, by_id, seed=seed),
    }
    write_whole(out / "stats.json", json.dumps(stats, indent=1, ensure_ascii=False) + "\n")
    write_whole(out / "README.md", card.of_corpus(stats, train[0] if train else validation[0], about))
    return {"line": _line(counts, len(came)), **counts}


# --- coming in --------------------------------------------------------------------------------------------------------


def _best_first(trajectories: Iterable[Trajectory], by_id: Mapping[str, Problem]) -> list[Trajectory]:
    """The trajectories with clean plans, the best of all first, in an order that theirs has no say in."""
    found = []
    for one in trajectories:
        if one.problem_id not in by_id:
            raise PlantuneError(
                f"a trajectory is of problem {one.problem_id!r}, which is not among the {len(by_id)} problems: "
                "the plans and the problems are of two runs; distill again"
            )
        found.append(replace(one, plan=tuple(step for step in map(plans.clean_step, one.plan) if step)))
    return sorted(found, key=_rank)


def _rank(one: Trajectory) -> tuple[Any, ...]:
    """The highest score first, then the shortest plan, then the first sample; what follows only makes it one order."""
    length = sum(len(step.split()) for step in one.plan)
    score = one.score if one.score is not None else -101
    return -score, length, one.sample, one.problem_id, one.plan, one.execution, one.answer or ""


def _scored_or_refused(came: Sequence[Trajectory], part: Corpus) -> None:
    if part.filter in ("plan", "both") and came and all(one.score is None for one in came):
        teachers = ", ".join(sorted({repr(one.teacher) for one in came}))
        raise PlantuneError(
            f"corpus.filter is {part.filter!r}, but none of the {len(came)} plans has a score "
            f"(teacher {teachers}): set corpus.filter=answer, or distill with a teacher that scores"
        )


# --- reasons to drop --------------------------------------------------------------------------------------------------


def counted(reason: str) -> str:
    """A reason without its details, for counting: `in test set`, `plan score < 80`."""
    return re.sub(r"score -?\d+ <", "score <", reason.partition(":")[0])


def _overlaps(
    came: Sequence[Trajectory], by_id: Mapping[str, Problem], suites: Mapping[str, Sequence[Problem]], length: int
) -> dict[str, dict[str, str]]:
    """Problem id -> suite -> the test problem that it restates."""
    if length == 0:
        return {}
    tests = {name: [(problem.id, _asked(problem)) for problem in suite] for name, suite in suites.items()}
    questions = dedup.TestQuestions(tests, length)
    ids = dict.fromkeys(one.problem_id for one in came)
    return {id: found for id in ids if (found := questions.found_in(_asked(by_id[id])))}


def _asked(problem: Problem) -> str:
    return " ".join((problem.question, *problem.choices))


def _in_test_set(found: Mapping[str, str] | None) -> str | None:
    if not found:
        return None
    suite, id = next(iter(found.items()))
    return f"in test set: {suite} {id.removeprefix(suite + '/')}"


def _unusable(one: Trajectory, target: str) -> str | None:
    if not one.plan:
        return "empty plan"
    return "not executed" if target != "plan" and not one.execution.strip() else None


def _not_good(one: Trajectory, mode: str, min_score: int, grade: "_Grader") -> str | None:
    if mode in ("plan", "both"):
        if one.score is None:
            return "no score"
        if one.score < min_score:
            return f"plan score {one.score} < {min_score}"
    if mode in ("answer", "both"):
        if not one.answer:
            return "no answer in the execution"
        verdict = grade(one)
        if not verdict.same:
            return ("wrong answer: " if verdict.same is False else "answer cannot be checked: ") + verdict.how
    return None


def _spoils(one: Trajectory, problem: Problem) -> str | None:
    reason = plans.spoiler(one.plan, problem)
    return f"spoils the answer: {reason}" if reason else None


class _Grader:
    """Whether a trajectory's answer is the problem's; each pair of answers is compared once."""

    def __init__(self, by_id: Mapping[str, Problem]) -> None:
        self._by_id = by_id
        self._verdicts: dict[tuple[Any, ...], Verdict] = {}

    def __call__(self, one: Trajectory) -> Verdict:
        problem = self._by_id[one.problem_id]
        pair = (one.answer or "", problem.answer, problem.choices)
        if pair not in self._verdicts:
            self._verdicts[pair] = same_answer(pair[0], pair[1], choices=pair[2])
        return self._verdicts[pair]


# --- choosing ---------------------------------------------------------------------------------------------------------


def _drop_copies(sieve: _Sieve, by_id: Mapping[str, Problem], mode: str, seed: int) -> None:
    """Of what is the same, or nearly, only the best stays."""
    if mode == "none":
        return
    questions: dict[str, int] = {}
    plans_of: dict[tuple[str, dedup.Words], int] = {}
    same_question: list[int | None] = []
    same_plan: list[int | None] = []
    for index, one in enumerate(sieve.left):
        first = questions.setdefault(held_out.normalised(by_id[one.problem_id]), index)
        other = sieve.left[first].problem_id != one.problem_id
        same_question.append(first if other else None)
        if other:
            same_plan.append(None)
            continue
        first = plans_of.setdefault((one.problem_id, dedup.words("\n".join(one.plan))), index)
        same_plan.append(None if first == index else first)
    everything = sieve.left
    sieve.drop_copies(same_question, "same question")
    left = {id(one) for one in sieve.left}
    kept_at = {id(one): at for at, one in enumerate(sieve.left)}
    sieve.drop_copies(
        [
            None if same is None else kept_at[id(everything[same])]
            for one, same in zip(everything, same_plan, strict=True)
            if id(one) in left
        ],
        "same plan",
    )
    if mode == "minhash":
        texts = [(_asked(by_id[one.problem_id]), "\n".join(one.plan)) for one in sieve.left]
        sieve.drop_copies(dedup.near_copies(texts, seed=seed), "nearly the same")
