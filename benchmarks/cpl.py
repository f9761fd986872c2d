"""CPL with SmolLM2-135M on a CPU: how fast many trees grow, what search finds for its tokens, what is learned from it.

    python -m benchmarks.cpl --work DIR              # all three, some two hours; resumes where it was cut off
    python -m benchmarks.cpl --work DIR --only speed # or search, or train
    python -m benchmarks.cpl --work DIR --quick      # to try it; writes nothing

The policy is a student after a short SFT on plans of `practice`'s known templates; what is searched are fresh problems
of those, what is tested others again. Speed: 64 trees at once beside one at a time, float32, and whether the trees are
the same. Search: MCTS beside sampling whole replies until as many tokens are generated, problem by problem. Training:
SFT on the search's right paths, alone and followed by Step-APO or step-DPO on the same pairs, three seeds each.
"""

import argparse
import json
import time
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch

from benchmarks.arms import rows_of
from benchmarks.report import machine, markdown, shares, write
from plantune_lite.evaluate import modes, stats
from plantune_lite.evaluate.answers import Asking
from plantune_lite.files import write_whole
from plantune_lite.grading.grade import grade_answer
from plantune_lite.lab.cpl import pairs, search, step_apo
from plantune_lite.lab.cpl.preference import Batches
from plantune_lite.lab.cpl.tree import Tree, to_row
from plantune_lite.plan import ask_plainly, parse
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.schema import CPL, SFT, Student
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.student.load import load_student
from plantune_lite.train import sft
from plantune_lite.types import Problem, Reply, Sampling

SEEDS = (0, 1, 2)
STUDENT = Student("smollm2_135m", bits=32, max_length=512, lora_rank=32, lora_alpha=32, checkpointing=False)
PART = CPL(iterations=12, root_width=5, width=3, depth=6, rollouts=1, alpha=1.0, beta=0.3, learning_rate=1e-4)
SOLUTION_TOKENS, MAX_TOKENS = 128, 160
A_ROUND = 4  # replies that are sampled of a problem before its budget is looked at again
FIRST_ITERATIONS = 4  # of which the speed is measured
PAIRS_A_STEP = 8
BUDGETS = (250, 500, 1_000, 2_000, 4_000)  # generated tokens a problem
SIZES = {"policy": 40, "alone": 8, "searched": 64, "steps": 30, "preferences": 8, "tested": 100}
QUICK = {"policy": 20, "alone": 1, "searched": 6, "steps": 2, "preferences": 2, "tested": 2}
ARMS = {"SFT": None, "Step-APO": 1.0, "step-DPO": 0.0}


