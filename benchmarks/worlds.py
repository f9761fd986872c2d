"""Does a model that plans know its world? Blocksworld: planner's plans, random walks and both, three seeds.

    python -m benchmarks.worlds --work DIR                 # goes on where it was cut off
    python -m benchmarks.worlds --work DIR --seed 1        # only this seed: a process a core, and then the line above
    python -m benchmarks.worlds --work DIR --without-maths # the worlds alone, not the bridge
    python -m benchmarks.worlds --work DIR --tiny          # minutes, to see that it runs; nothing is written down

The student is a small llama made here (small_base.py), which knows the words of the world and not how it works. The
three corpora are of one pool and of equally many learned tokens, and take the same number of steps. Each student is
tested on problems of the sizes it saw and on larger ones, then probed on the former. The simulator is held to
unified-planning's: the same verdict on 1,000 plans, good and broken, and how many steps it does in a second. The bridge
is asked of a maths student that plans (SmolLM2 on `practice`, M1), trained here too.
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

import numpy as np
import torch

from benchmarks import small_base
from benchmarks.report import machine, markdown, write
from plantune_lite import plans, practice, sft, student
from plantune_lite.intervals import Estimate, mean
from plantune_lite.lab import corpora, generative, planners, weak_plans
from plantune_lite.lab.domains import NAMES, generate
from plantune_lite.lab.knows import knows, tried
from plantune_lite.lab.planning import problem_of
from plantune_lite.lab.probe import probe
from plantune_lite.lab.worlds import World
from plantune_lite.recipe import SFT, Student
from plantune_lite.records import Problem, write_whole
from plantune_lite.worked import plan_of

SEEDS = (0, 1, 2)
KINDS = ("planner", "walks", "mixed")
MATHS = Student("smollm2_135m", bits=32, max_length=512, lora_rank=32, lora_alpha=32, checkpointing=False)
FULL = {
    "sizes": (5,),
    "larger": (6,),
    "train": 500,
    "test": 160,
    "base_steps": 250,
    "steps": 450,
    "batch": 16,
    "per_problem": 8,
    "max_tokens": 160,
    "plans": 1_000,
    "transitions": 200_000,
    "maths": 320,
    "maths_steps": 30,
    "maths_batch": 8,
    "asked": 48,
    "samples": 5,
}
TINY = {
    **FULL,
    "train": 24,
    "test": 12,
    "base_steps": 2,
    "steps": 2,
    "batch": 2,
    "per_problem": 4,
    "plans": 60,
    "transitions": 3_000,
    "maths": 0,  # a student that was hardly trained writes no plans to ask about
    "max_tokens": 24,
}


def main() -> None:
    """Simulate, train, probe, write down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, choices=SEEDS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--without-maths", action="store_true", help="the worlds alone, without the bridge")
    arguments = parser.parse_args()
    size, work = (TINY, arguments.work / "tiny") if arguments.tiny else (FULL, arguments.work)
    if arguments.without_maths:
        size = {**size, "maths": 0}
    seeds = SEEDS if arguments.seed is None else (arguments.seed,)
    found: dict[str, Any] = {}
    if arguments.seed is None:
        found["simulator"] = kept(work / "simulator.json", simulator, size)
    base = small_base.make(
        work / "base", "blocksworld", sizes=(*size["sizes"], *size["larger"]), steps=size["base_steps"]
    )
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
            found[out.name] = kept(out / "found.json", in_worlds, base, out, kind, seed, worlds, solved, size)
        if size["maths"]:
            out = work / f"maths{seed}"
            found[out.name] = kept(out / "found.json", maths, out, seed, size)
    if arguments.seed is None:
        write_down(found, size, tiny=arguments.tiny)


