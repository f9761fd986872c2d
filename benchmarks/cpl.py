"""Measure CPL with SmolLM2-135M on a CPU: speed of many trees at once, search at equal tokens, training on its paths.

    python -m benchmarks.cpl --work DIR              # all three, about two hours; resumes where it was cut off
    python -m benchmarks.cpl --work DIR --only speed # or search, or train
    python -m benchmarks.cpl --work DIR --quick      # to try it; writes no page

The policy is a student after a short SFT on plans for `practice`'s known templates; it searches fresh problems of these
and is tested on others. Speed: 64 trees at once compared with one at a time, float32, and whether the trees are the
same. Search: MCTS compared with sampling whole replies until as many tokens are generated, per problem. Training: SFT
on the search's right paths, alone and followed by Step-APO or step-DPO on the same pairs, three seeds each.
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
SAMPLES_PER_ROUND = 4  # replies sampled per problem between checks of its budget
FIRST_ITERATIONS = 4  # the speed is measured on these
PAIRS_PER_STEP = 8
BUDGETS = (250, 500, 1_000, 2_000, 4_000)  # generated tokens per problem
SIZES = {"policy": 40, "alone": 8, "searched": 64, "steps": 30, "preferences": 8, "tested": 100}
QUICK = {"policy": 20, "alone": 1, "searched": 6, "steps": 2, "preferences": 2, "tested": 2}
ARMS = {"SFT": None, "Step-APO": 1.0, "step-DPO": 0.0}


def main() -> None:
    """Train the policy, then run the selected parts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=("speed", "search", "train"))
    parser.add_argument("--quick", action="store_true", help="few problems, few steps")
    arguments = parser.parse_args()
    work = arguments.work / "quick" if arguments.quick else arguments.work
    size, part = (QUICK, CPL(**{**vars(PART), "iterations": 3})) if arguments.quick else (SIZES, PART)
    seen = list(practice_problems("train", seed=0, limit=320, levels=(2,)))
    fresh = list(practice_problems("train", seed=1, limit=1_200, levels=(2,)))
    known = {problem.question for problem in seen}
    fresh = [problem for problem in {each.question: each for each in fresh}.values() if problem.question not in known]
    policy = sft_student(work / "policy", rows_of(seen, "plan+solution", work / "corpus"), size["policy"], seed=0)
    searched, tested = fresh[: size["searched"]], fresh[size["searched"] :][: size["tested"]]

    results: dict[str, Any] = {}
    if arguments.only in (None, "speed"):
        results["speed"] = cached(work / "speed.json", lambda: speed(policy, searched, part, size))
    if arguments.only in (None, "search", "train"):
        trees = grow(policy, searched, part, work / "trees")
    if arguments.only in (None, "search"):
        results["search"] = cached(work / "search.json", lambda: against_sampling(policy, searched, trees))
    if arguments.only in (None, "train"):
        results["train"] = cached(work / "train.json", lambda: train_arms(work, searched, tested, trees, size))
    texts = {"speed": speed_text, "search": search_text, "train": train_text}
    text = "\n\n".join(texts[name](result) for name, result in results.items())
    if arguments.quick or arguments.only:
        print(text)
    else:
        write_page(results, text)


def cached(file: Path, measure: Any) -> Any:
    """Return the stored result, measured first where there is none."""
    if not file.is_file():
        write_whole(file, json.dumps(measure(), indent=1) + "\n")
    return json.loads(file.read_text(encoding="utf-8"))


def quiet(line: str, last: bool = True) -> None:
    """Print only last lines."""
    if last:
        print(line, flush=True)


def right(problem: Problem, text: str) -> bool:
    """Grade an answer as evaluation does."""
    return grade_answer(problem, text).verdict.same is True


def training_of(seed: int) -> Training:
    return Training(seed=seed, max_length=STUDENT.max_length, reporter=Reporter(show=quiet))


def sft_student(out: Path, rows: list[dict], steps: int, seed: int) -> Any:
    """Train a student by SFT on these rows, or load it where that is done."""
    if (out / "adapter_model.safetensors").is_file():
        return load_student(STUDENT, adapter=out, training=True, seed=seed)
    torch.manual_seed(seed)
    loaded = load_student(STUDENT, training=True, seed=seed)
    part = SFT(max_steps=steps, batch_size=8, accumulate=1, learning_rate=1e-3, save_steps=10)
    sft.train(loaded, rows, part, out, training_of(seed))
    return loaded


def grow(policy: Any, problems: list[Problem], part: CPL, out: Path, at_once: int = search.AT_ONCE) -> list[Tree]:
    """Grow a tree per problem."""
    settings = {"ask": ask_plainly, "solution_tokens": SOLUTION_TOKENS, "at_once": at_once, "show": quiet}
    search.search(problems, policy.generate, right, part, out, **settings)
    return list(search.trees_of(out))


# --- speed ------------------------------------------------------------------------------------------------------------