def main() -> None:
    """The policy, then what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=("speed", "search", "train"))
    parser.add_argument("--quick", action="store_true", help="few problems, few steps")
    asked = parser.parse_args()
    work = asked.work / "quick" if asked.quick else asked.work
    size, part = (QUICK, CPL(**{**vars(PART), "iterations": 3})) if asked.quick else (SIZES, PART)
    seen = list(practice_problems("train", seed=0, limit=320, levels=(2,)))
    fresh = list(practice_problems("train", seed=1, limit=1_200, levels=(2,)))
    known = {problem.question for problem in seen}
    fresh = [problem for problem in {one.question: one for one in fresh}.values() if problem.question not in known]
    policy = imitated(work / "policy", rows_of(seen, "plan+solution", work / "corpus"), size["policy"], seed=0)
    searched, tested = fresh[: size["searched"]], fresh[size["searched"] :][: size["tested"]]

    found: dict[str, Any] = {}
    if asked.only in (None, "speed"):
        found["speed"] = once(work / "speed.json", lambda: speed(policy, searched, part, size))
    if asked.only in (None, "search", "train"):
        trees = grown(policy, searched, part, work / "trees")
    if asked.only in (None, "search"):
        found["search"] = once(work / "search.json", lambda: against_sampling(policy, searched, trees))
    if asked.only in (None, "train"):
        found["train"] = once(work / "train.json", lambda: trained(work, searched, tested, trees, size))
    text = "\n\n".join(
        {"speed": speed_text, "search": search_text, "train": train_text}[name](one) for name, one in found.items()
    )
    if asked.quick or asked.only:
        print(text)
    else:
        write_down(found, text)


def once(file: Path, work: Any) -> Any:
    """What is measured already is not measured again."""
    if not file.is_file():
        write_whole(file, json.dumps(work(), indent=1) + "\n")
    return json.loads(file.read_text(encoding="utf-8"))


def quiet(line: str, last: bool = True) -> None:
    """Only last lines."""
    if last:
        print(line, flush=True)


def right(problem: Problem, text: str) -> bool:
    """By the one grader."""
    return grade_answer(problem, text).verdict.same is True


def training_of(seed: int) -> Training:
    return Training(seed=seed, max_length=STUDENT.max_length, reporter=Reporter(show=quiet))


def imitated(out: Path, rows: list[dict], steps: int, seed: int) -> Any:
    """A student after SFT on these rows."""
    if (out / "adapter_model.safetensors").is_file():
        return load_student(STUDENT, adapter=out, training=True, seed=seed)
    torch.manual_seed(seed)
    loaded = load_student(STUDENT, training=True, seed=seed)
    part = SFT(max_steps=steps, batch_size=8, accumulate=1, learning_rate=1e-3, save_steps=10)
    sft.train(loaded, rows, part, out, training_of(seed))
    return loaded


def grown(policy: Any, problems: list[Problem], part: CPL, out: Path, at_once: int = search.AT_ONCE) -> list[Tree]:
    """Trees of these problems."""
    settings = {"ask": ask_plainly, "solution_tokens": SOLUTION_TOKENS, "at_once": at_once, "show": quiet}
    search.search(problems, policy.generate, right, part, out, **settings)
    return list(search.trees_of(out))


# --- speed ------------------------------------------------------------------------------------------------------------


def speed(policy: Any, problems: list[Problem], part: CPL, size: dict[str, int]) -> dict[str, Any]:
    """Tokens a second of all trees at once and of some of them one at a time, while hardly one has come to its end."""
    from tempfile import TemporaryDirectory

    part = CPL(**{**vars(part), "iterations": FIRST_ITERATIONS})
    alone = Random(0).sample(problems, size["alone"])
    sides = {"together": (problems, search.AT_ONCE), "alone": (alone, 1)}
    found: dict[str, Any] = {}
    trees: dict[str, dict[str, Any]] = {}
    policy.generate([ask_plainly(problems[0])], Sampling(max_tokens=1))
    for side, (some, at_once) in sides.items():
        with TemporaryDirectory() as folder:
            began = time.perf_counter()
            made = grown(policy, some, part, Path(folder), at_once)
            seconds = time.perf_counter() - began
        tokens = sum(tree.tokens for tree in made)
        trees[side] = {tree.problem_id: shape(tree) for tree in made}
        found[side] = {"trees": len(made), "tokens": tokens, "seconds": seconds, "tokens_a_second": tokens / seconds}
    found["same"] = sum(trees["alone"][id] == trees["together"][id] for id in trees["alone"])
    found["ratio"] = found["together"]["tokens_a_second"] / found["alone"]["tokens_a_second"]
    found["iterations"] = part.iterations
    return found


def shape(tree: Tree) -> list[dict[str, Any]]:
    """A tree's nodes without their priors, whose last digit is rounding's: they show in what was visited."""
    return [{name: value for name, value in node.items() if name != "prior"} for node in to_row(tree)["nodes"]]


def speed_text(found: dict[str, Any]) -> str:
    """A table, and whether the trees are the same."""
    rows = [
        (name, found[side]["trees"], f"{found[side]['tokens']:,}", f"{found[side]['tokens_a_second']:.1f}")
        for side, name in (("together", "all at once"), ("alone", "one at a time"))
    ]
    return (
        f"## Many trees at once\n\n{markdown(('trees', 'how many', 'tokens', 'tokens a second'), rows)}\n\n"
        f"{found['ratio']:.2f} times as fast. {found['same']} of {found['alone']['trees']} trees are the same, node "
        f"for node, grown alone and among all ({found['iterations']} iterations a tree, float32). "
        "Of all figures here this alone is one of time, and was taken while nothing else ran."
    )


# --- search -----------------------------------------------------------------------------------------------------------


def against_sampling(policy: Any, problems: list[Problem], trees: list[Tree]) -> dict[str, Any]:
    """For each budget of tokens: which problems a search and plain sampling have solved, and with how many plans."""
    by_id = {tree.problem_id: tree for tree in trees}
    found: dict[str, Any] = {"budgets": [one for one in BUDGETS if one <= max(tree.tokens for tree in trees)]}
    budget_of = {problem.id: min(by_id[problem.id].tokens, max(BUDGETS)) for problem in problems}
    replies_of = sampled_until(policy, problems, budget_of)
    for problem in problems:
        tree, most, replies = by_id[problem.id], budget_of[problem.id], replies_of[problem.id]
        spent = list(accumulate(reply.tokens_out for reply in replies))
        sampled = [
            (at, parse(reply.text))
            for at, reply in zip(spent, replies, strict=True)
            if at <= most and right(problem, reply.text)
        ]
        grown_plans = [(node.tokens, node.plan) for node in tree.root.below() if node.reward == 1]
        # A right rollout has solved the problem too; its plan is not kept.
        rollouts = [node.children[0].tokens for node in tree.root.below() if node.children and node.value > -1]
        found[problem.id] = {
            str(budget): {
                "mcts": any(at <= budget for at in (*(at for at, _ in grown_plans), *rollouts)),
                "mcts_plans": len({plan for at, plan in grown_plans if at <= budget}),
                "sampling": any(at <= budget for at, _ in sampled),
                "sampling_plans": len({one.plan for at, one in sampled if one and at <= budget}),
            }
            for budget in found["budgets"]
        }
    return found


def sampled_until(policy: Any, problems: list[Problem], budget_of: dict[str, int]) -> dict[str, list[Reply]]:
    """Whole replies to each problem, until its budget of tokens is spent; all problems in a batch, a few at a time."""
    replies_of: dict[str, list[Reply]] = {problem.id: [] for problem in problems}
    for again in range(max(budget_of.values())):
        short = [one for one in problems if sum(reply.tokens_out for reply in replies_of[one.id]) < budget_of[one.id]]
        if not short:
            break
        sampling = Sampling(
            temperature=PART.temperature, max_tokens=MAX_TOKENS + SOLUTION_TOKENS, n=A_ROUND, seed=again * A_ROUND
        )
        for one, more in zip(short, policy.generate([ask_plainly(one) for one in short], sampling), strict=True):
            replies_of[one.id] += more
    return replies_of


def search_text(found: dict[str, Any]) -> str:
    """A line a budget."""
    budgets = found.pop("budgets")
    rows = []
    for budget in map(str, budgets):
        each = [one[budget] for one in found.values()]
        solved = stats.paired([float(one["mcts"]) for one in each], [float(one["sampling"]) for one in each])
        more = stats.mean([float(one["mcts_plans"] - one["sampling_plans"]) for one in each], bounds=None)
        rows.append(
            (
                f"{int(budget):,}",
                f"{sum(one['mcts'] for one in each)} / {sum(one['sampling'] for one in each)}",
                solved.difference.points(),
                f"{fmean(one['mcts_plans'] for one in each):.2f} / {fmean(one['sampling_plans'] for one in each):.2f}",
                f"{more.value:+.2f} ({more.low:+.2f} to {more.high:+.2f})",
            )
        )
    found["budgets"] = budgets
    columns = (
        "tokens a problem",
        "solved, MCTS / sampling",
        "difference (95 %)",
        "right plans, MCTS / sampling",
        "difference (95 %)",
    )
    return (
        f"## Search beside sampling of equal budget\n\n{markdown(columns, rows)}\n\n{len(found) - 1} fresh problems of "
        "known templates. Rollouts count as tokens and, where right, as solved, but their plans are not kept."
    )


# --- what is learned --------------------------------------------------------------------------------------------------


def trained(
    work: Path, searched: list[Problem], tested: list[Problem], trees: list[Tree], size: dict[str, int]
) -> dict[str, Any]:
    """SFT on paths, then each preference from there; greedy answers to other problems."""
    ask = {problem.id: ask_plainly(problem) for problem in searched}
    rows = pairs.rows(trees, ask)
    steps = [pair for tree in trees for pair in pairs.step_pairs(tree)]
    found: dict[str, Any] = {
        "rows": len(rows),
        "step_pairs": len(steps),
        "preferences": size["preferences"],
        "arms": {},
    }
    for seed in SEEDS:
        start = work / f"SFT{seed}"
        for arm, alpha in ARMS.items():
            out = work / f"{arm}{seed}"
            loaded = imitated(start, rows, size["steps"], seed)
            if alpha is not None and not (out / "adapter_model.safetensors").is_file():
                part = CPL(**{**vars(PART), "alpha": alpha})
                chosen = Random(seed).sample(steps, min(size["preferences"] * PAIRS_A_STEP, len(steps)))
                batches = Batches(PAIRS_A_STEP // 2, 2)
                step_apo.train(loaded, chosen, ask, part, out, training_of(seed), epochs=1, batches=batches)
            elif alpha is not None:
                loaded = load_student(STUDENT, adapter=out)
            file = work / f"{arm}{seed}.jsonl"
            figures = modes.evaluate_problems(
                loaded.generate,
                tested,
                mode="m1",
                out=file,
                how=Asking(sampling=Sampling(max_tokens=MAX_TOKENS), model=out.name),
            )
            print(figures["line"], flush=True)
    for arm in ARMS:
        found["arms"][arm] = {
            "mean": shares([work / f"{arm}{seed}.jsonl" for seed in SEEDS], tested),
            "seeds": [fmean(shares([work / f"{arm}{seed}.jsonl"], tested)) for seed in SEEDS],
        }
    return found


def train_text(found: dict[str, Any]) -> str:
    """Each arm, and Step-APO beside each other one."""
    rows = [
        (arm, stats.of_problems(one["mean"]).percent(), ", ".join(f"{share:.3f}" for share in one["seeds"]))
        for arm, one in found["arms"].items()
    ]
    ours = found["arms"]["Step-APO"]["mean"]
    others = [arm for arm in found["arms"] if arm != "Step-APO"]
    compared = [stats.paired(ours, found["arms"][arm]["mean"]) for arm in others]
    corrected = stats.holm([one.p for one in compared])
    beside = [
        (f"Step-APO minus {arm}", one.difference.points(), one.won, one.lost, stats.p_text(p))
        for arm, one, p in zip(others, compared, corrected, strict=True)
    ]
    return (
        f"## What is learned\n\n{markdown(('arm', 'right (95 %)', 'each seed'), rows)}\n\n"
        f"{markdown(('difference', 'points (95 %)', 'problems won', 'lost', 'p (Holm)'), beside)}\n\n"
        f"{found['rows']} right paths and {found['step_pairs']} step pairs from one search; a preference takes "
        f"{found['preferences']} steps of {PAIRS_A_STEP} pairs, which each seed draws. {len(ours)} other problems of "
        "known templates, greedy. An arm is the mean of its three seeds on each problem; intervals are over problems, "
        "not seeds, of which three are too few."
    )


def write_down(found: dict[str, Any], text: str) -> None:
    """The files beside this one."""
    write(
        "cpl",
        command="python -m benchmarks.cpl --work DIR",
        about="CPL with SmolLM2-135M-Instruct on `practice`, on a CPU: many trees at once, search beside sampling, "
        "Step-APO beside step-DPO beside SFT.",
        found={
            "machine": machine("torch", "transformers", "trl", "peft"),
            **found,
        },
        text=text,
    )


if __name__ == "__main__":
    main()
