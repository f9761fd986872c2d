"""The page of benchmarks/gpu/pays.py: each arm with its interval, the arms beside each other, what plans do."""

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
    """What an arm learns, and how it is asked then."""

    rows: dict[str, str]
    mode: str


ARMS = {
    "baseline": Arm({"target": "solution", "solutions": "dataset"}, "plain"),
    "m1": Arm({"target": "plan+solution", "solutions": "teacher"}, "m1"),
    "m2": Arm({"target": "plan", "solutions": "teacher"}, "m2"),
    "mixed": Arm({}, "m1"),  # made of M1's
    **{arm: Arm({}, "m1") for arm in FILTERS},  # M1's first seed, taught what it said itself
}


def files_of(work: Path) -> dict[str, list[Path]]:
    """The answers of each arm, those that are there."""
    found = {f"untuned, {mode}": [work / "untuned" / f"{mode}.jsonl"] for mode in UNTUNED}
    found |= {arm: [work / f"{arm}{seed}" / "test.jsonl" for seed in SEEDS] for arm in ARMS}
    found |= {f"GRPO, {title}": [work / f"grpo {reward}" / "test.jsonl"] for reward, title in REWARDS.items()}
    return {arm: [file for file in files if file.is_file()] for arm, files in found.items()}


def write_down(
    work: Path, test: Sequence[Any], done: Mapping[str, Any], settings: Mapping[str, Any], *, tiny: bool
) -> None:
    """Each arm over its seeds, the problem as the unit; what is not whole is not there."""
    from benchmarks.report import shares
    from plantune_lite.evaluate import stats

    files = {arm: [file for file in these if _whole(file, len(test))] for arm, these in files_of(work).items()}
    found = {arm: shares(these, list(test)) for arm, these in files.items() if these}
    rows = [
        (
            arm,
            stats.of_problems(found[arm]).percent() if arm in found else "not measured",
            ", ".join(f"{100 * fmean(shares([file], list(test))):.1f}" for file in these),
        )
        for arm, these in files.items()
    ]
    text = markdown(("arm", "right (95 %)", "each seed, %"), rows)
    pairs = _pairs(found)
    # A reinforcement is compared with what it began from, one seed with one seed.
    began = {"m1, first seed": shares(files["m1"][:1], list(test))} if files["m1"] else {}
    compared = [stats.paired((found | began)[one], (found | began)[other]) for one, other in pairs]
    corrected = stats.holm([one.p for one in compared]) if compared else []
    if compared:
        lines = [
            (f"{one} minus {other}", pair.difference.points(), pair.won, pair.lost, stats.p_text(p))
            for (one, other), pair, p in zip(pairs, compared, corrected, strict=True)
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
            "arms": {arm: vars(stats.of_problems(values)) for arm, values in found.items()},
            "compared": {
                f"{one} minus {other}": {**vars(pair), "difference": vars(pair.difference), "p_holm": p}
                for (one, other), pair, p in zip(pairs, compared, corrected, strict=True)
            },
            "jobs": dict(done),
            "control": control,
            "filters": filtered,
            "settings": dict(settings),
        },
        text=text + "\n\n" + _told(len(test), control, filtered, settings),
    )


def _whole(file: Path, problems: int) -> bool:
    return len(file.read_text(encoding="utf-8").splitlines()) >= problems


def _pairs(found: Mapping[str, Sequence[float]]) -> list[tuple[str, str]]:
    untuned = [arm for arm in found if arm.startswith("untuned")]
    pairs = [("m1", "baseline"), ("m2", "baseline"), ("mixed", "m1")]
    if untuned:
        best = max(untuned, key=lambda arm: fmean(found[arm]))
        pairs += [(arm, best) for arm in ("baseline", "m1", "m2")]
    pairs += [("one_stage", "unfiltered"), ("two_stage", "unfiltered"), ("two_stage", "one_stage")]
    first, *others = (f"GRPO, {title}" for title in REWARDS.values())
    known = set(found) | ({"m1, first seed"} if "m1" in found else set())
    pairs += [(arm, "m1, first seed") for arm in ("two_stage", first, *others)] + [(other, first) for other in others]
    return [(one, other) for one, other in pairs if one in known and other in known]


def _told(
    tested: int, control: Mapping[str, Any], filtered: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> str:
    other = control["other_than_the_baseline"]
    said = "word for word the baseline" + (f" but in {other} rows" if other else "")
    dropped = ", ".join(f"{number} {reason}" for reason, number in control["rejected"].items()) or "none"
    return (
        f"{tested} test problems, greedy, at most {settings['tokens']} tokens. {control['rows']} rows (left out: "
        f"{dropped}), {settings['steps']} steps of as many learned tokens for each arm ({settings['m1_rows']} rows of "
        f"M1), LoRA rank 32. Rates, of {', '.join(settings['rates'])}, are those with which most of "
        f"{settings['kept_apart']} train problems kept apart are solved. GRPO goes on from M1's first seed: "
        f"{settings['grpo_steps']} steps of {settings['prompts']} prompts in groups of {settings['group']}, at most "
        f"{settings['completion']} tokens, rate {settings['grpo_rate']}, the same for all rewards, one seed. The "
        "untuned model is compared at the prompt that is best on test, which favours it. An arm's share is the mean of "
        "its seeds on each problem; intervals and p values are over problems. The control (the teacher's working "
        f"without its plan) is {said}, and so no arm. 'mixed': half the rows are practice's."
        + _of_filters(filtered, settings)
    )


def _of_filters(filtered: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> str:
    if filtered is None:
        return ""
    passed = ", ".join(f"{name} {number}" for name, number in filtered["passed"].items())
    return (
        f" The filters: M1's first seed answers {settings['own_problems']} train problems {settings['own_tries']} times"
        f" ({filtered['right']} of {filtered['answers']} right, {filtered['with_a_plan']} with a plan) and goes on for "
        f"{settings['filter_steps']} steps from what passes ({passed}), {filtered['rows_each']} rows in each arm. No "
        "teacher is at hand that scores plans, so a plan's score is its likeness to the data set's own, as in R_plan; "
        f"the better half passes (at least {filtered['bar']} of 100). Two stages: of these, what has the right answer."
    )
