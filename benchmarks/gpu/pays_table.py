"""Write the page of benchmarks/gpu/pays.py: each arm with its interval, the arms compared, the use of plans."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.gpu import card
from benchmarks.report import markdown

SEEDS = (0, 1, 2)
UNTUNED = ("zero_shot_cot", "plan_then_solve", "few_shot")
FILTERS = {"unfiltered": "none", "one_stage": "plan", "two_stage": "both"}  # of M1's own plans on train problems
REWARDS = {"answer": "R_ans", "answer+plan": "R_ans + R_plan", "guided": "guided (PTA-GRPO)"}


@dataclass(frozen=True)
class Arm:
    """Describe the rows of an arm and its evaluation mode."""

    rows: dict[str, str]
    mode: str


ARMS = {
    "baseline": Arm({"target": "solution", "solutions": "dataset"}, "plain"),
    "m1": Arm({"target": "plan+solution", "solutions": "teacher"}, "m1"),
    "m2": Arm({"target": "plan", "solutions": "teacher"}, "m2"),
    "mixed": Arm({}, "m1"),  # half of M1's rows
    **{arm: Arm({}, "m1") for arm in FILTERS},  # M1's first seed, trained on its own replies
}


def files_of(work: Path) -> dict[str, list[Path]]:
    """List the answer files of each arm that exist."""
    by_arm = {f"untuned, {mode}": [work / "untuned" / f"{mode}.jsonl"] for mode in UNTUNED}
    by_arm |= {arm: [work / f"{arm}{seed}" / "test.jsonl" for seed in SEEDS] for arm in ARMS}
    by_arm |= {f"GRPO, {title}": [work / f"grpo {reward}" / "test.jsonl"] for reward, title in REWARDS.items()}
    return {arm: [file for file in files if file.is_file()] for arm, files in by_arm.items()}


def write_down(
    work: Path, test: Sequence[Any], done: Mapping[str, Any], settings: Mapping[str, Any], *, tiny: bool
) -> None:
    """Write each arm over its seeds, with the problem as the unit; leave out incomplete files."""
    from benchmarks.report import shares
    from plantune_lite.evaluate import stats

    files = {arm: [file for file in answers if _whole(file, len(test))] for arm, answers in files_of(work).items()}
    arms = {arm: shares(answers, list(test)) for arm, answers in files.items() if answers}
    rows = [
        (
            arm,
            stats.of_problems(arms[arm]).percent() if arm in arms else "not measured",
            ", ".join(f"{100 * fmean(shares([file], list(test))):.1f}" for file in answers),
        )
        for arm, answers in files.items()
    ]
    text = markdown(("arm", "right (95 %)", "each seed, %"), rows)
    pairs = _pairs(arms)
    # GRPO is compared with the model it started from, one seed with one seed.
    start = {"m1, first seed": shares(files["m1"][:1], list(test))} if files["m1"] else {}
    compared = [stats.paired((arms | start)[left], (arms | start)[right]) for left, right in pairs]
    corrected = stats.holm([pair.p for pair in compared]) if compared else []
    if compared:
        lines = [
            (f"{left} minus {right}", pair.difference.points(), pair.won, pair.lost, stats.p_text(p))
            for (left, right), pair, p in zip(pairs, compared, corrected, strict=True)
        ]
        text += "\n\n" + markdown(("difference", "points (95 %)", "problems won", "lost", "p (Holm)"), lines)
    for name in ("use m1 0", "use m2 0"):
        if name in done:
            text += f"\n\nPlans of {name.split()[1]}, seed 0: {done[name]['line']}."
            if use := done[name].get("own_minus", {}).get("swapped"):
                points = stats.Estimate(**use["difference"]).points()
                text += f" Own minus swapped {points}, p {stats.p_text(use['p'])}."
    control = json.loads((work / "rows" / "control.json").read_text(encoding="utf-8"))
    filters = work / "rows" / "filters.json"
    filtered = json.loads(filters.read_text(encoding="utf-8")) if filters.is_file() else None
    card.write_down(
        "pays",
        work,
        tiny=tiny,
        about="SmolLM2-135M-Instruct on gsm8k: does learning to plan pay? Plans from the data set's own sub-questions.",
        command="PLANTUNE_DATA=FOLDER python -m benchmarks.gpu.pays --work DIR",
        found={
            "arms": {arm: vars(stats.of_problems(values)) for arm, values in arms.items()},
            "compared": {
                f"{left} minus {right}": {**vars(pair), "difference": vars(pair.difference), "p_holm": p}
                for (left, right), pair, p in zip(pairs, compared, corrected, strict=True)
            },
            "jobs": dict(done),
            "control": control,
            "filters": filtered,
            "settings": dict(settings),
        },
        text=text + "\n\n" + _notes(len(test), control, filtered, settings),
    )


def _whole(file: Path, problems: int) -> bool:
    return len(file.read_text(encoding="utf-8").splitlines()) >= problems


def _pairs(arms: Mapping[str, Sequence[float]]) -> list[tuple[str, str]]:
    untuned = [arm for arm in arms if arm.startswith("untuned")]
    pairs = [("m1", "baseline"), ("m2", "baseline"), ("mixed", "m1")]
    if untuned:
        best = max(untuned, key=lambda arm: fmean(arms[arm]))
        pairs += [(arm, best) for arm in ("baseline", "m1", "m2")]
    pairs += [("one_stage", "unfiltered"), ("two_stage", "unfiltered"), ("two_stage", "one_stage")]
    first, *others = (f"GRPO, {title}" for title in REWARDS.values())
    known = set(arms) | ({"m1, first seed"} if "m1" in arms else set())
    pairs += [(arm, "m1, first seed") for arm in ("two_stage", first, *others)] + [(arm, first) for arm in others]
    return [(left, right) for left, right in pairs if left in known and right in known]


def _notes(
    tested: int, control: Mapping[str, Any], filtered: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> str:
    differing = control["other_than_the_baseline"]
    control_text = "word for word the baseline" + (f" but in {differing} rows" if differing else "")
    dropped = ", ".join(f"{number} {reason}" for reason, number in control["rejected"].items()) or "none"
    return (
        f"{tested} test problems, greedy, at most {settings['tokens']} tokens. {control['rows']} rows (left out: "
        f"{dropped}), {settings['steps']} steps of equally many learned tokens ({settings['m1_rows']} rows of M1) "
        f"in each arm, LoRA rank 32. Rates, of {', '.join(settings['rates'])}, are those that solve most of "
        f"{settings['kept_apart']} held-out train problems. GRPO starts from M1's first seed: "
        f"{settings['grpo_steps']} steps of {settings['prompts']} prompts in groups of {settings['group']}, at most "
        f"{settings['completion']} tokens, rate {settings['grpo_rate']}, the same for all rewards, one seed. The "
        "untuned model is compared with its best prompt on test, which favours it. An arm's share is the mean of its "
        "seeds on each problem; intervals and p values are over problems. The control (the teacher's working without "
        f"its plan) is {control_text}, so it is no arm. 'mixed': half the rows come from practice."
        + _of_filters(filtered, settings)
    )


def _of_filters(filtered: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> str:
    if filtered is None:
        return ""
    passed = ", ".join(f"{name} {number}" for name, number in filtered["passed"].items())
    return (
        f" The filters: M1's first seed answers {settings['own_problems']} train problems {settings['own_tries']} times"
        f" ({filtered['right']} of {filtered['answers']} right, {filtered['with_a_plan']} with a plan) and trains for "
        f"{settings['filter_steps']} steps on what passes ({passed}), {filtered['rows_each']} rows in each arm. No "
        "teacher scores plans here, so a plan's score is its similarity to the data set's own, as in R_plan; the "
        f"better half passes (at least {filtered['bar']} of 100). Two stages: of these, those with the right answer."
    )