def speed(policy: Any, problems: list[Problem], part: CPL, size: dict[str, int]) -> dict[str, Any]:
    """Measure tokens per second of all trees at once and of some one at a time, while hardly any is finished."""
    from tempfile import TemporaryDirectory

    part = CPL(**{**vars(part), "iterations": FIRST_ITERATIONS})
    alone = Random(0).sample(problems, size["alone"])
    sides = {"together": (problems, search.AT_ONCE), "alone": (alone, 1)}
    results: dict[str, Any] = {}
    shapes: dict[str, dict[str, Any]] = {}
    policy.generate([ask_plainly(problems[0])], Sampling(max_tokens=1))
    for side, (searched, at_once) in sides.items():
        with TemporaryDirectory() as folder:
            began = time.perf_counter()
            trees = grow(policy, searched, part, Path(folder), at_once)
            seconds = time.perf_counter() - began
        tokens = sum(tree.tokens for tree in trees)
        shapes[side] = {tree.problem_id: shape(tree) for tree in trees}
        results[side] = {"trees": len(trees), "tokens": tokens, "seconds": seconds, "tokens_a_second": tokens / seconds}
    results["same"] = sum(shapes["alone"][id] == shapes["together"][id] for id in shapes["alone"])
    results["ratio"] = results["together"]["tokens_a_second"] / results["alone"]["tokens_a_second"]
    results["iterations"] = part.iterations
    return results


def shape(tree: Tree) -> list[dict[str, Any]]:
    """List a tree's nodes without their priors, which vary by rounding; a real difference shows in the visits."""
    return [{name: value for name, value in node.items() if name != "prior"} for node in to_row(tree)["nodes"]]


def speed_text(results: dict[str, Any]) -> str:
    """Format the speeds, and whether the trees are the same."""
    rows = [
        (name, results[side]["trees"], f"{results[side]['tokens']:,}", f"{results[side]['tokens_a_second']:.1f}")
        for side, name in (("together", "all at once"), ("alone", "one at a time"))
    ]
    return (
        f"## Many trees at once\n\n{markdown(('trees', 'number', 'tokens', 'tokens per second'), rows)}\n\n"
        f"{results['ratio']:.2f} times as fast. {results['same']} of {results['alone']['trees']} trees grown both ways "
        f"are identical, node for node ({results['iterations']} iterations per tree, float32). "
        "Only this section measures time; nothing else ran meanwhile."
    )


# --- search -----------------------------------------------------------------------------------------------------------


def against_sampling(policy: Any, problems: list[Problem], trees: list[Tree]) -> dict[str, Any]:
    """Compare search with plain sampling at each token budget: problems solved, and right plans found."""
    by_id = {tree.problem_id: tree for tree in trees}
    largest = max(tree.tokens for tree in trees)
    results: dict[str, Any] = {"budgets": [budget for budget in BUDGETS if budget <= largest]}
    budget_of = {problem.id: min(by_id[problem.id].tokens, max(BUDGETS)) for problem in problems}
    replies_of = sample_until(policy, problems, budget_of)
    for problem in problems:
        tree, maximum, replies = by_id[problem.id], budget_of[problem.id], replies_of[problem.id]
        spent = list(accumulate(reply.tokens_out for reply in replies))
        sampled = [
            (at, parse(reply.text))
            for at, reply in zip(spent, replies, strict=True)
            if at <= maximum and right(problem, reply.text)
        ]
        grown_plans = [(node.tokens, node.plan) for node in tree.root.below() if node.reward == 1]
        # A right rollout has solved the problem too; its plan is not kept.
        rollouts = [node.children[0].tokens for node in tree.root.below() if node.children and node.value > -1]
        results[problem.id] = {
            str(budget): {
                "mcts": any(at <= budget for at in (*(at for at, _ in grown_plans), *rollouts)),
                "mcts_plans": len({plan for at, plan in grown_plans if at <= budget}),
                "sampling": any(at <= budget for at, _ in sampled),
                "sampling_plans": len({parsed.plan for at, parsed in sampled if parsed and at <= budget}),
            }
            for budget in results["budgets"]
        }
    return results


def sample_until(policy: Any, problems: list[Problem], budget_of: dict[str, int]) -> dict[str, list[Reply]]:
    """Sample whole replies to each problem until its token budget is spent, a few per problem and round."""
    replies_of: dict[str, list[Reply]] = {problem.id: [] for problem in problems}
    spent = dict.fromkeys(replies_of, 0)
    limits = {"max_tokens": MAX_TOKENS + SOLUTION_TOKENS, "n": SAMPLES_PER_ROUND}
    for number in range(max(budget_of.values())):
        unspent = [problem for problem in problems if spent[problem.id] < budget_of[problem.id]]
        if not unspent:
            break
        sampling = Sampling(temperature=PART.temperature, seed=number * SAMPLES_PER_ROUND, **limits)
        replies = policy.generate([ask_plainly(problem) for problem in unspent], sampling)
        for problem, more in zip(unspent, replies, strict=True):
            replies_of[problem.id] += more
            spent[problem.id] += sum(reply.tokens_out for reply in more)
    return replies_of


