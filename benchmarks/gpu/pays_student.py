"""Run one process of benchmarks/gpu/pays.py: SFT, GRPO or evaluation of the student.

run("sft m1 0".split(), work, FULL, tiny=False) -> {"accuracy": 0.08, "rate": 0.0005, "loss": 0.41, ...}
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.gpu.jobs import known
from benchmarks.gpu.pays_rows import Sizes, filtered, own_answers, split
from benchmarks.gpu.pays_table import ARMS, FILTERS
from plantune_lite.evaluate.answers import Asking
from plantune_lite.plan import completion_text
from plantune_lite.types import Sampling

IN_MINIATURE = "qwen3_4b"  # its family stands in for SmolLM2
GRPO_RATE = 2e-5  # that of benchmarks/grpo_rewards.py, for all rewards
TRIED_AT = 0.7  # temperature of M1's replies for the filters
ANSWERED_AT_ONCE = 512  # replies: a large GPU and a small student


def run(job: list[str], work: Path, sizes: Sizes, tiny: bool) -> dict[str, Any]:
    """Train or evaluate one model."""
    from plantune_lite.student import generate

    generate.AT_ONCE = ANSWERED_AT_ONCE
    kind, name, *rest = job
    process = _Process(work, sizes, tiny)
    if kind == "choose":
        return process.train_sft(work / f"choose {name} {rest[0]}", name, float(rest[0]), 0, choosing=True)
    if kind == "sft":
        return process.train_sft(work / f"{name}{rest[0]}", name, _rate(name, work, sizes), int(rest[0]))
    if kind == "grpo":
        return process.train_grpo(work / f"grpo {name}", name)
    if kind == "own":
        return process.own()
    return process.untuned(name) if kind == "untuned" else process.use(name)


def _rate(arm: str, work: Path, sizes: Sizes) -> float:
    """Return the rate that solves most held-out problems; the mix and the filters use M1's."""
    arm = "m1" if arm == "mixed" or arm in FILTERS else arm
    done = known(work, "pays")
    return float(max(sizes.rates, key=lambda rate: done[f"choose {arm} {rate}"]["accuracy"]))


