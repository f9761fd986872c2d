"""Probe whether SmolLM2 knows the world it plans in: blocksworld, with planner's plans, random walks, or both.

    python -m benchmarks.worlds --work DIR                 # three seeds; resumes after a stop
    python -m benchmarks.worlds --work DIR --seed 1        # one seed, to run a process per core; then the line above
    python -m benchmarks.worlds --work DIR --without-maths # without the maths student
    python -m benchmarks.worlds --work DIR --tiny          # a trial run of minutes; writes no page

The three corpora come from one pool, with equally many learned tokens and epochs. Each student is tested on problems of
the sizes it saw and on larger ones, then probed on the former. The simulator is compared with unified-planning's: its
verdicts on 1,000 plans, good and broken, and its steps per second. A maths student that plans (SmolLM2 on `practice`,
M1), also trained here, is probed for whether its answers will be right.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch

from benchmarks.report import machine, markdown, write
from plantune_lite import plan
from plantune_lite.distill.worked import plan_of
from plantune_lite.evaluate.answers import Asking
from plantune_lite.evaluate.stats import Estimate, paired
from plantune_lite.files import write_whole
from plantune_lite.lab.probes import generated_steps, linear, resample
from plantune_lite.lab.probes.plan_probe import knows, tried
from plantune_lite.lab.probes.world_probe import probe
from plantune_lite.lab.worlds import corpora, planners
from plantune_lite.lab.worlds.domains import NAMES, generate
from plantune_lite.lab.worlds.grade import problem_of
from plantune_lite.lab.worlds.simulator import World
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.schema import SFT, Student
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.student.load import load_student
from plantune_lite.train import sft
from plantune_lite.types import Problem, Sampling

SEEDS = (0, 1, 2)
KINDS = ("planner", "walks", "mixed")
PROBE, OUTPUT = "validity", "output_probability"
CONTROLS = ("shorter_plan", "pass_rate", "token_probability")
WAYS = ("probe", "majority", "plain")
STUDENT = Student("smollm2_135m", bits=32, max_length=512, lora_rank=32, lora_alpha=32, checkpointing=False)
FULL = {
    "sizes": (4,),
    "larger": (5,),
    "train": 400,
    "test": 60,
    "steps": 120,
    "batch": 4,
    "per_problem": 6,
    "max_tokens": 120,
    "plans": 1_000,
    "transitions": 200_000,
    "maths": 320,
    "maths_steps": 30,
    "maths_batch": 8,
    "asked": 120,
    "samples": 6,
}
TINY = {
    **FULL,
    "train": 24,
    "test": 12,
    "steps": 2,
    "batch": 2,
    "per_problem": 4,
    "plans": 60,
    "transitions": 3_000,
    "maths": 0,  # a student that is hardly trained writes no plans to probe
    "max_tokens": 24,
}


def main() -> None:
    """Simulate, train, probe and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, choices=SEEDS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--without-maths", action="store_true", help="leave out the maths student")
    arguments = parser.parse_args()
    size, work = (TINY, arguments.work / "tiny") if arguments.tiny else (FULL, arguments.work)
    if kept(work / "size.json", lambda: size) != json.loads(json.dumps(size)):
        raise SystemExit(f"{work} holds results of other sizes: choose another folder")
    if arguments.without_maths:
        size = {**size, "maths": 0}
    seeds = SEEDS if arguments.seed is None else (arguments.seed,)
    runs: dict[str, Any] = {}
    if arguments.seed is None:
        runs["simulator"] = kept(work / "simulator.json", simulator, size)
    for seed in seeds:
        worlds = corpora.drawn(
            "blocksworld",
            sizes=size["sizes"],
            larger=size["larger"],
            seed=seed,
            train=size["train"],
            test=size["test"],
        )
        solved = plans_of((*worlds.train, *worlds.test), work / f"plans{seed}.json")
        for kind in KINDS:
            out = work / f"{kind}{seed}"
            runs[out.name] = kept(out / "found.json", in_worlds, out, kind, seed, worlds, solved, size)
        if size["maths"]:
            out = work / f"maths{seed}"
            runs[out.name] = kept(out / "found.json", maths, out, seed, size)
    if arguments.seed is None:
        write_down(runs, size, tiny=arguments.tiny)