def search_text(results: dict[str, Any]) -> str:
    """Format a row per budget."""
    rows = []
    for budget in map(str, results["budgets"]):
        each = [result[budget] for name, result in results.items() if name != "budgets"]
        mcts, sampling = ([float(problem[way]) for problem in each] for way in ("mcts", "sampling"))
        plans, sampled = ([problem[way] for problem in each] for way in ("mcts_plans", "sampling_plans"))
        solved = stats.paired(mcts, sampling)
        more = stats.mean([float(ours - theirs) for ours, theirs in zip(plans, sampled, strict=True)], bounds=None)
        rows.append(
            (
                f"{int(budget):,}",
                f"{sum(mcts):.0f} / {sum(sampling):.0f}",
                solved.difference.points(),
                f"{fmean(plans):.2f} / {fmean(sampled):.2f}",
                f"{more.value:+.2f} ({more.low:+.2f} to {more.high:+.2f})",
            )
        )
    columns = (
        "tokens per problem",
        "solved, MCTS / sampling",
        "difference (95 %)",
        "right plans, MCTS / sampling",
        "difference (95 %)",
    )
    return (
        f"## Search compared with sampling at equal budget\n\n{markdown(columns, rows)}\n\n{len(results) - 1} fresh "
        "problems of known templates. Rollouts count as tokens and, where right, as solved; their plans are not kept."
    )


# --- training ---------------------------------------------------------------------------------------------------------


def train_arms(
    work: Path, searched: list[Problem], tested: list[Problem], trees: list[Tree], size: dict[str, int]
) -> dict[str, Any]:
    """Train SFT on paths, then each preference from there; answer other problems greedily."""
    ask = {problem.id: ask_plainly(problem) for problem in searched}
    rows = pairs.rows(trees, ask)
    steps = [pair for tree in trees for pair in pairs.step_pairs(tree)]
    results: dict[str, Any] = {
        "rows": len(rows),
        "step_pairs": len(steps),
        "preferences": size["preferences"],
        "arms": {},
    }
    for seed in SEEDS:
        start = work / f"SFT{seed}"
        for arm, alpha in ARMS.items():
            out = work / f"{arm}{seed}"
            loaded = sft_student(start, rows, size["steps"], seed)
            if alpha is not None and not (out / "adapter_model.safetensors").is_file():
                part = CPL(**{**vars(PART), "alpha": alpha})
                chosen = Random(seed).sample(steps, min(size["preferences"] * PAIRS_PER_STEP, len(steps)))
                batches = Batches(PAIRS_PER_STEP // 2, 2)
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
        results["arms"][arm] = {
            "mean": shares([work / f"{arm}{seed}.jsonl" for seed in SEEDS], tested),
            "seeds": [fmean(shares([work / f"{arm}{seed}.jsonl"], tested)) for seed in SEEDS],
        }
    return results


def train_text(results: dict[str, Any]) -> str:
    """Format each arm, and Step-APO compared with each of the others."""
    arms = results["arms"]
    rows = [
        (arm, stats.of_problems(figures["mean"]).percent(), ", ".join(f"{share:.3f}" for share in figures["seeds"]))
        for arm, figures in arms.items()
    ]
    ours = arms["Step-APO"]["mean"]
    others = [arm for arm in arms if arm != "Step-APO"]
    compared = [stats.paired(ours, arms[arm]["mean"]) for arm in others]
    corrected = stats.holm([paired.p for paired in compared])
    differences = [
        (f"Step-APO minus {arm}", paired.difference.points(), paired.won, paired.lost, stats.p_text(p))
        for arm, paired, p in zip(others, compared, corrected, strict=True)
    ]
    return (
        f"## Training\n\n{markdown(('arm', 'right (95 %)', 'each seed'), rows)}\n\n"
        f"{markdown(('difference', 'points (95 %)', 'problems won', 'lost', 'p (Holm)'), differences)}\n\n"
        f"{results['rows']} right paths and {results['step_pairs']} step pairs from one search; preference training "
        f"takes {results['preferences']} steps of {PAIRS_PER_STEP} pairs, drawn per seed. Tested greedily on "
        f"{len(ours)} other problems of known templates. An arm is the mean of its three seeds on each problem; "
        "intervals are over problems, because three seeds are too few."
    )


def write_page(results: dict[str, Any], text: str) -> None:
    """Write the page and its JSON."""
    write(
        "cpl",
        command="python -m benchmarks.cpl --work DIR",
        about="CPL with SmolLM2-135M-Instruct on `practice`, on a CPU: many trees at once, search compared "
        "with sampling, Step-APO compared with step-DPO and SFT.",
        found={"machine": machine("torch", "transformers", "trl", "peft"), **results},
        text=text,
    )


if __name__ == "__main__":
    main()