class _Process:
    """Hold the student's settings and the problems of a process."""

    def __init__(self, work: Path, sizes: Sizes, tiny: bool) -> None:
        from benchmarks.gpu.shapes import written
        from plantune_lite.recipe.schema import Student

        self.work, self.sizes, self.tiny = work, sizes, tiny
        model = str(written(IN_MINIATURE, work, tiny=True)) if tiny else "smollm2_135m"
        self.part = Student(model, bits=32 if tiny else 16, max_length=sizes.length, checkpointing=False)
        self.train, self.apart, self.test = split(sizes)

    def load(self, **how: Any) -> Any:
        from plantune_lite.student.load import load_student

        return load_student(self.part, room=2048, say=lambda line: None, **how)

    def untuned(self, mode: str) -> dict[str, Any]:
        """Evaluate the untuned student with one of its prompts."""
        return self.evaluate(self.load(), self.test, mode, self.work / "untuned" / f"{mode}.jsonl")

    def train_sft(self, out: Path, arm: str, rate: float, seed: int, choosing: bool = False) -> dict[str, Any]:
        """Train an arm and evaluate it."""
        import torch

        from plantune_lite.files import read_jsonl, write_whole
        from plantune_lite.recipe.schema import SFT
        from plantune_lite.runs.job import Reporter, Training
        from plantune_lite.train import sft

        torch.manual_seed(seed)
        if not (out / "adapter_model.safetensors").is_file():
            rows = list(read_jsonl(self.work / "rows" / arm / "train.jsonl"))
            start = self.work / "m10" if arm in FILTERS else None
            steps = self.sizes.filter_steps if arm in FILTERS else self.sizes.steps
            loaded = self.load(training=True, adapter=start, seed=seed)
            rows_a_step = self._rows_a_step(loaded.tokenizer, arm, rows)
            part = SFT(max_steps=steps, batch_size=rows_a_step, accumulate=1, learning_rate=rate, save_steps=150)
            training = Training(seed=seed, max_length=self.sizes.length, reporter=Reporter(say=_nothing))
            summary = sft.train(loaded, rows, part, out, training)
            write_whole(out / "summary.json", json.dumps({**summary, "rate": rate, "rows_a_step": rows_a_step}) + "\n")
        else:
            loaded = self.load(adapter=out)
        suite, file = (self.apart, "apart.jsonl") if choosing else (self.test, "test.jsonl")
        saved = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        return {**self.evaluate(loaded, suite, ARMS[arm].mode, out / file), "rate": rate, "loss": saved["loss_last"]}

    def _rows_a_step(self, tokenizer: Any, arm: str, rows: list[dict]) -> int:
        """Return the rows per step that have as many learned tokens as M1's."""
        from plantune_lite.files import read_jsonl

        def a_row(rows: list[dict]) -> float:
            return mean(len(ids) + 1 for ids in tokenizer([completion_text(row) for row in rows])["input_ids"])

        of_m1 = a_row(list(read_jsonl(self.work / "rows" / "m1" / "train.jsonl")))
        return max(1, round(self.sizes.m1_rows * of_m1 / a_row(rows)))

    def train_grpo(self, out: Path, reward: str) -> dict[str, Any]:
        """Run GRPO with a reward, from M1's first seed."""
        import torch

        from plantune_lite.files import read_jsonl, write_whole
        from plantune_lite.recipe.schema import GRPO
        from plantune_lite.runs.job import Reporter, Training
        from plantune_lite.train import grpo, rewards

        sizes, start = self.sizes, self.work / "m10"
        rows = list(read_jsonl(self.work / "rows" / "m1" / "prompts.jsonl"))
        part = GRPO(
            reward=reward,
            steps=sizes.grpo_steps,
            group=sizes.group,
            plans=sizes.group // 2,
            continuations=2,
            prompts_per_step=sizes.prompts,
            learning_rate=GRPO_RATE,
            max_completion=sizes.completion,
            save_steps=20,
        )
        if self.tiny:  # so few tokens solve no problem
            grpo.prompt_selection.solved_at_times = lambda student, rows, *given, **named: list(rows)
        if not (out / "summary.json").is_file():
            torch.manual_seed(0)
            reporter = Reporter(say=_nothing, show=lambda line, last: print(line, flush=True))
            summary = grpo.train(
                self.load(training=True, adapter=start),
                rows,
                grpo.Rewards(lambda limit: rewards.of(part, rows, max_completion=limit), rewards.right_answer),
                part,
                out,
                Training(max_length=sizes.length, reporter=reporter),
            )
            write_whole(out / "summary.json", json.dumps(summary) + "\n")
        saved = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        return {**self.evaluate(self.load(adapter=out), self.test, "m1", out / "test.jsonl"), "training": saved["line"]}

    def own(self) -> dict[str, Any]:
        """Sample several of M1's answers per train problem, and write the rows that each filter keeps."""
        from plantune_lite.evaluate import modes

        out = own_answers(self.work)
        problems = self.train[: self.sizes.own_problems]
        figures = modes.evaluate_problems(
            # In miniature its replies hold no plan.
            _as_the_data_set(problems) if self.tiny else self.load(adapter=out.parent).generate,
            problems,
            mode="m1",
            out=out,
            how=Asking(
                sampling=Sampling(n=self.sizes.own_tries, temperature=TRIED_AT, max_tokens=self.sizes.tokens),
                model=out.parent.name,
                chunk=ANSWERED_AT_ONCE // self.sizes.own_tries,
            ),
        )
        filtered(self.work, self.sizes)
        return {"line": figures["line"]}

    def use(self, arm: str) -> dict[str, Any]:
        """Remove, swap and shorten the student's plans."""
        from plantune_lite.evaluate import interventions
        from plantune_lite.files import read_records
        from plantune_lite.types import Score

        out = self.work / f"{arm}0"
        loaded = self.load(adapter=out)
        follow = interventions.as_beginning(loaded.generate)
        if arm == "m2":
            follow = interventions.as_order(loaded.generate_untuned)
        scores = list(read_records(Score, out / "test.jsonl"))
        return interventions.intervene(
            follow,
            self.test,
            scores,
            out=out / "use.jsonl",
            how=Asking(sampling=Sampling(max_tokens=self.sizes.tokens), model=out.name, chunk=len(self.test)),
        )

    def evaluate(self, loaded: Any, problems: list[Any], mode: str, out: Path) -> dict[str, Any]:
        """Grade the greedy answers."""
        from plantune_lite.evaluate import modes

        figures = modes.evaluate_problems(
            loaded.generate,
            problems,
            mode=mode,
            out=out,
            how=Asking(
                sampling=Sampling(max_tokens=self.sizes.tokens),
                executor=loaded.generate_untuned if mode == "m2" else None,
                examples=self.train,
                model=out.parent.name,
                chunk=len(problems),
            ),
        )
        return {"line": figures["line"], "accuracy": figures["accuracy"]["value"], "cut_off": figures["truncated"]}


def _as_the_data_set(problems: list[Any]) -> Any:
    from plantune_lite.distill import worked
    from plantune_lite.plan import question_text, render
    from plantune_lite.types import Reply

    plans = {question_text(problem): worked.plan_of(problem) for problem in problems}
    return lambda prompts, sampling: [
        [Reply(text=render(solution.plan, solution.execution))] * sampling.n
        for solution in (plans[prompt[-1]["content"]] for prompt in prompts)
    ]


def _nothing(line: str) -> None:
    """Discard the line."""
