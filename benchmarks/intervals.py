"""Measure how often 95 % intervals contain the true value, and how often comparisons give false positives.

    python benchmarks/intervals.py      # writes benchmarks/intervals.json and intervals.md; about 15 minutes

Simulates models whose true accuracy is known. The bootstrap of evaluate/stats.py is compared with the usual one, which
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
SAMPLES = 4  # per problem
LOWEST, HIGHEST = 0.93, 0.97


def main() -> None:
    """Simulate, count and write the page."""
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
    figures = {
        "machine": machine("numpy"),
        "seed": SEED,
        "sets": SETS,
        "seconds": round(time.monotonic() - started),
        "one_interval_seconds": one_interval_seconds(rng),
        "coverage": coverage,
        "false_alarms": alarms,
    }
    about = "How often 95 % intervals contain the true value, and how often comparisons give false positives."
    write("intervals", command="python benchmarks/intervals.py", about=about, found=figures, text=page_text(figures))


# --- one model --------------------------------------------------------------------------------------------------------


def exact_coverage(problems: int, share: float, interval) -> float:
    """Return how often the interval of a share contains the true one: exact, because summed over all counts."""
    total = 0.0
    for right in range(problems + 1):
        estimate = interval(right, problems)
        if estimate.low <= share <= estimate.high:
            total += math.comb(problems, right) * share**right * (1 - share) ** (problems - right)
    return round(total, 4)


def sampled_coverage(rng, problems: int, share: float) -> dict[str, float]:
    """Estimate the coverage of the mean over problems of unequal difficulty (Beta), each answered four times."""
    ours = usual = 0
    for number in range(SETS):
        difficulty = rng.beta(share, 1 - share, size=problems)
        values = rng.binomial(SAMPLES, difficulty) / SAMPLES
        estimate = stats.mean([float(value) for value in values], seed=number)
        ours += estimate.low <= share <= estimate.high
        usual += usual_holds(rng, values, share)
    return {"ours": ours / SETS, "usual": usual / SETS}


def usual_holds(rng, values, truth: float, draws: int = 1_000) -> bool:
    """Return whether the percentile interval from resampling whole problems contains the truth."""
    kinds, counts = numpy.unique(values, return_counts=True)
    means = rng.multinomial(len(values), counts / len(values), size=draws) @ kinds / len(values)
    low, high = numpy.quantile(means, (0.025, 0.975))
    return bool(low - 1e-9 <= truth <= high + 1e-9)


# --- two models -------------------------------------------------------------------------------------------------------


@cache
def difference(won: int, lost: int, problems: int) -> stats.Paired:
    """Compute our paired difference from the counts that determine it."""
    ours = [1] * won + [0] * (problems - won)
    theirs = [0] * won + [1] * lost + [0] * (problems - won - lost)
    return stats.paired(ours, theirs)


def discordant(share: float, gain: float) -> list[float]:
    """Return the chances that only the first model is right, that only the second is, and that they agree."""
    lost = 0.3 * min(share, 1 - share)
    return [lost + gain, lost, 1 - 2 * lost - gain]


def paired_coverage(rng, problems: int, share: float, gain: float) -> dict[str, float]:
    """Simulate two models on the same problems, the first better by `gain`."""
    ours = usual = alarms = 0
    for won, lost, _ in rng.multinomial(problems, discordant(share, gain), size=SETS).tolist():
        pair = difference(won, lost, problems)
        ours += pair.difference.low <= gain <= pair.difference.high
        alarms += pair.p < 0.05
        values = numpy.repeat([1.0, -1.0, 0.0], [won, lost, problems - won - lost])
        usual += usual_holds(rng, values, gain)
    return {"ours": ours / SETS, "usual": usual / SETS, "p_below_5_percent": alarms / SETS}


def false_alarms(rng, problems: int) -> dict[str, float]:
    """Compare six models with an equal seventh; return how often any p value is below 0.05, raw and corrected."""
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
    """Time an interval and a paired comparison on gsm8k's 1,319 test problems with four samples each."""
    ours, theirs = ((rng.binomial(SAMPLES, 0.4, size=1_319) / SAMPLES).tolist() for _ in range(2))
    began = time.perf_counter()
    stats.mean(ours)
    middle = time.perf_counter()
    stats.paired(ours, theirs)
    return {"mean": round(middle - began, 3), "paired": round(time.perf_counter() - middle, 3)}


# --- the page ---------------------------------------------------------------------------------------------------------


def page_text(figures: dict) -> str:
    """Render the tables, with coverage outside 93 to 97 % in bold."""
    table, seconds = [], figures["one_interval_seconds"]
    for row in figures["coverage"]:
        cells = [
            row["wilson"],
            row["bootstrap"]["ours"],
            row["bootstrap"]["usual"],
            row["paired_0"]["ours"],
            row["paired_0"]["usual"],
            row["paired_5"]["ours"],
            row["paired_5"]["usual"],
        ]
        table.append((row["problems"], f"{row['share']:.0%}", *map(marked, cells)))
    columns = (
        "problems",
        "true accuracy",
        "Wilson (exact)",
        f"bootstrap, {SAMPLES} samples",
        "usual bootstrap",
        "difference, equal models",
        "usual",
        "difference, +5 points",
        "usual",
    )
    alarms = [
        (row["problems"], *(f"{row[name]:.1%}" for name in ("family", "family_holm", "sign_flips")))
        for row in figures["false_alarms"]
    ]
    equal = [
        (row["problems"], f"{row['share']:.0%}", f"{row['paired_0']['p_below_5_percent']:.1%}")
        for row in figures["coverage"]
    ]
    shown = {
        "Wilson": [row["wilson"] for row in figures["coverage"]],
        "our bootstrap": [row["bootstrap"]["ours"] for row in figures["coverage"]],
        "our paired difference": [row[key]["ours"] for row in figures["coverage"] for key in ("paired_0", "paired_5")],
    }
    outside = "; ".join(
        f"{name} {sum(value < LOWEST for value in values)} too narrow and {sum(value > HIGHEST for value in values)} "
        f"too wide of {len(values)}"
        for name, values in shown.items()
    )
    return "\n\n".join(
        [
            "## Coverage of 95 % intervals",
            markdown(columns, table),
            f"Simulated figures come from {SETS:,} sets each and are accurate to about a point; Wilson's are exact. "
            f"Bold: outside 93 to 97 % ({outside}).",
            "## False positives of exact McNemar between equal models (5 % are allowed)",
            markdown(("problems", "true accuracy", "p below 0.05"), equal),
            f"## False positives in a table of {FAMILY} comparisons; of sign flips on {SAMPLES} samples per problem",
            markdown(("problems", "any p below 0.05", "any after Holm", "sign flips, one comparison"), alarms),
            f"On 1,319 problems with {SAMPLES} samples each, an interval takes {seconds['mean']} s and a "
            f"paired comparison {seconds['paired']} s. The whole benchmark took {figures['seconds']} s.",
        ]
    )


def marked(coverage: float) -> str:
    """Format a percentage, bold if it is outside 93 to 97 %."""
    text = f"{coverage:.1%}"
    return text if LOWEST <= coverage <= HIGHEST else f"**{text}**"


if __name__ == "__main__":
    main()
