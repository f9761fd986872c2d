r"""Turn trajectories into training rows: those that are good, not duplicates and in no test set.

    build_corpus(trajectories, problems, suites, Wanted(Corpus(filter="both")), Path("corpus"))
        -> {"line": "950 rows ...", ...}

writes train.jsonl, validation.jsonl (SFT), prompts.jsonl (GRPO), rejected.jsonl, stats.json and README.md (the data
set's card). One line of train.jsonl for target="plan+solution":

    {"problem_id": "gsm8k/train/0",
     "prompt": [{"role": "system", "content": "You solve ..."}, {"role": "user", "content": "Natalia sold clips ..."}],
     "completion": [{"role": "assistant", "content": "<plan>\n1. Halve the clips sold in April.\n2. Add ..."}]}

which TRL's trainers, and anything else that reads prompts and completions as messages, take as it is.

All targets use the same choice of problems, so that students trained with and without plans can be compared.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plantune_lite import plan
from plantune_lite.distill import card, filters
from plantune_lite.files import write_records, write_whole
from plantune_lite.grading.answers import can_check
from plantune_lite.recipe.schema import Corpus
from plantune_lite.types import Fault, PlantuneError, Problem, Reason, Trajectory


@dataclass(frozen=True)
class Wanted:
    """Settings of a corpus, and what its data set card says about the run."""

    part: Corpus
    target: str = "plan+solution"
    solutions: str = "teacher"
    seed: int = 0
    distilled_at: int | None = 80  # distill.min_score; the part may set its own
    about: Mapping[str, Any] = field(default_factory=dict)  # name, recipe, and the origin of each source

    @property
    def min_score(self) -> int | None:
        """Return the lowest score of a good plan."""
        return self.distilled_at if self.part.min_score is None else self.part.min_score


def build_corpus(
    trajectories: Iterable[Trajectory],
    problems: Sequence[Problem],
    suites: Mapping[str, Sequence[Problem]],
    wanted: Wanted,
    out: Path,
) -> dict[str, Any]:
    """Write the corpus and summarise it.

    Include what distill rejected: a lower threshold or a looser filter may keep it here.
    """
    part = wanted.part
    by_id = {problem.id: problem for problem in problems}
    best_first = filters.best_first(trajectories, by_id, by_score=part.filter in ("plan", "both"))
    sieve = filters.Sieve(by_id, best_first)
    incoming = tuple(sieve.left)
    overlaps = filters.overlaps(incoming, by_id, suites, part.decontaminate)
    sieve.drop(lambda t, _: filters.in_test_set(overlaps.get(t.problem_id)))
    if part.spoilers == "drop":
        sieve.drop(filters.spoils)
    min_score, executed = wanted.min_score, wanted.target != "plan"
    sieve.drop(lambda t, problem: filters.not_good(t, problem, part.filter, min_score, executed=executed))
    good = len(sieve.left)
    filters.drop_copies(sieve, part.dedup)
    filters.drop_all_but_best(sieve, part.per_problem)
    filters.mix(sieve, part.weights, wanted.seed)
    validating = _validating(sieve, wanted)
    write_records(out / "rejected.jsonl", sieve.rejected)
    reasons = Counter(t.reason for t in sieve.rejected)
    if not sieve.left:
        raise PlantuneError(_empty(reasons, out / "rejected.jsonl"))

    position = {problem.id: number for number, problem in enumerate(problems)}
    kept = sorted(sieve.left, key=lambda t: position[t.problem_id])  # stable: the best of a problem stays first
    rows = _rows(kept, by_id, wanted)
    train = [row for row in rows if row["problem_id"] not in validating]
    validation = [row for row in rows if row["problem_id"] in validating]
    prompts = _prompts(kept, by_id, validating)
    for name, of in (("train", train), ("validation", validation), ("prompts", prompts)):
        write_records(out / f"{name}.jsonl", of)

    stats: dict[str, Any] = {
        "train": len(train),
        "validation": len(validation),
        "prompts": len(prompts),
        "problems": len({row["problem_id"] for row in rows}),
        "rejected": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "in_test_set": {
            "words": part.decontaminate,
            "suites": {name: sum(name in suites_hit for suites_hit in overlaps.values()) for name in suites},
            "problems": len(overlaps),
        },
        "target": wanted.target,
        "solutions": wanted.solutions,
        "min_score": wanted.min_score,
        "part": asdict(part),
        "funnel": {
            "problems": len(problems),
            "problems_with_trajectories": len({t.problem_id for t in incoming}),
            "trajectories": len(incoming),
            "good": good,
            "kept": len(kept),
        },
        "teachers": dict(Counter(t.teacher for t in kept).most_common()),
        "sources": dict(Counter(by_id[row["problem_id"]].source for row in rows)),
        "unscored": round(sum(t.score is None for t in kept) / len(kept), 4),
        "score": card.spread([t.score for t in kept if t.score is not None]),
        "steps": card.spread([len(t.plan) for t in kept]),
        "distinct_plans": len({t.plan for t in kept}),
    }
    write_whole(out / "stats.json", json.dumps(stats, indent=1, ensure_ascii=False) + "\n")
    write_whole(out / "README.md", card.of_corpus(stats, train[0], wanted.about))
    return {"line": _line(stats, len(incoming)), **stats}


def _validating(sieve: filters.Sieve, wanted: Wanted) -> frozenset[str]:
    """Choose the problems to validate on, the same for every target; drop those the baseline has no solution for."""
    validating = filters.validating({t.problem_id for t in sieve.left}, wanted.part.validation, wanted.seed)
    if (wanted.target, wanted.solutions) == ("solution", "dataset"):
        sieve.drop(lambda _, problem: None if _solution(problem) else Fault(Reason.NO_SOLUTION))
        if all(t.problem_id in validating for t in sieve.left):
            return frozenset()  # train on the few that have a solution
    return validating


def without_plans(rows: Iterable[Mapping[str, Any]], problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Return the baseline's rows: for the same problems, the data set's own solution, where there is one."""
    by_id = {problem.id: problem for problem in problems}
    prompts = {row["problem_id"]: row["prompt"] for row in rows}
    return [
        {"problem_id": id, "prompt": prompt, "completion": plan.as_completion(solution)}
        for id, prompt in prompts.items()
        if (solution := _solution(by_id[id]))
    ]


