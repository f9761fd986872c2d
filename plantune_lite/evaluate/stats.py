"""Measure how reliable a share is: intervals, two models on the same problems, many comparisons at once.

    wilson(22, 60)                            -> 36.7 % (25.6 to 49.3)
    mean([1.0, 0.5, 0.0, 0.25])               -> 43.8 % (16.6 to 77.8): one share of right samples per problem
    paired([1, 1, 0, 1], [0, 1, 1, 0])        -> +25.0 points (-52.6 to +76.4), 2 problems won, 1 lost, p = 1

    over_trainings(paired(...), [0.03, -0.01, 0.05])  -> the same, p and interval by the t test of the trainings

With one training the unit is the problem: samples of one problem are not independent trials. With several trainings
the unit is the training, because the effect of a seed is the same on all problems.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import NormalDist, fmean, stdev
from typing import TypeVar

LEVEL = 0.95
_DRAWS = 2_000  # from seed to seed the ends of an interval move by a sixtieth of its width
_FLIPS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """Format as 36.7 % (25.6 to 49.3)."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def points(self) -> str:
        """Format a difference of two shares as +25.0 points (+13.1 to +36.9)."""
        return f"{100 * self.value:+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def p_text(p: float) -> str:
    """Format as 0.24, 0.013, or < 0.001."""
    return "< 0.001" if p < 0.001 else f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"


# --- one model --------------------------------------------------------------------------------------------------------


def wilson(right: int, of: int) -> Estimate:
    """Compute the Wilson interval of a share: valid even where nearly all or nearly none are right."""
    if of == 0:
        return Estimate(math.nan, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    share, spread = right / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def mean(
    values: Sequence[float],
    *,
    seed: int = 0,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    draws: int = _DRAWS,
) -> Estimate:
    """Estimate the mean of one value per problem, by Rubin's Bayesian bootstrap: each draw reweights the problems.

    One more problem at each bound keeps it honest where nearly all problems agree: without these, 20 of 20 would be
    certain. Resampling whole problems, the usual bootstrap, can be too narrow there (benchmarks/intervals).
    """
    if not values:
        return Estimate(math.nan, *(bounds or (math.nan, math.nan)))
    shape = Counter(values)  # equal values share one Gamma draw of their joint weight: 300 problems cost as few do
    for bound in bounds or ():
        shape[bound] += 1
    rng, weighted = Random(seed), sorted(shape.items())
    means = []
    for _ in range(draws):
        weights = [rng.gammavariate(weight, 1.0) for _, weight in weighted]
        total = sum(weights)
        means.append(sum(weight * value for weight, (value, _) in zip(weights, weighted, strict=True)) / total)
    means.sort()
    cut = round((1 - LEVEL) / 2 * draws)
    centre = fmean(values)
    return Estimate(centre, min(centre, means[cut]), max(centre, means[-cut - 1]))


def of_problems(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Estimate a share of problems: Wilson if each is right or wrong, bootstrap if several samples make it a share."""
    if all(value in (0, 1) for value in values):
        return wilson(round(sum(values)), len(values))
    return mean(values, seed=seed)


# --- two models on the same problems ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """One model next to another on the same problems."""

    problems: int
    difference: Estimate  # the first minus the second
    won: int  # problems on which the first is better
    lost: int
    p: float  # of a difference this large where there is none
    trainings: int = 1  # of each model


def paired(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Paired:
    """Compare two models problem by problem; `first[i]` and `second[i]` are of the same problem."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    won, lost = sum(difference > 0 for difference in differences), sum(difference < 0 for difference in differences)
    right_or_wrong = all(value in (0, 1) for value in (*first, *second))
    p = mcnemar(won, lost) if right_or_wrong else sign_flips(differences, seed=seed)
    return Paired(len(differences), mean(differences, seed=seed, bounds=(-1.0, 1.0)), won, lost, p)


def mcnemar(won: int, lost: int) -> float:
    """Compute the exact two-sided p value of so many problems won and lost, under a fair coin."""
    n, few = won + lost, min(won, lost)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n)


def sign_flips(differences: Sequence[float], *, seed: int = 0, flips: int = _FLIPS) -> float:
    """Estimate the two-sided p value of a mean difference: how often random signs reach it. McNemar beyond 0 and 1."""
    sizes = Counter(round(abs(difference), 12) for difference in differences if difference)
    observed = abs(sum(differences)) - 1e-9
    rng, as_large = Random(seed), 1  # the observed signs are one of the possible ones
    for _ in range(flips):
        total = sum(size * (2 * rng.getrandbits(count).bit_count() - count) for size, count in sizes.items())
        as_large += abs(total) >= observed
    return as_large / (flips + 1)


# --- several trainings ------------------------------------------------------------------------------------------------


def over_trainings(over_problems: Paired, differences: Sequence[float]) -> Paired:
    """Replace the test over problems by the t test over trainings; `differences` has one per seed.

    If all are equal, by chance or because both models are the same, the test over problems stays.
    """
    count, centre = len(differences), fmean(differences)
    if not (spread := stdev(differences) / math.sqrt(count)):
        return replace(over_problems, trainings=count)
    half = t_quantile(count - 1) * spread
    difference = Estimate(centre, max(-1.0, centre - half), min(1.0, centre + half))
    p = t_tails(centre / spread, count - 1)
    return replace(over_problems, difference=difference, p=p, trainings=count)


def of_trainings(shares: Sequence[float], over_problems: Estimate) -> Estimate:
    """Widen an interval over problems to the t interval of the trainings' own figures, one per seed."""
    half = t_quantile(len(shares) - 1) * stdev(shares) / math.sqrt(len(shares))
    low, high = min(over_problems.low, fmean(shares) - half), max(over_problems.high, fmean(shares) + half)
    return Estimate(over_problems.value, max(0.0, low), min(1.0, high))


def t_tails(t: float, df: int) -> float:
    """Compute the chance that Student's t is beyond +-t, exactly: the finite series for whole degrees of freedom."""
    angle = math.atan(abs(t) / math.sqrt(df))
    cosine, sine = math.cos(angle), math.sin(angle)
    term = cosine if df % 2 else 1.0
    total = 0.0
    for k in range(3 if df % 2 else 2, df + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    inside = 2 / math.pi * (angle + sine * total) if df % 2 else sine * total
    return min(1.0, max(0.0, 1 - inside))


def t_quantile(df: int) -> float:
    """Find the t for which +-t holds 95 % of Student's t: 12.71 for 1 degree of freedom, 2.78 for 4."""
    low, high = 0.0, 1.0
    while t_tails(high, df) > 1 - LEVEL:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tails(middle, df) > 1 - LEVEL else (low, middle)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p values of a family of comparisons, so that even one false alarm among them all stays rare."""
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = highest
    return corrected


# --- several samples a problem ----------------------------------------------------------------------------------------


Answer = TypeVar("Answer", bound=Hashable)


def majority(answers: Sequence[Answer], same: Callable[[Answer, Answer], bool]) -> Answer | None:
    """Choose the answer that most samples gave, in its first wording; on a tie, the one that came first."""
    votes: dict[Answer, int] = {}
    for answer, count in Counter(answers).items():  # in order of appearance; equal texts are compared once
        first = next((known for known in votes if same(answer, known)), answer)
        votes[first] = votes.get(first, 0) + count
    return max(votes, key=votes.__getitem__, default=None)
