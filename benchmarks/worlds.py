"""Does a model that plans know its world? SmolLM2 in blocksworld: planner's plans, random walks, both; three seeds.

    python -m benchmarks.worlds --work DIR                 # resumes where it was cut off
    python -m benchmarks.worlds --work DIR --seed 1        # only this seed: a process a core, and then the line above
    python -m benchmarks.worlds --work DIR --without-maths # the worlds alone, not the bridge
    python -m benchmarks.worlds --work DIR --tiny          # minutes, to see that it runs; nothing is written down

The three corpora are of one pool and of equally many learned tokens, and are gone through equally often. Each student
is tested on problems of the sizes it saw and on larger ones, then probed on the former. The simulator is held to
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
HELD, SAID = "validity", "output_probability"
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
    if kept(work / "size.json", lambda: size) != json.loads(json.dumps(size)):
        raise SystemExit(f"{work} holds what was measured at other sizes: take another folder")
    if arguments.without_maths:
        size = {**size, "maths": 0}
    seeds = SEEDS if arguments.seed is None else (arguments.seed,)
    found: dict[str, Any] = {}
    if arguments.seed is None:
        found["simulator"] = kept(work / "simulator.json", simulator, size)
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
            found[out.name] = kept(out / "found.json", in_worlds, out, kind, seed, worlds, solved, size)
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
    out: Path,
    kind: str,
    seed: int,
    worlds: corpora.Drawn,
    solved: dict[World, tuple[str, ...]],
    size: dict[str, Any],
) -> dict[str, Any]:
    """One corpus, one seed: trained, tested and probed."""
    tokenizer = load_student(STUDENT).tokenizer
    three = corpora.corpora(
        worlds.train, solved, seed=seed, apart=worlds.test, count=lambda text: len(tokenizer(text)["input_ids"])
    )
    corpus = three[kind]
    steps = max(1, round(size["steps"] * len(corpus.problems) / len(three["planner"].problems)))
    rows = [row(one, plan.render(one.steps).rstrip()) for one in corpus.problems]
    loaded = trained(out, rows, seed, steps=steps, batch=size["batch"])
    test = [
        problem_of(world, solved[world], id=f"test/{number}", split="test") for number, world in enumerate(worlds.test)
    ]
    larger = [problem_of(world, id=f"larger/{number}", split="test") for number, world in enumerate(worlds.larger)]
    found = probe(
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
        "larger": {name: asdict(one) for name, one in written.items()},
        **found,
    }


def row(problem: Problem, completion: str) -> dict[str, Any]:
    """A training row, as the corpus writes it."""
    return {"problem_id": problem.id, "prompt": list(plan.ask_plainly(problem)), "completion": completion}


def trained(out: Path, rows: list[dict[str, Any]], seed: int, *, steps: int, batch: int) -> Any:
    """A student trained on rows, or the one that was."""
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


# --- the bridge -------------------------------------------------------------------------------------------------------


def maths(out: Path, seed: int, size: dict[str, Any]) -> dict[str, Any]:
    """A student that plans before it solves problems of `practice`: does it know which plans will come out right?"""
    train = list(practice_problems("train", seed=seed, limit=size["maths"], levels=(2,)))
    rows = [row(one, plan.render(made.plan, made.execution)) for one in train if (made := plan_of(one)).plan]
    loaded = trained(out, rows, seed, steps=size["maths_steps"], batch=size["maths_batch"])
    known = {one.question for one in train}
    fresh = [
        one for one in practice_problems("train", seed=seed + 100, limit=400, levels=(2,)) if one.question not in known
    ]
    drawn = Sampling(temperature=0.7, n=size["samples"], max_tokens=size["max_tokens"], seed=seed)
    tries = tried(loaded, fresh[: size["asked"]], out / "tries.jsonl", how=Asking(sampling=drawn))
    found, judge = knows(loaded, tries, out, seed=seed)
    reported = [one for one in tries if one.problem.id in set(found["reported_on"])]
    scores = judge.scores(loaded, [one.messages for one in reported])
    return {**found, "resampled": resample.compare(reported, scores)}


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
    rows.append(("(the step's words alone)", "", "", "", "", over_seeds(found, KINDS[0], "predicates_by_words", "all")))
    text = markdown(columns, rows) + "\n\n"
    text += markdown(("AUROC of validity, differences", *KINDS), claims(found)) + "\n\n"
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
            *((f"probe minus {name.replace('_', ' ')}", tells_more(found, name)) for name in CONTROLS),
        ]
        text += markdown(("maths student: will the answer be right?", "AUROC"), told) + "\n\n"
        again = [(name, over_seeds(found, "maths", "resampled", name), minus(found, name)) for name in WAYS]
        text += markdown(("at equal tokens (plain: one reply)", "solved", "probe minus it"), again) + "\n\n"
    simulated = found["simulator"]
    speeds = [(name, f"{one['ours']:,.0f}", f"{one['library']:,.0f}") for name, one in simulated["speed"].items()]
    text += markdown(("steps a second", "ours", "unified-planning"), speeds)
    text += (
        f"\n\nOf {simulated['plans']} plans, {simulated['good']} of them valid, our verdict is unified-planning's on "
        f"{simulated['agree']}. "
        f"Of {blocks(size['sizes'])} blocks there are {pairs_there_are(max(size['sizes']))} pairs of state and action: "
        "plans leave few of them out. A figure is the mean of three seeds, each beside it; a difference has its 95 % "
        f"interval over problems. {size['train']} problems of {blocks(size['sizes'])} blocks, {size['steps']} steps of "
        f"{size['batch']} planner's plans, and of the other corpora, whose plans are longer, so many steps that each "
        f"is gone through as often; {size['test']} test problems a seed of the same size, a fifth of which the probes "
        f"are judged on, and as many of {blocks(size['larger'])} blocks. The base of all is SmolLM2-135M-Instruct, the "
        f"students are LoRA adapters on it and reach the goal in {fmean(solved_by(found)):.1%} of the problems."
    )
    if tiny:
        print(text)
        return
    write(
        "worlds",
        command=f"python -m benchmarks.worlds --work DIR{'' if size['maths'] else ' --without-maths'}",
        about="Does a student know the world it plans in (SmolLM2-135M, blocksworld)"
        f"{', and a maths student its plans' if size['maths'] else ''}? Linear probes.",
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


def pairs_there_are(size: int) -> int:
    """How many pairs of a state and an action blocksworld has."""
    [world] = generate("blocksworld", sizes=(size,), seed=0, count=1)
    seen, edge, pairs = {world.start}, [world.start], 0
    while edge:
        state = edge.pop()
        for action in world.applicable(state):
            pairs += 1
            if (there := world.step(action, state)) not in seen:
                seen.add(there)
                edge.append(there)
    return pairs


def claims(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """The paper's three claims as differences in AUROC on the same steps, over the problems of three seeds."""

    def scores(kind: str, what: str, model: str = "tuned") -> list[Any]:
        of = [found[f"{kind}{seed}"][what][model] for seed in SEEDS]
        return [(one["mean"] if what == SAID else one)["scores"] for one in of]

    def beside(ones: list[Any], others: list[Any]) -> str:
        reported = [found[f"{KINDS[0]}{seed}"]["reported"] for seed in SEEDS]
        return signed(
            linear.difference(
                linear.auroc,
                [(a, b, of["valid"], of["problems"]) for a, b, of in zip(ones, others, reported, strict=True)],
            )
        )

    def row(claim: str, other: Callable[[str], list[Any]], what: str = HELD, kinds: Sequence[str] = KINDS) -> Any:
        return (claim, *(beside(scores(kind, what), other(kind)) if kind in kinds else "" for kind in KINDS))

    return [
        row("(a) training makes it decodable: probe, tuned minus untuned", lambda _: scores(KINDS[0], HELD, "untuned")),
        row("(b) more is held than said: probe minus own probability", lambda kind: scores(kind, SAID)),
        row("(c) walks show more: probe, minus planner's", lambda _: scores(KINDS[0], HELD), kinds=KINDS[1:]),
        row("own probability, tuned minus untuned", lambda _: scores(KINDS[0], SAID, "untuned"), SAID),
    ]


def tells_more(found: dict[str, Any], control: str) -> str:
    """How much better the probe tells plans that come out right than something else does."""
    of = [found[f"maths{seed}"]["reported"] for seed in SEEDS]
    return signed(
        linear.difference(linear.auroc, [(one["probe"], one[control], one["right"], one["problems"]) for one in of])
    )


def minus(found: dict[str, Any], way: str) -> str:
    """How many more problems are solved, by weak plans drawn again, than in another way."""
    if way == WAYS[0]:
        return ""
    of = [found[f"maths{seed}"]["resampled"]["by_problem"] for seed in SEEDS]
    ours, theirs = ([value for one in of for value in one[name]] for name in (WAYS[0], way))
    return signed(paired(ours, theirs).difference)


def signed(one: Estimate) -> str:
    """+0.052 (-0.010 to +0.113)."""
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"


if __name__ == "__main__":
    main()
