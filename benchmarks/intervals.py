"""Do 95 % intervals hold the truth 95 % of the time, and are false alarms of comparisons as rare as they say?

    python benchmarks/intervals.py      # writes benchmarks/intervals.json and intervals.md; about 15 minutes

Models are simulated whose true accuracy is known. Beside the bootstrap of evaluate/stats.py stands the usual one, which
resamples whole problems and takes percentiles.
"""

import math
import time
from functools import cache

import numpy
from report import machine, markdown, write

from plantune_lite.evaluate import stats

SEED, SETS, FAMILY = 0, 2_000, 6
SIZES, SHARES = (60, 200, 300), (0.05, 0.3, 0.5, 0.9)
SAMPLES = 4  # a problem
LEAST, MOST = 0.93, 0.97


def main() -> None:
    """Simulate, count, write down."""
    started = time.monotonic()
    rng = numpy.random.default_rng(SEED)
    cells = [(problems, share) for problems in SIZES for share in SHARES]
    coverage = [
        {
            "problems": problems,
            "share": share,
            "wilson": exact_coverage(problems, share, stats.wilson),
            "bootstrap": sampled_coverage(rng, problems, share),
            "paired_0": paired_coverage(rng, problems, share, 0.0),
            "paired_5": paired_coverage(rng, problems, share, 0.05),
        }
        for problems, share in cells
    ]
    alarms = [{"problems": problems, **false_alarms(rng, problems)} for problems in SIZES]
    found = {
        "machine": machine("numpy"),
        "seed": SEED,
        "sets": SETS,
        "seconds": round(time.monotonic() - started),
        "one_interval_seconds": one_interval_seconds(rng),
        "coverage": coverage,
        "false_alarms": alarms,
    }
    about = (
        "Do 95 % intervals hold the truth 95 % of the time, and are false alarms of comparisons as rare as they say?"
    )
    write("intervals", command="python benchmarks/intervals.py", about=about, found=found, text=in_words(found))


# --- one model --------------------------------------------------------------------------------------------------------


def exact_coverage(problems: int, share: float, interval) -> float:
    """How often the interval of a share holds the true one: summed over all counts, so without any chance."""
    total = 0.0
    for right in range(problems + 1):
        found = interval(right, problems)
        if found.low <= share <= found.high:
            total += math.comb(problems, right) * share**right * (1 - share) ** (problems - right)
    return round(total, 4)


def sampled_coverage(rng, problems: int, share: float) -> dict[str, float]:
    """Problems of unlike difficulty (Beta, most easy or hard) answered four times each; the mean share is estimated."""
    ours = usual = 0
    for number in range(SETS):
        difficulty = rng.beta(share, 1 - share, size=problems)
        values = rng.binomial(SAMPLES, difficulty) / SAMPLES
        found = stats.mean([float(value) for value in values], seed=number)
        ours += found.low <= share <= found.high
        usual += usual_holds(rng, values, share)
    return {"ours": ours / SETS, "usual": usual / SETS}


def usual_holds(rng, values, truth: float, draws: int = 1_000) -> bool:
    """Whether the percentile interval of whole problems drawn with replacement holds the truth."""
    kinds, counts = numpy.unique(values, return_counts=True)
    means = rng.multinomial(len(values), counts / len(values), size=draws) @ kinds / len(values)
    low, high = numpy.quantile(means, (0.025, 0.975))
    return bool(low - 1e-9 <= truth <= high + 1e-9)


# --- two models -------------------------------------------------------------------------------------------------------


@cache
def difference(won: int, lost: int, problems: int) -> stats.Paired:
    """Ours, from the counts that decide it."""
    ours = [1] * won + [0] * (problems - won)
    theirs = [0] * won + [1] * lost + [0] * (problems - won - lost)
    return stats.paired(ours, theirs)


def discordant(share: float, gain: float) -> list[float]:
    """Chances that one model alone is right, that the other alone is, and of the rest: mostly they agree."""
    lost = 0.3 * min(share, 1 - share)
    return [lost + gain, lost, 1 - 2 * lost - gain]


def paired_coverage(rng, problems: int, share: float, gain: float) -> dict[str, float]:
    """Two models right or wrong on the same problems, one better by `gain`."""
    ours = usual = alarms = 0
    for won, lost, _ in rng.multinomial(problems, discordant(share, gain), size=SETS).tolist():
        found = difference(won, lost, problems)
        ours += found.difference.low <= gain <= found.difference.high
        alarms += found.p < 0.05
        values = numpy.repeat([1.0, -1.0, 0.0], [won, lost, problems - won - lost])
        usual += usual_holds(rng, values, gain)
    return {"ours": ours / SETS, "usual": usual / SETS, "p_below_5_percent": alarms / SETS}


