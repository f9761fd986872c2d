"""Run the CPL stage: rounds of search, SFT on what was right, Step-APO on what mattered.

    cpl/round1/   trees.jsonl, trees.html, pairs.jsonl, rows.jsonl, sft/ and apo/ (an adapter each),
                  a value head next to the last of the two
    cpl/          the last round's adapter: the run's model; section.json and charts, for the report

The first round searches with the student of the SFT stage, or the untuned one; later rounds with the model of the round
before. A server's model may search instead (cpl.policy), called through the ledger like a teacher. As in the paper each
round trains from the base again, first on right paths, then on pairs, with the former as the latter's reference. What a
round has finished is not redone: search.json, taught.json, sft.json, apo.json and value.json record it. A search that
was cut short resumes in the next call or, once its rows and pairs are written (taught.json), after the last round has
finished: a kill before that costs no training. A round's search and SFT do not depend on its pairs, so variants that
differ only in these share them (reuse.py).
"""

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from plantune_lite import plan
from plantune_lite.evaluate import other_models
from plantune_lite.files import read_jsonl, read_records, write_records, write_whole
from plantune_lite.grading.grade import grade_answer
from plantune_lite.lab.cpl import pairs, report_section, search, step_apo, tree_page, value_head
from plantune_lite.lab.cpl.pairs import StepPair
from plantune_lite.lab.cpl.preference import Batches
from plantune_lite.recipe.schema import CPL, SFT
from plantune_lite.runs.folder import LEDGER, home
from plantune_lite.runs.job import LEAST_HOURS, Job, Training, share_of
from plantune_lite.runs.manifest import TrainingSummary
from plantune_lite.student.load import load_student
from plantune_lite.student.vllm_engine import load_to_ask
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.train import sft
from plantune_lite.types import Generate, Messages, Problem, RunError, present

_SHOWN = 24  # trees on the page of a round
_PAIRS = {"steps": pairs.step_pairs, "answers": pairs.answer_pairs, "none": lambda tree: []}
_PAIRS_A_STEP = 8
_LEARNED = ("taught", "sft", "apo", "value")  # what follows a round's search, in this order

Asks = Callable[[Problem], Messages]