# --- the rows ---------------------------------------------------------------------------------------------------------


def _rows(kept: Sequence[Trajectory], by_id: Mapping[str, Problem], wanted: Wanted) -> list[dict[str, Any]]:
    """Write a row per trajectory; a row per problem where the target is the data set's own solution.

    Where M1's completion differs, `whole` has it: arms that are compared leave out what is too long for any of them.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for trajectory in kept:
        problem = by_id[trajectory.problem_id]
        text = _completion(trajectory, problem, wanted)
        prompt, completion = list(plan.ask_plainly(problem)), plan.as_completion(text)
        row = {"problem_id": problem.id, "prompt": prompt, "completion": completion}
        if (whole := _completion(trajectory, problem, Wanted(wanted.part))) != text:
            row["whole"] = plan.as_completion(whole)
        rows.setdefault((problem.id, text), row)
    return list(rows.values())


def _completion(trajectory: Trajectory, problem: Problem, wanted: Wanted) -> str:
    if wanted.target == "plan" or problem.kind == "plan":  # the plan for a world is the whole completion
        return plan.render(trajectory.plan).rstrip("\n")  # generation ends with the tag, so learning does too
    if wanted.target == "solution" and wanted.solutions == "dataset":
        return _solution(problem)
    execution = _executed(trajectory, problem)
    return execution if wanted.target == "solution" else plan.render(trajectory.plan, execution)


def _executed(trajectory: Trajectory, problem: Problem) -> str:
    """Return the execution with its answer boxed: the gold one where they match, else the teacher's."""
    if problem.kind == "code":
        return trajectory.execution
    answer = problem.answer if filters.grade(trajectory, problem).same else trajectory.answer
    return plan.with_answer(trajectory.execution.strip(), answer) if answer else trajectory.execution.strip()


def _solution(problem: Problem) -> str:
    """Return the data set's own solution with the boxed answer; empty where there is none."""
    text = problem.solution or "\n".join(problem.steps)
    if not text.strip():
        return ""
    return text if problem.kind == "code" else plan.with_answer(text.strip(), problem.answer)


def _prompts(
    kept: Sequence[Trajectory], by_id: Mapping[str, Problem], validating: frozenset[str]
) -> list[dict[str, Any]]:
    """List GRPO's prompts, each with the best plan as reference; only those whose answer can be checked."""
    best: dict[str, Trajectory] = {}
    for trajectory in kept:
        if trajectory.problem_id not in validating:
            best.setdefault(trajectory.problem_id, trajectory)
    prompts = []
    for id, trajectory in best.items():
        problem = by_id[id]
        # No reply to it would ever be rewarded, silently.
        if problem.kind in ("text", "choice") and not can_check(problem.answer, problem.choices):
            continue
        prompts.append(
            {
                "problem_id": id,
                "prompt": list(plan.ask_plainly(problem)),
                "answer": problem.answer,
                "choices": list(problem.choices),
                "kind": problem.kind,
                "plan": list(trajectory.plan),
                **({"world": problem.extra["world"]} if problem.kind == "plan" else {}),  # to carry a plan out in
            }
        )
    return prompts


# --- in words ---------------------------------------------------------------------------------------------------------

_WAYS_ON: dict[str, str] = {
    Reason.LOW_SCORE: "Lower distill.min_score or raise distill.plans.",
    Reason.WRONG_ANSWER: "Raise distill.plans, or distill with a better teacher.",
    Reason.NO_ANSWER: "Raise distill.plans or distill.max_tokens, or distill with a better teacher.",
    Reason.UNCHECKED: "Give problems.answer a column with answers in numbers or a few words.",
    Reason.NOT_EXECUTED: "Set distill.execute=all, or distill with a better teacher.",
    Reason.NO_SCORE: "Set corpus.filter=answer, or distill with a teacher that scores.",
    Reason.EMPTY_PLAN: "Name the column of worked solutions (problems.solution), raise distill.max_tokens if plans "
    "were cut off, or distill with a better teacher.",
    Reason.SPOILS: "Distill with a better teacher, or set corpus.spoilers=keep.",
    Reason.IN_TEST_SET: "Learn from other problems (problems.source), or test on others (evaluate.suites).",
    Reason.NO_SOLUTION: "Set sft.solutions=teacher, or name the column in problems.solution.",
}


def _empty(reasons: Counter[str], path: Path) -> str:
    listed = "".join(f", {count} for '{reason}'" for reason, count in reasons.most_common())
    first = next(iter(dict(reasons.most_common())), "")
    return (
        f"corpus is empty: all {reasons.total()} trajectories were rejected{listed} (see {path}). "
        f"{_WAYS_ON.get(first, 'Raise distill.plans, or distill with a better teacher.')}"
    )


def _line(counts: Mapping[str, Any], came: int) -> str:
    line = f"{counts['train']} rows to learn from, {counts['validation']} to validate, of {counts['problems']} problems"
    if counts["rejected"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts["rejected"].items())
        line += f"; of {came} trajectories rejected: {reasons}"
    if tested := counts["in_test_set"]["problems"]:
        line += f"; problems in a test set: {tested}"
    return line
