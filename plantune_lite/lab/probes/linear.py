"""Linear probes, and how good they are: logistic regression on residuals, AUROC, intervals over problems.

    probe = fit(residuals_N_H, labels_N_T, strength=0.01)
    best_fit(residuals_N_H, labels_N, some_places, others).strength   0.1, the best on the others
    auroc(probe(residuals_N_H)[:, 0], labels_N)                       0.93
    over_problems(auroc, scores, labels, problem_ids, seed=0)         Estimate(value=0.93, low=0.90, high=0.96)
    difference(auroc, [(scores, others, labels, problem_ids)])        Estimate(value=0.08, low=0.01, high=0.15)

Several probes are fitted at once, a column each. An unknown label, NaN, is ignored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from plantune_lite.evaluate.stats import LEVEL, Estimate

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of the L2 penalty on standardised residuals; one is chosen on dev
_STEPS = 60  # of L-BFGS: more do not change the AUROC
_DRAWS = 500
_CLIP = 10.0  # standard deviations: a few residuals of a few tokens are a thousand times the others


@dataclass(frozen=True, eq=False)
class Probe:
    """Linear probes over standardised residuals, one direction per column."""

    middle_H: Any
    scale_H: Any
    weights_H_T: Any
    bias_T: Any

    def __call__(self, residuals_N_H: Any) -> Any:
        """Score residuals with each probe, in log-odds; above 0 is a yes."""
        import torch

        x_N_H = _standardised(torch.as_tensor(residuals_N_H, dtype=torch.float32), self.middle_H, self.scale_H)
        return x_N_H @ self.weights_H_T + self.bias_T

    def to_row(self) -> dict[str, Any]:
        """Convert it to JSON types."""
        return {name: values.tolist() for name, values in vars(self).items()}


def from_row(row: dict[str, Any]) -> Probe:
    """Rebuild the probe that `to_row` wrote."""
    import torch

    return Probe(**{name: torch.tensor(values) for name, values in row.items()})


def fit(residuals_N_H: Any, labels_N_T: Any, *, strength: float) -> Probe:
    """Fit logistic regression by L-BFGS; deterministic."""
    import torch

    raw_N_H = torch.as_tensor(residuals_N_H, dtype=torch.float32)
    labels = torch.as_tensor(labels_N_T, dtype=torch.float32).reshape(len(raw_N_H), -1)
    known = ~labels.isnan()
    target, weight = labels.nan_to_num(), known / known.sum(0).clamp(min=1)
    middle, scale = raw_N_H.mean(0), raw_N_H.std(0, correction=0)
    x_N_H = _standardised(raw_N_H, middle, scale)
    weights = torch.zeros(x_N_H.shape[1], labels.shape[1], requires_grad=True)
    bias = torch.zeros(labels.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimiser.zero_grad()
        losses = torch.nn.functional.binary_cross_entropy_with_logits(x_N_H @ weights + bias, target, reduction="none")
        total = (losses * weight).sum() + strength / 2 * weights.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(loss)
    return Probe(middle, scale, weights.detach(), bias.detach())


def _standardised(raw_N_H: Any, middle_H: Any, scale_H: Any) -> Any:
    return ((raw_N_H - middle_H) / scale_H.clamp(min=1e-6)).clamp(-_CLIP, _CLIP)


class Fitted(NamedTuple):
    """A probe with its best penalty."""

    auroc: float  # where the penalty was chosen
    strength: float
    probe: Probe
    scores: Any  # of all cases


def best_fit(residuals_N_H: Any, labels_N: Any, fit_on: Sequence[int], choose_on: Sequence[int]) -> Fitted:
    """Fit a probe on some cases with each penalty, and choose the best on others; of equals, the strongest."""
    import numpy as np

    labels = np.asarray(labels_N, dtype=np.float32)
    tried = []
    for strength in STRENGTHS:
        probe = fit(residuals_N_H[fit_on], labels[fit_on], strength=strength)
        scores = probe(residuals_N_H)[:, 0].numpy()
        tried.append(Fitted(auroc(scores[choose_on], labels[choose_on]), strength, probe, scores))
    return max(tried, key=lambda fitted: (fitted.auroc, fitted.strength))


# --- how good it is ---------------------------------------------------------------------------------------------------


def auroc(scores: Any, labels: Any, weights: Any = None) -> float:
    """Compute how often a yes is scored above a no, ties counting half; NaN where one of the two is missing."""
    import numpy as np

    scores, labels = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    weights = np.ones_like(scores) if weights is None else np.asarray(weights, dtype=float)
    _, rank = np.unique(scores, return_inverse=True)
    yes = np.bincount(rank, weights * labels)
    no = np.bincount(rank, weights * (1 - labels))
    if not yes.sum() or not no.sum():
        return float("nan")
    below = np.cumsum(no) - no
    return float((yes * (below + no / 2)).sum() / (yes.sum() * no.sum()))


def balanced_accuracy(scores: Any, labels: Any, weights: Any = None) -> float:
    """Average the share of the yes that are scored above 0 and the share of the no that are not."""
    import numpy as np

    yes, labels = np.asarray(scores, dtype=float) > 0, np.asarray(labels, dtype=float) > 0
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=float)
    if not weights[labels].sum() or not weights[~labels].sum():
        return float("nan")
    right = np.average(yes[labels], weights=weights[labels]) + np.average(~yes[~labels], weights=weights[~labels])
    return float(right / 2)


def best_threshold(scores: Any, labels: Any) -> float:
    """Find the threshold on scores with the best balanced accuracy; for dev."""
    import numpy as np

    scores = np.asarray(scores, dtype=float)
    places = np.unique(scores)
    cuts = [places[0] - 1.0, *((places[:-1] + places[1:]) / 2)]
    return float(max(cuts, key=lambda cut: balanced_accuracy(scores - cut, labels)))


def over_problems(
    measure: Callable[..., float],
    scores: Any,
    labels: Any,
    problem_ids: Sequence[str],
    *,
    seed: int = 0,
) -> Estimate:
    """Estimate a measure and its interval, by Rubin's Bayesian bootstrap: each draw reweights the problems.

    As in `stats.mean`, one more problem at each bound keeps it honest where there are few.
    """
    value = measure(scores, labels)
    if value != value:  # all labels are the same
        return Estimate(value, 0.0, 1.0)
    return _interval(value, [(measure, scores, labels, problem_ids)], (0.0, 1.0), seed)


def difference(
    measure: Callable[..., float],
    sets: Sequence[tuple[Any, Any, Any, Sequence[str]]],
    *,
    seed: int = 0,
) -> Estimate:
    """Estimate how much better one set of scores is than another on the same cases, averaged over sets of cases.

    A set is (scores, other scores, labels, problem ids); a problem weighs the same in both.
    """

    def apart(both: Any, labels: Any, weights: Any = None) -> float:
        return measure(both[0], labels, weights) - measure(both[1], labels, weights)

    each = [(apart, (scores, other), labels, ids) for scores, other, labels, ids in sets]
    value = fmean(apart(both, labels) for _, both, labels, _ in each)
    return _interval(value, each, (-1.0, 1.0), seed)


Measured = tuple[Callable[..., float], Any, Any, Sequence[str]]  # a measure, scores, labels, problem ids


def _interval(value: float, sets: Sequence[Measured], bounds: tuple[float, float], seed: int) -> Estimate:
    """Estimate the mean of a measure over sets; each draw reweights the problems of every set."""
    import numpy as np

    rng, draws = np.random.default_rng(seed), []
    places = [np.unique(np.asarray(ids), return_inverse=True)[1] for *_, ids in sets]
    for _ in range(_DRAWS):
        total, weight = 0.0, 0.0
        for (measure, scores, labels, _), place in zip(sets, places, strict=True):
            weights = rng.exponential(size=place.max() + 1)
            drawn = measure(scores, labels, weights[place])
            if drawn == drawn:
                total, weight = total + drawn * weights.sum(), weight + weights.sum()
        at_bounds = rng.exponential(size=2)
        draws.append((total + float(at_bounds @ bounds)) / (weight + at_bounds.sum()))
    draws.sort()
    cut = round((1 - LEVEL) / 2 * _DRAWS)
    return Estimate(value, min(value, draws[cut]), max(value, draws[-cut - 1]))