def run_cpl(job: Job) -> TrainingSummary:
    """Search over plan steps and learn from it, round by round."""
    part = present(job.recipe.cpl)
    if job.hours_left is not None and job.hours_left < LEAST_HOURS and not (job.out / "round1").is_dir():
        raise RunError(
            f"max_hours={job.recipe.max_hours:g} is spent before the search began: "
            "rerun the command with a larger max_hours to resume"
        )
    questions = _questions(job)
    time_left = _time_left(job)
    last = _ends_with(part)
    final = job.out / f"round{part.rounds}" / last
    ended = final.with_name(f"{last}.json").is_file()
    rounds: list[dict[str, Any]] = []
    for number in range(1, part.rounds + 1):
        of_round = _Round(job, number, questions, time_left)
        rounds.append(of_round.run(sum(by_part["search"]["tokens"] for by_part in rounds), ended))
    shutil.copytree(final, job.out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-*"))
    report_section.write(job.run.path, job.out, rounds)
    solved = ", then ".join(f"{by_part['search']['solved']} of {by_part['search']['trees']}" for by_part in rounds)
    trained = [by_part[name] for by_part in rounds for name in ("sft", "apo") if name in by_part]
    return TrainingSummary(
        line=f"{part.rounds} round{'s' * (part.rounds > 1)}, solved while searching: {solved}; "
        f"{rounds[-1][last]['line']}",
        steps=sum(summary["steps"] for summary in trained),
        planned_steps=sum(summary["planned_steps"] for summary in trained),
        partial=any(by_part["search"]["partial"] for by_part in rounds),
        base=json.loads((job.out / "base.json").read_text(encoding="utf-8")),
    )


def _ends_with(part: CPL) -> str:
    """Name what a round trains last."""
    return "sft" if part.pairs == "none" else "apo"


def _questions(job: Job) -> list[Problem]:
    """Sample the questions to search: corpus problems (none restates a test) with an answer to work out."""
    pool = {problem.id: problem for problem in job.run.problems()}
    answered = (row["problem_id"] for row in job.run.rows("prompts") if row["kind"] not in ("code", "plan"))
    questions = [pool[id] for id in answered if id in pool]
    if not questions:
        raise RunError(
            "there is no question to search: the corpus has none whose answer is worked out after a plan "
            "(programs and worlds have no such answer)"
        )
    count = min(present(job.recipe.cpl).questions or len(questions), len(questions))
    return Random(job.recipe.seed).sample(questions, count)


def _time_left(job: Job) -> Callable[[float], float | None]:
    """Return a function that turns a share into hours of the time left, less the later stages' share."""
    if job.hours_left is None:
        return lambda share: None
    ends = time.monotonic() + 3600 * job.hours_left * share_of(job.recipe, "cpl")
    return lambda share: max(0.0, share * (ends - time.monotonic()) / 3600)


_to_train = partial(load_student, training=True)


class _Round:
    """One round, in its folder."""

    def __init__(
        self, job: Job, number: int, questions: Sequence[Problem], hours: Callable[[float], float | None]
    ) -> None:
        self._job, self._number, self._questions = job, number, questions
        self._part = present(job.recipe.cpl)
        left = self._part.rounds - number + 1
        self._hours: Callable[[float], float | None] = lambda share: hours(share / left)
        self._folder = job.out / f"round{number}"
        self._ask = {problem.id: plan.ask_plainly(problem) for problem in questions}

    def run(self, spent: int, ended: bool) -> dict[str, Any]:
        """Do what is left of the round and return its summaries; `spent` are the tokens of the rounds before.

        `ended` is whether the last round has already finished: until then a search that was cut short does not resume
        once training on it has begun; that training is completed.
        """
        before = self._recorded("search")
        resumes = before is None or (before["partial"] and (ended or self._recorded("taught") is None))
        summary = self._search(spent) if resumes else present(before)
        if before is not None and summary != before:  # it resumed: what was learned from it is outdated
            for name in _LEARNED:
                shutil.rmtree(self._folder / name, ignore_errors=True)
                (self._folder / f"{name}.json").unlink(missing_ok=True)
            for later in range(self._number + 1, self._part.rounds + 1):
                shutil.rmtree(self._job.out / f"round{later}", ignore_errors=True)
        summaries = {"search": self._record("search", summary)}
        part = self._part
        wanted = {"taught", "sft", _ends_with(part)}
        if part.leaf == "value" and self._number < part.rounds:
            wanted.add("value")
        works = (self._teach, self._imitate, self._prefer, self._judge)
        for name, work in zip(_LEARNED, works, strict=True):
            if name in wanted:
                summaries[name] = self._recorded(name) or self._record(name, work())
        return summaries

    def _recorded(self, name: str) -> dict[str, Any] | None:
        file = self._folder / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def _record(self, name: str, summary: dict[str, Any]) -> dict[str, Any]:
        if self._recorded(name) != summary:
            self._job.say(f"round {self._number}, {name}: {summary['line']}")
            write_whole(self._folder / f"{name}.json", json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
        return summary

    # --- search, and what is learned from it

    def _search(self, spent: int) -> dict[str, Any]:
        job, part = self._job, self._part
        budget = None
        if part.max_tokens is not None:
            budget = max(0, part.max_tokens - spent) // (part.rounds - self._number + 1)
        with self._a_server() if part.policy else self._a_student() as (generate, ask, value):
            return search.search(
                self._questions,
                generate,
                lambda problem, text: grade_answer(problem, text).verdict.same is True,
                part,
                self._folder,
                ask=ask,
                value=value,
                solution_tokens=job.recipe.student.max_length // 2,
                seed=job.recipe.seed + self._number,
                max_tokens=budget,
                hours=self._hours(0.5),
                show=job.progress(),
            )

    @contextmanager
    def _a_student(self) -> Iterator[tuple[Generate, Asks, search.Value | None]]:
        """Load the student to search with; yield its Generate, its prompt function and, if any, its value function."""
        before = self._policy()
        by_value = self._part.leaf == "value" and before is not None and (before / value_head.FILE).is_file()
        # A value is read off the student's states, which an engine does not expose.
        loaded = self._loaded(before, load_student if by_value else load_to_ask)
        judge = value_head.value_of(loaded, present(before)) if by_value else None
        yield loaded.generate, plan.ask_plainly if before else plan.ask_plan_then_solve, judge

    @contextmanager
    def _a_server(self) -> Iterator[tuple[Generate, Asks, None]]:
        job = self._job
        address, _, model = present(self._part.policy).partition("#")
        calls = Ledger(home(job.run.path) / LEDGER, run=job.recipe.name, max_usd=job.recipe.distill.max_usd)
        with calls, other_models.of_server(address, model, calls) as generate:
            yield generate, plan.ask_plan_then_solve, None

    def _teach(self) -> dict[str, Any]:
        """Extract rows and pairs from the trees and write them; fail before any training where they are missing."""
        job, part = self._job, self._part
        trees = list(search.trees_of(self._folder))
        chosen = [pair for tree in trees for pair in _PAIRS[part.pairs](tree)]
        rows = pairs.rows(trees, self._ask, job.recipe.seed)
        write_records(self._folder / "pairs.jsonl", chosen)
        write_records(self._folder / "rows.jsonl", rows)
        tree_page.write(trees[:_SHOWN], self._folder / "trees.html", title=f"{job.recipe.name}, round {self._number}")
        if not rows or not (chosen or part.pairs == "none"):
            raise RunError(
                f"round {self._number} of the search found {len(rows)} right paths and {len(chosen)} pairs in "
                f"{len(trees)} trees, and needs both: take easier questions, train the student longer first "
                "(sft.max_steps or sft.epochs), or search more (cpl.iterations, cpl.questions, cpl.max_tokens)"
            )
        return {"line": f"{len(rows)} right paths, {len(chosen)} pairs", "rows": len(rows), "pairs": len(chosen)}

    def _imitate(self) -> dict[str, Any]:
        """Run SFT from the base on right paths, with the recipe's own SFT settings, whatever its arm."""
        loaded = self._loaded(None)
        return sft.train(
            loaded,
            list(read_jsonl(self._folder / "rows.jsonl")),
            self._sft(),
            self._folder / "sft",
            self._training("sft", 0.4),
        )

    def _prefer(self) -> dict[str, Any]:
        """Run Step-APO from there."""
        loaded = self._loaded(self._folder / "sft")
        chosen = read_records(StepPair, self._folder / "pairs.jsonl")
        at_once = max(1, self._sft().batch_size // 2)  # a pair is two rows
        return step_apo.train(
            loaded,
            chosen,
            self._ask,
            self._part,
            self._folder / "apo",
            self._training("apo", 0.8),
            batches=Batches(at_once, -(-_PAIRS_A_STEP // at_once), self._sft().save_steps),
        )

    def _judge(self) -> dict[str, Any]:
        """Train the value head for the next round's leaves, on what this round trained last."""
        trained = self._folder / _ends_with(self._part)
        known = [
            (tree.problem_id, (*self._ask[tree.problem_id], {"role": "assistant", "content": state.begun}), state.q)
            for tree in search.trees_of(self._folder)
            for state in pairs.states(tree)
        ]
        return value_head.train(self._loaded(trained, load_student), known, trained, seed=self._job.recipe.seed)

    # --- the student

    def _policy(self) -> Path | None:
        """Return the adapter to search with: the previous round's, the SFT stage's, or None for the untuned student."""
        if self._number > 1:
            return self._job.out / f"round{self._number - 1}" / _ends_with(self._part)
        return self._job.run.adapter("sft") if self._job.recipe.sft else None

    def _sft(self) -> SFT:
        return replace(self._job.recipe.sft or SFT(), target="plan+solution", solutions="teacher", start=None)

    def _training(self, name: str, share: float) -> Training:
        """Return the settings of one training in a round: a share of the time, and figures under its name."""
        training = self._job.training(self._hours(share))
        return replace(training, reporter=replace(training.reporter, metric=partial(self._metric, name)))

    def _metric(self, name: str, step: int, **figures: float) -> None:
        named = {f"{name}_{key}": value for key, value in figures.items()}
        self._job.metric(step, round=self._number, **named)

    def _loaded(self, adapter: Path | None, load: Callable[..., Any] = _to_train) -> Any:
        """Load the student, on the same base every time, after freeing the memory of earlier ones."""
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        job, base = self._job, self._job.out / "base.json"
        known = json.loads(base.read_text(encoding="utf-8")) if base.is_file() else job.earlier.sft.base
        part = job.recipe.student
        loaded = load(
            part,
            adapter=adapter,
            pinned=known.get("revision"),
            room=part.max_length + part.max_length // 2,
            seed=job.recipe.seed,
            say=job.say,
        )
        if not base.is_file():
            write_whole(base, json.dumps(asdict(loaded.source), indent=1) + "\n")
        return loaded