def kept(file: Path, find: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a file says was found, or finding it."""
    if not file.is_file():
        write_whole(file, json.dumps(find(*arguments), indent=1) + "\n")
    return json.loads(file.read_text(encoding="utf-8"))


# --- the simulator ----------------------------------------------------------------------------------------------------


def simulator(size: dict[str, Any]) -> dict[str, Any]:
    """Agreement with the library's validator, and steps a second beside its simulator."""
    rng, verdicts, agree = Random(0), {True: 0, False: 0}, 0
    worlds = [world for name in NAMES for world in generate(name, sizes=(3, 4), seed=9, count=-(-size["plans"] // 30))]
    for world in worlds:
        walk = [action.text for action in world.walk(rng, rng.randrange(1, 13))]
        walked = corpora.toward(world, world.facts(world.after(walk)))
        for there, good in ((world, planners.plan(world)), (walked, walk)):
            library = planners.Library(there)
            for steps in (good, *(there.broken(good, rng) for _ in range(4))):
                ours = there.check(steps).valid
                agree += library.is_valid(steps) == ours
                verdicts[ours] += 1
    speed = {name: steps_a_second(name, size["transitions"]) for name in NAMES}
    return {"plans": sum(verdicts.values()), "good": verdicts[True], "agree": agree, "speed": speed}


def steps_a_second(name: str, transitions: int) -> dict[str, float]:
    """Whether a step can be done, and doing it: on the same random walk, ours and the library's."""
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
    there = machine_of_theirs.get_initial_state()
    for one in instances:
        assert machine_of_theirs.is_applicable(there, one)
        there = machine_of_theirs.apply(there, one)
    return {"ours": ours, "library": len(few) / (time.perf_counter() - began)}


# --- students of a world ----------------------------------------------------------------------------------------------


def plans_of(worlds: Sequence[World], file: Path) -> dict[World, tuple[str, ...]]:
    """The planner's plans, which take a tenth of a second each."""
    found = kept(file, lambda: {"plans": [planners.plan(world) or () for world in worlds]})["plans"]
    return {world: tuple(steps) for world, steps in zip(worlds, found, strict=True)}


def in_worlds(
    base: Path,
    out: Path,
    kind: str,
    seed: int,
    worlds: corpora.Drawn,
    solved: dict[World, tuple[str, ...]],
    size: dict[str, Any],
) -> dict[str, Any]:
    """One corpus, one seed: trained, tested and probed."""
    part = Student(str(base), bits=32, max_length=512, lora_rank=64, lora_alpha=64, checkpointing=False)
    tokenizer = student.load(part).tokenizer
    three = corpora.corpora(
        worlds.train, solved, seed=seed, apart=worlds.test, count=lambda text: len(tokenizer(text)["input_ids"])
    )
    corpus = three[kind]
    batch = max(1, round(size["batch"] * len(corpus.problems) / len(three["planner"].problems)))
    rows = [row(one, plans.render(one.steps).rstrip()) for one in corpus.problems]
    loaded = trained(part, out, rows, seed, steps=size["steps"], batch=batch, learning_rate=2e-3)
    test = [
        problem_of(world, solved[world], id=f"test/{number}", split="test") for number, world in enumerate(worlds.test)
    ]
    larger = [problem_of(world, id=f"larger/{number}", split="test") for number, world in enumerate(worlds.larger)]
    found = probe(loaded, test, out, per_problem=size["per_problem"], max_tokens=size["max_tokens"], seed=seed)
    written = generative.plans_written(loaded.generate, larger, max_tokens=2 * size["max_tokens"])
    return {
        "corpus": {"problems": len(corpus.problems), "tokens": corpus.tokens, **asdict(corpus.coverage)},
        "larger": {name: asdict(one) for name, one in written.items()},
        **found,
    }


def row(problem: Problem, completion: str) -> dict[str, Any]:
    """A training row, as the corpus writes it."""
    return {"problem_id": problem.id, "prompt": list(plans.ask_plainly(problem)), "completion": completion}


def trained(
    part: Student,
    out: Path,
    rows: list[dict[str, Any]],
    seed: int,
    *,
    steps: int,
    batch: int,
    learning_rate: float = 1e-3,
) -> Any:
    """A student trained on rows, or the one that was."""
    if (out / "summary.json").is_file():
        return student.load(part, adapter=out)
    torch.manual_seed(seed)
    loaded = student.load(part, training=True, seed=seed)
    settings = SFT(max_steps=steps, batch_size=batch, accumulate=1, learning_rate=learning_rate, save_steps=50)

    def show(line: str, last: bool) -> None:
        print(out.name, line, flush=True)

    summary = sft.train(loaded, rows, settings, out, max_length=part.max_length, seed=seed, show=show)
    write_whole(out / "summary.json", json.dumps(summary))
    return loaded


# --- the bridge -------------------------------------------------------------------------------------------------------


def maths(out: Path, seed: int, size: dict[str, Any]) -> dict[str, Any]:
    """A student that plans before it solves problems of `practice`: does it know which plans will come out right?"""
    train = list(practice.generate("train", seed=seed, limit=size["maths"], levels=(1,)))
    rows = [row(one, plans.render(made.plan, made.execution)) for one in train if (made := plan_of(one)).plan]
    loaded = trained(MATHS, out, rows, seed, steps=size["maths_steps"], batch=size["maths_batch"])
    known = {one.question for one in train}
    fresh = [
        one for one in practice.generate("train", seed=seed + 100, limit=400, levels=(1,)) if one.question not in known
    ]
    tries = tried(loaded, fresh[: size["asked"]], samples=size["samples"], max_tokens=size["max_tokens"], seed=seed)
    found, judge = knows(loaded, tries, out, seed=seed)
    reported = [one for one in tries if one.problem.id in set(found["reported_on"])]
    scores = judge.scores(loaded, [one.messages for one in reported])
    return {**found, "resampled": weak_plans.compare(reported, scores)}


# --- writing it down --------------------------------------------------------------------------------------------------


def over_seeds(found: dict[str, Any], kind: str, *path: str) -> str:
    """A figure's mean over the seeds, and each seed's."""
    values = []
    for seed in SEEDS:
        one: Any = found[f"{kind}{seed}"]
        for name in path:
            one = one[name]
        if one is not None:  # where there was nothing to measure
            values.append(one["value"] if isinstance(one, dict) else one)
    if not values:
        return ""
    if isinstance(values[0], int):
        return f"{fmean(values):,.0f} ({', '.join(f'{value:,}' for value in values)})"
    return f"{fmean(values):.3f} ({', '.join(f'{value:.2f}' for value in values)})"


def write_down(found: dict[str, Any], size: dict[str, Any], *, tiny: bool) -> None:
    """The tables; a tiny run prints them and keeps nothing."""
    arms = [("base", "planner", "untuned"), *((kind, kind, "tuned") for kind in KINDS)]
    columns = ("arm", "solved", "next step legal", "AUROC, probe", "AUROC, mean probability", "facts that changed")
    rows = [
        (
            arm,
            over_seeds(found, kind, "generative", model, "success"),
            over_seeds(found, kind, "generative", model, "next_step"),
            over_seeds(found, kind, "validity", model, "auroc"),
            over_seeds(found, kind, "output_probability", model, "mean", "auroc"),
            over_seeds(found, kind, "predicates", model, "all"),
        )
        for arm, kind, model in arms
    ]
    text = markdown(columns, rows) + "\n\n"
    covered = [
        (
            kind,
            *(over_seeds(found, kind, "corpus", name) for name in ("tokens", "states", "pairs")),
            over_seeds(found, kind, "larger", "success"),
            over_seeds(found, kind, "validity", "tuned", "auroc_after", "plan"),
            over_seeds(found, kind, "validity", "tuned", "auroc_after", "walk"),
        )
        for kind in KINDS
    ]
    columns = ("corpus", "learned tokens", "states", "pairs", "larger solved", "probe after a plan", "after a walk")
    text += markdown(columns, covered) + "\n\n"
    controls = [
        (kind, *(over_seeds(found, kind, "controls", name) for name in ("embedding", "shuffled", "bag_of_objects")))
        for kind in KINDS
    ]
    text += markdown(("AUROC of controls", "embeddings", "shuffled labels", "bag of objects"), controls) + "\n\n"
    if size["maths"]:
        told = [
            ("probe at the last plan token", over_seeds(found, "maths", "auroc")),
            ("the same, among tries of one problem", over_seeds(found, "maths", "within_a_problem")),
            *((name.replace("_", " "), over_seeds(found, "maths", "controls", name)) for name in CONTROLS),
        ]
        text += markdown(("maths student: will the answer be right?", "AUROC"), told) + "\n\n"
        again = [(name, over_seeds(found, "maths", "resampled", name)) for name in ("probe", "majority", "plain")]
        text += markdown(("at equal tokens", "solved"), again) + "\n\n"
    simulated = found["simulator"]
    speeds = [(name, f"{one['ours']:,.0f}", f"{one['library']:,.0f}") for name, one in simulated["speed"].items()]
    text += markdown(("steps a second", "ours", "unified-planning"), speeds)
    text += (
        f"\n\nOf {simulated['plans']} plans, {simulated['good']} of them valid, our verdict is unified-planning's on "
        f"{simulated['agree']}. "
        + f"{claims(found)} {by_coverage(found)}"
        + " A figure is the mean of three seeds, each beside it; intervals over "
        f"problems are in the JSON. {size['train']} problems of {blocks(size['sizes'])} blocks, {size['steps']} steps "
        f"of {size['batch']} plans, {size['test']} test problems a seed of the same sizes and as many of "
        f"{blocks(size['larger'])}. The base of all is a llama of 1.1 million parameters that was shown "
        "questions and senseless steps; the students are LoRA adapters on it. They reach the goal in "
        f"{fmean(solved_by(found)):.1%} of the problems: what holds of a model that plans well is not shown here."
    )
    if tiny:
        print(text)
        return
    write(
        "worlds",
        command=f"python -m benchmarks.worlds --work DIR{'' if size['maths'] else ' --without-maths'}",
        about="Does a student know the world it plans in (a small llama, blocksworld)"
        f"{', and a maths student its plans (SmolLM2-135M)' if size['maths'] else ''}? Linear probes.",
        found={
            "machine": machine("torch", "transformers", "trl", "peft", "unified-planning", "up-pyperplan"),
            "size": size,
            **found,
        },
        text=text,
    )


def blocks(sizes: Sequence[int]) -> str:
    """4 and 5."""
    return " and ".join(map(str, sizes))


def solved_by(found: dict[str, Any]) -> list[float]:
    """The share of problems that each student solves."""
    return [found[f"{kind}{seed}"]["generative"]["tuned"]["success"]["value"] for kind in KINDS for seed in SEEDS]


def by_coverage(found: dict[str, Any]) -> str:
    """What the students' probes have to do with how much their corpora show; nine points, so a hint at most."""
    students = [found[f"{kind}{seed}"] for kind in KINDS for seed in SEEDS]
    doublings = np.log2([one["corpus"]["pairs"] for one in students])
    knows_steps = [one["validity"]["tuned"]["auroc"]["value"] for one in students]
    rise, _ = np.polyfit(doublings, knows_steps, 1)
    return (
        f"Over the {len(students)} students the probe's AUROC changes by {rise:+.3f} with each doubling of the pairs "
        f"of state and action that its corpus shows (r {np.corrcoef(doublings, knows_steps)[0, 1]:+.2f})."
    )


CONTROLS = ("shorter_plan", "pass_rate", "token_probability")


def claims(found: dict[str, Any]) -> str:
    """Which of the paper's three claims hold here, by differences over the seeds."""

    def values(kind: str, *path: str) -> list[float]:
        one_of_each = []
        for seed in SEEDS:
            one: Any = found[f"{kind}{seed}"]
            for name in path:
                one = one[name]
            one_of_each.append(one["value"])
        return one_of_each

    def beside(one: list[float], other: list[float]) -> tuple[str, Estimate]:
        difference = mean([a - b for a, b in zip(one, other, strict=True)], bounds=(-1.0, 1.0))
        return ("all seeds" if all(a > b for a, b in zip(one, other, strict=True)) else "not all seeds"), difference

    tuned, untuned = values("planner", "validity", "tuned", "auroc"), values("planner", "validity", "untuned", "auroc")
    said = values("planner", "output_probability", "tuned", "mean", "auroc")
    walks = values("walks", "validity", "tuned", "auroc")
    sentences = []
    for claim, one, other in (
        ("(a) training makes validity decodable: tuned minus untuned", tuned, untuned),
        ("(b) more is held than said: probe minus output probability", tuned, said),
        ("(c) walks recover more than plans: walks minus planner", walks, tuned),
    ):
        where, difference = beside(one, other)
        sentences.append(f"{claim} {difference.value:+.3f} AUROC ({where} above 0)")
    return "; ".join(sentences) + "."


if __name__ == "__main__":
    main()