def false_alarms(rng, problems: int) -> dict[str, float]:
    """Six equal models beside a seventh: how often one of the six p values is below 0.05, as it is and corrected."""
    plain = corrected = flips = 0
    for number in range(SETS):
        lots = rng.multinomial(problems, discordant(0.3, 0.0), size=FAMILY).tolist()
        p_values = [stats.mcnemar(won, lost) for won, lost, _ in lots]
        plain += min(p_values) < 0.05
        corrected += min(stats.holm(p_values)) < 0.05
        if number < SETS // 4:  # slower
            difficulty = rng.beta(0.3, 0.7, size=problems)
            ours, theirs = (rng.binomial(SAMPLES, difficulty) / SAMPLES for _ in range(2))
            flips += stats.sign_flips((ours - theirs).tolist(), seed=number) < 0.05
    return {"family": plain / SETS, "family_holm": corrected / SETS, "sign_flips": flips / (SETS // 4)}


def one_interval_seconds(rng) -> dict[str, float]:
    """What the figures of gsm8k's 1,319 test problems with four samples each take."""
    ours, theirs = ((rng.binomial(SAMPLES, 0.4, size=1_319) / SAMPLES).tolist() for _ in range(2))
    began = time.perf_counter()
    stats.mean(ours)
    middle = time.perf_counter()
    stats.paired(ours, theirs)
    return {"mean": round(middle - began, 3), "paired": round(time.perf_counter() - middle, 3)}


# --- in words ---------------------------------------------------------------------------------------------------------


def in_words(found: dict) -> str:
    """Tables; what is outside 93 to 97 % is marked."""
    rows = []
    for one in found["coverage"]:
        cells = [
            one["wilson"],
            one["bootstrap"]["ours"],
            one["bootstrap"]["usual"],
            one["paired_0"]["ours"],
            one["paired_0"]["usual"],
            one["paired_5"]["ours"],
            one["paired_5"]["usual"],
        ]
        rows.append((one["problems"], f"{one['share']:.0%}", *map(marked, cells)))
    columns = (
        "problems",
        "true share",
        "Wilson (exact)",
        f"bootstrap, {SAMPLES} samples",
        "usual bootstrap",
        "difference, equal models",
        "usual",
        "difference, +5 points",
        "usual",
    )
    alarms = [
        (
            one["problems"],
            *(f"{one[name]:.1%}" for name in ("family", "family_holm", "sign_flips")),
        )
        for one in found["false_alarms"]
    ]
    equal = [
        (one["problems"], f"{one['share']:.0%}", f"{one['paired_0']['p_below_5_percent']:.1%}")
        for one in found["coverage"]
    ]
    shown = {
        "Wilson": [one["wilson"] for one in found["coverage"]],
        "our bootstrap": [one["bootstrap"]["ours"] for one in found["coverage"]],
        "our paired difference": [one[name]["ours"] for one in found["coverage"] for name in ("paired_0", "paired_5")],
    }
    outside = ", ".join(
        f"{sum(value < LEAST for value in values)} too narrow and {sum(value > MOST for value in values)} too wide of "
        f"{len(values)} for {name}"
        for name, values in shown.items()
    )
    return "\n\n".join(
        [
            "## How often a 95 % interval holds the truth",
            markdown(columns, rows),
            f"Each simulated figure is of {SETS:,} sets, so it is known to about a point; Wilson's are exact. Bold: "
            f"outside 93 to 97 %: {outside}.",
            "## False alarms of exact McNemar between equal models (5 % are allowed)",
            markdown(("problems", "true share", "p below 0.05"), equal),
            f"## False alarms in a table of {FAMILY} comparisons, and of sign flips on {SAMPLES} samples a problem",
            markdown(("problems", "any p below 0.05", "any after Holm", "sign flips, one comparison"), alarms),
            f"For 1,319 problems with {SAMPLES} samples an interval takes {found['one_interval_seconds']['mean']} s, a "
            f"paired comparison {found['one_interval_seconds']['paired']} s. All of this took {found['seconds']} s.",
        ]
    )


def marked(coverage: float) -> str:
    """A percentage, bold where it is outside what was hoped for."""
    text = f"{coverage:.1%}"
    return text if LEAST <= coverage <= MOST else f"**{text}**"


if __name__ == "__main__":
    main()