def kept(file: Path, compute: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Read results from a file, or compute and save them."""
    if not file.is_file():
        write_whole(file, json.dumps(compute(*arguments), indent=1) + "\n")
    return json.loads(file.read_text(encoding="utf-8"))


# --- the simulator ----------------------------------------------------------------------------------------------------


def simulator(size: dict[str, Any]) -> dict[str, Any]:
    """Compare our verdicts with the library's, and steps per second of both simulators."""
    rng, verdicts, agree = Random(0), {True: 0, False: 0}, 0
    worlds = [world for name in NAMES for world in generate(name, sizes=(3, 4), seed=9, count=-(-size["plans"] // 30))]
    for world in worlds:
        walk = [action.text for action in world.walk(rng, rng.randrange(1, 13))]
        walked = corpora.toward(world, world.facts(world.after(walk)))
        for case, good in ((world, planners.plan(world)), (walked, walk)):
            library = planners.Library(case)
            for steps in (good, *(case.broken(good, rng) for _ in range(4))):
                ours = case.check(steps).valid
                agree += library.is_valid(steps) == ours
                verdicts[ours] += 1
    speed = {name: steps_a_second(name, size["transitions"]) for name in NAMES}
    return {"plans": sum(verdicts.values()), "good": verdicts[True], "agree": agree, "speed": speed}


def steps_a_second(name: str, transitions: int) -> dict[str, float]:
    """Time checking and taking the steps of one random walk, in our simulator and in the library's."""
    [world] = generate(name, sizes=(4,), seed=0, count=1)
    walk = world.walk(Random(0), transitions)
    began = time.perf_counter()
    state = world.start
    for action in walk:
        assert world.can(action, state)
        state = world.step(action, state)
    ours = len(walk) / (time.perf_counter() - began)
    library = planners.Library(world)
    machine_of_theirs, few = library.simulator(), walk[: max(200, transitions // 100)]
    instances = [library.instance(action.text) for action in few]
    began = time.perf_counter()
    their_state = machine_of_theirs.get_initial_state()
    for instance in instances:
        assert machine_of_theirs.is_applicable(their_state, instance)
        their_state = machine_of_theirs.apply(their_state, instance)
    return {"ours": ours, "library": len(few) / (time.perf_counter() - began)}


# --- students of a world ----------------------------------------------------------------------------------------------


def plans_of(worlds: Sequence[World], file: Path) -> dict[World, tuple[str, ...]]:
    """Compute the planner's plans, which take a tenth of a second each."""
    plans = kept(file, lambda: {"plans": [planners.plan(world) or () for world in worlds]})["plans"]
    return {world: tuple(steps) for world, steps in zip(worlds, plans, strict=True)}


def in_worlds(
    out: Path,
    kind: str,
    seed: int,
    worlds: corpora.Drawn,
    solved: dict[World, tuple[str, ...]],
    size: dict[str, Any],
) -> dict[str, Any]:
    """Train, test and probe a student on one corpus with one seed."""
    tokenizer = load_student(STUDENT).tokenizer
    by_kind = corpora.corpora(
        worlds.train, solved, seed=seed, apart=worlds.test, count=lambda text: len(tokenizer(text)["input_ids"])
    )
    corpus = by_kind[kind]
    steps = max(1, round(size["steps"] * len(corpus.problems) / len(by_kind["planner"].problems)))
    rows = [row(problem, plan.render(problem.steps).rstrip()) for problem in corpus.problems]
    loaded = trained(out, rows, seed, steps=steps, batch=size["batch"])
    test = [
        problem_of(world, solved[world], id=f"test/{number}", split="test") for number, world in enumerate(worlds.test)
    ]
    larger = [problem_of(world, id=f"larger/{number}", split="test") for number, world in enumerate(worlds.larger)]
    probed = probe(
        loaded,
        test,
        out,
        per_problem=size["per_problem"],
        max_tokens=size["max_tokens"],
        untuned=kind == KINDS[0],
        ranked=0,
        seed=seed,
    )
    written = generated_steps.plans_written(loaded.generate, larger, max_tokens=2 * size["max_tokens"])
    return {
        "corpus": {"problems": len(corpus.problems), "tokens": corpus.tokens, **asdict(corpus.coverage)},
        "larger": {name: asdict(score) for name, score in written.items()},
        **probed,
    }


def row(problem: Problem, completion: str) -> dict[str, Any]:
    """Build a training row as in the corpus."""
    return {"problem_id": problem.id, "prompt": list(plan.ask_plainly(problem)), "completion": completion}


def trained(out: Path, rows: list[dict[str, Any]], seed: int, *, steps: int, batch: int) -> Any:
    """Train a student on rows, or load it if it is trained."""
    if (out / "summary.json").is_file():
        return load_student(STUDENT, adapter=out)
    torch.manual_seed(seed)
    loaded = load_student(STUDENT, training=True, seed=seed)
    settings = SFT(max_steps=steps, batch_size=batch, accumulate=1, learning_rate=1e-3, save_steps=50)

    def show(line: str, last: bool) -> None:
        print(out.name, line, flush=True)

    training = Training(seed=seed, max_length=STUDENT.max_length, reporter=Reporter(show=show))
    summary = sft.train(loaded, rows, settings, out, training)
    write_whole(out / "summary.json", json.dumps(summary))
    return loaded


# --- the maths student ------------------------------------------------------------------------------------------------


def maths(out: Path, seed: int, size: dict[str, Any]) -> dict[str, Any]:
    """Train a student that plans before it solves `practice`; probe whether it knows which plans will succeed."""
    train = list(practice_problems("train", seed=seed, limit=size["maths"], levels=(2,)))
    solved = ((problem, plan_of(problem)) for problem in train)
    rows = [row(problem, plan.render(worked.plan, worked.execution)) for problem, worked in solved if worked.plan]
    loaded = trained(out, rows, seed, steps=size["maths_steps"], batch=size["maths_batch"])
    seen = {problem.question for problem in train}
    pool = practice_problems("train", seed=seed + 100, limit=400, levels=(2,))
    fresh = [problem for problem in pool if problem.question not in seen]
    sampling = Sampling(temperature=0.7, n=size["samples"], max_tokens=size["max_tokens"], seed=seed)
    attempts = tried(loaded, fresh[: size["asked"]], out / "tries.jsonl", how=Asking(sampling=sampling))
    figures, judge = knows(loaded, attempts, out, seed=seed)
    reported = [attempt for attempt in attempts if attempt.problem.id in set(figures["reported_on"])]
    scores = judge.scores(loaded, [attempt.messages for attempt in reported])
    return {**figures, "resampled": resample.compare(reported, scores)}


# --- the page ---------------------------------------------------------------------------------------------------------


def over_seeds(runs: dict[str, Any], kind: str, *path: str) -> str:
    """Format a figure's mean over the seeds, and each seed's."""
    values = []
    for seed in SEEDS:
        figure: Any = runs[f"{kind}{seed}"]
        for name in path:
            figure = figure[name]
        if figure is not None:  # None: nothing to measure
            values.append(figure["value"] if isinstance(figure, dict) else figure)
    if not values:
        return ""
    if isinstance(values[0], int):
        return f"{fmean(values):,.0f} ({', '.join(f'{value:,}' for value in values)})"
    return f"{fmean(values):.3f} ({', '.join(f'{value:.2f}' for value in values)})"


def write_down(runs: dict[str, Any], size: dict[str, Any], *, tiny: bool) -> None:
    """Write the page; a tiny run only prints it."""
    arms = [("base", "planner", "untuned"), *((kind, kind, "tuned") for kind in KINDS)]
    columns = ("arm", "solved", "next step legal", "AUROC, probe", "AUROC, mean probability", "changed facts")
    rows = [
        (
            arm,
            over_seeds(runs, kind, "generative", model, "success"),
            over_seeds(runs, kind, "generative", model, "next_step"),
            over_seeds(runs, kind, "validity", model, "auroc"),
            over_seeds(runs, kind, "output_probability", model, "mean", "auroc"),
            over_seeds(runs, kind, "predicates", model, "all"),
        )
        for arm, kind, model in arms
    ]
    rows.append(("(the step's words alone)", "", "", "", "", over_seeds(runs, KINDS[0], "predicates_by_words", "all")))
    text = markdown(columns, rows) + "\n\n"
    text += markdown(("AUROC of validity, differences", *KINDS), claims(runs)) + "\n\n"
    covered = [
        (
            kind,
            *(over_seeds(runs, kind, "corpus", name) for name in ("tokens", "states", "pairs")),
            over_seeds(runs, kind, "larger", "success"),
            over_seeds(runs, kind, "validity", "tuned", "auroc_after", "plan"),
            over_seeds(runs, kind, "validity", "tuned", "auroc_after", "walk"),
        )
        for kind in KINDS
    ]
    columns = ("corpus", "learned tokens", "states", "pairs", "larger solved", "probe after plans", "after walks")
    text += markdown(columns, covered) + "\n\n"
    controls = [
        (kind, *(over_seeds(runs, kind, "controls", name) for name in ("embedding", "shuffled", "bag_of_objects")))
        for kind in KINDS
    ]
    text += markdown(("AUROC of controls", "embeddings", "shuffled labels", "bag of objects"), controls) + "\n\n"
    if size["maths"]:
        figures = [
            ("probe at the last plan token", over_seeds(runs, "maths", "auroc")),
            ("the same, among attempts at one problem", over_seeds(runs, "maths", "within_a_problem")),
            *((name.replace("_", " "), over_seeds(runs, "maths", "controls", name)) for name in CONTROLS),
            *((f"probe minus {name.replace('_', ' ')}", probe_minus(runs, name)) for name in CONTROLS),
        ]
        text += markdown(("maths student: will the answer be right?", "AUROC"), figures) + "\n\n"
        again = [(name, over_seeds(runs, "maths", "resampled", name), solved_minus(runs, name)) for name in WAYS]
        text += markdown(("at equal tokens (plain: one reply)", "solved", "probe minus this"), again) + "\n\n"
    simulated = runs["simulator"]
    speeds = [(name, f"{rates['ours']:,.0f}", f"{rates['library']:,.0f}") for name, rates in simulated["speed"].items()]
    text += markdown(("steps per second", "ours", "unified-planning"), speeds)
    text += (
        f"\n\nOf {simulated['plans']} plans, {simulated['good']} of them valid, our verdict matches unified-planning's "
        f"on {simulated['agree']}. With {blocks(size['sizes'])} blocks there are {count_pairs(max(size['sizes']))} "
        "pairs of state and action; plans miss few of them. A figure is the mean of three seeds, each seed's in "
        f"brackets; a difference has its 95 % interval over problems. {size['train']} problems of "
        f"{blocks(size['sizes'])} blocks, {size['steps']} steps of {size['batch']} planner's plans; the other corpora, "
        f"whose plans are longer, get as many steps as make equally many epochs. {size['test']} test problems per seed "
        f"of the same size, a fifth of which evaluate the probes, and as many of {blocks(size['larger'])} blocks. The "
        "students are LoRA adapters on SmolLM2-135M-Instruct and reach the goal in "
        f"{fmean(solved_by(runs)):.1%} of the problems."
    )
    if tiny:
        print(text)
        return
    write(
        "worlds",
        command=f"python -m benchmarks.worlds --work DIR{'' if size['maths'] else ' --without-maths'}",
        about="Linear probes: does a student know the world it plans in (SmolLM2-135M, blocksworld)"
        f"{', and a maths student its plans' if size['maths'] else ''}?",
        found={
            "machine": machine("torch", "transformers", "trl", "peft", "unified-planning", "up-pyperplan"),
            "size": size,
            **runs,
        },
        text=text,
    )


def blocks(sizes: Sequence[int]) -> str:
    """Join sizes: 4 and 5."""
    return " and ".join(map(str, sizes))


def solved_by(runs: dict[str, Any]) -> list[float]:
    """Return the share of problems that each student solves."""
    return [runs[f"{kind}{seed}"]["generative"]["tuned"]["success"]["value"] for kind in KINDS for seed in SEEDS]


def count_pairs(size: int) -> int:
    """Count the pairs of a state and an action in blocksworld."""
    [world] = generate("blocksworld", sizes=(size,), seed=0, count=1)
    seen, edge, pairs = {world.start}, [world.start], 0
    while edge:
        state = edge.pop()
        for action in world.applicable(state):
            pairs += 1
            if (next_state := world.step(action, state)) not in seen:
                seen.add(next_state)
                edge.append(next_state)
    return pairs


def claims(runs: dict[str, Any]) -> list[tuple[str, ...]]:
    """Compute the paper's three claims as differences in AUROC on the same steps, over the problems of three seeds."""

    def scores(kind: str, what: str, model: str = "tuned") -> list[Any]:
        models = [runs[f"{kind}{seed}"][what][model] for seed in SEEDS]
        return [(figures["mean"] if what == OUTPUT else figures)["scores"] for figures in models]

    def difference(ours: list[Any], theirs: list[Any]) -> str:
        reported = [runs[f"{KINDS[0]}{seed}"]["reported"] for seed in SEEDS]
        return signed(
            linear.difference(
                linear.auroc,
                [(a, b, seed["valid"], seed["problems"]) for a, b, seed in zip(ours, theirs, reported, strict=True)],
            )
        )

    def row(claim: str, other: Callable[[str], list[Any]], what: str = PROBE, kinds: Sequence[str] = KINDS) -> Any:
        return (claim, *(difference(scores(kind, what), other(kind)) if kind in kinds else "" for kind in KINDS))

    return [
        row("(a) validity becomes decodable: probe, tuned minus untuned", lambda _: scores(KINDS[0], PROBE, "untuned")),
        row("(b) states hold more than the output: probe minus own probability", lambda kind: scores(kind, OUTPUT)),
        row("(c) walks show more: probe minus planner's", lambda _: scores(KINDS[0], PROBE), kinds=KINDS[1:]),
        row("own probability, tuned minus untuned", lambda _: scores(KINDS[0], OUTPUT, "untuned"), OUTPUT),
    ]


def probe_minus(runs: dict[str, Any], control: str) -> str:
    """Compare the AUROC of the probe, for right answers, with that of a control."""
    reported = [runs[f"maths{seed}"]["reported"] for seed in SEEDS]
    seeds = [(seed["probe"], seed[control], seed["right"], seed["problems"]) for seed in reported]
    return signed(linear.difference(linear.auroc, seeds))


def solved_minus(runs: dict[str, Any], way: str) -> str:
    """Compare the problems solved by resampling weak plans with those solved in another way."""
    if way == WAYS[0]:
        return ""
    by_problem = [runs[f"maths{seed}"]["resampled"]["by_problem"] for seed in SEEDS]
    ours, theirs = ([value for seed in by_problem for value in seed[name]] for name in (WAYS[0], way))
    return signed(paired(ours, theirs).difference)


def signed(estimate: Estimate) -> str:
    """Format an estimate: +0.052 (-0.010 to +0.113)."""
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


if __name__ == "__main__":
    main()
