"""Does a model know which steps are possible, and what is true? Linear probes on what it holds while it reads a plan.

    probe(student, problems, Path("probe"), per_problem=8, seed=0)
        -> {"validity": {"tuned": {"layer": 17, "auroc": {"value": 0.93, ...}, "by_layer": [0.5, ...]}, "untuned": ...},
            "output_probability": {"mean": {...}, ...}, "predicates": {"on": {...}}, "generative": {...}, ...}

Problems are split in three: probes are fitted on one part, layer and penalty are chosen on the second, and what is
reported is of the third. Beside the probe stand its controls: the same model untuned, its embeddings (layer 0), the
same fit on shuffled labels, and one on nothing but which words the step has; for facts, on the words and their places.
And beside what it holds, what it says: the probability of the step as it would write it, and its rank among all steps
of its kind.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from plantune_lite.evaluate.answers import Show
from plantune_lite.evaluate.stats import Estimate
from plantune_lite.lab.probes import generated_steps, linear, residuals, step_ranks
from plantune_lite.lab.probes.cases import Case, cases
from plantune_lite.lab.probes.residuals import Residuals
from plantune_lite.lab.worlds.grade import world_in
from plantune_lite.student.load import Loaded
from plantune_lite.types import PlantuneError, Problem

_SHARES = (0.6, 0.2)  # of the problems: to fit on, to choose on; the rest is reported
_LEAST = 10  # problems: of fewer no third is worth the name


@dataclass(frozen=True)
class Parts:
    """Indices of the cases to fit on, to choose on and to report; no problem is in two of them."""

    fit: list[int]
    choose: list[int]
    report: list[int]


def probe(
    student: Loaded,
    problems: Sequence[Problem],
    out: Path,
    *,
    per_problem: int = 8,
    max_tokens: int = 256,
    ranked: int = 60,
    untuned: bool = True,
    seed: int = 0,
    say: Callable[[str], object] = print,
    show: Show = lambda line, last: None,
) -> dict[str, Any]:
    """Everything that is to be known of one student, as JSON holds it; `problems` are such as it never learned from.

    `ranked` is how many of the steps are ranked among all others of their kind; 0 leaves that out. `untuned` is whether
    a model with an adapter is asked without it too.
    """
    asked = cases(problems, per_problem=per_problem, seed=seed)
    kinds = Counter(f"{one.step.split()[0]}: {one.lacks}" for one in asked if not one.valid)
    parts = split([one.problem_id for one in asked], seed=seed)
    texts = [student.encode_chat(one.messages) for one in asked]
    learned = [len(text) - len(student.encode_chat(one.before)) for text, one in zip(texts, asked, strict=True)]
    say(f"{len(asked)} steps of {len(problems)} problems, half of them possible; {len(parts.report)} are reported on")
    with residuals.room(out) as folder:
        models = {"tuned": residuals.read(student, texts, folder / "tuned.f32", learned=learned, show=show)}
        generates = {"tuned": student.generate}
        if untuned := untuned and hasattr(student.model, "disable_adapter"):
            with student.untuned():
                file = folder / "untuned.f32"
                models["untuned"] = residuals.read(student, texts, file, learned=learned, show=show)
            generates["untuned"] = student.generate_untuned
        some = _some(asked, parts, ranked, seed) if ranked else []
        say(f"probabilities of {len(some)} of them among all steps of their kind, then steps that it writes itself")
        of_ranks = _ranks(student, problems, some, untuned, seed) if ranked else {}
        validity = {name: by_layer(read, asked, parts, seed=seed) for name, read in models.items()}
        best = validity["tuned"]["layer"]
        return {
            "cases": len(asked),
            "problems": len(problems),
            "kinds": dict(sorted(kinds.items())),
            "layers": models["tuned"].layers,
            "validity": validity,
            "controls": controls(models["tuned"], best, asked, parts, seed=seed),
            "output_probability": {name: said(read, asked, parts, seed=seed) for name, read in models.items()},
            "rank": of_ranks,
            "predicates": {name: predicates(read, asked, parts, seed=seed) for name, read in models.items()},
            "predicates_by_words": predicates(_Words(asked), asked, parts, seed=seed),
            "reported": {
                "problems": [asked[place].problem_id for place in parts.report],
                "valid": [asked[place].valid for place in parts.report],
            },
            "generative": {
                name: _generated(generate, problems, asked, max_tokens, seed) for name, generate in generates.items()
            },
        }


def split(problem_ids: Sequence[str], *, seed: int, spared: Collection[str] = ()) -> Parts:
    """Three parts of the cases, by problem; those that are spared are fitted or chosen on only where others are few."""
    names = sorted(set(problem_ids))
    if len(names) < _LEAST:
        raise PlantuneError(f"{len(names)} problems cannot be split in three: give at least {_LEAST}")
    order = sorted(Random(f"parts {seed}").sample(names, len(names)), key=lambda name: name in spared)
    first, second = round(_SHARES[0] * len(names)), round(sum(_SHARES) * len(names))
    part_of = {name: (place >= first) + (place >= second) for place, name in enumerate(order)}
    places: list[list[int]] = [[], [], []]
    for place, name in enumerate(problem_ids):
        places[part_of[name]].append(place)
    return Parts(*places)


# --- validity ---------------------------------------------------------------------------------------------------------


def by_layer(read: Residuals, asked: Sequence[Case], parts: Parts, *, seed: int) -> dict[str, Any]:
    """A probe a layer; the layer and penalty that are best on the second part, and what they are worth on the third."""
    labels = [float(one.valid) for one in asked]
    fitted = [linear.best_fit(read.layer(number), labels, parts.fit, parts.choose) for number in range(read.layers)]
    best = max(range(read.layers), key=lambda number: fitted[number].auroc)
    scores = fitted[best].scores
    return {
        "layer": best,
        "strength": fitted[best].strength,
        "auroc": _reported(linear.auroc, scores, asked, parts.report, seed),
        "balanced_accuracy": _reported(linear.balanced_accuracy, scores, asked, parts.report, seed),
        "scores": [round(float(one), 4) for one in scores[parts.report]],
        "auroc_after": {
            after: _reported(linear.auroc, scores, asked, places, seed)
            for after in ("plan", "walk")
            if (places := [place for place in parts.report if asked[place].after == after])
        },
        "by_layer": [
            round(linear.auroc(one.scores[parts.report], [labels[place] for place in parts.report]), 4)
            for one in fitted
        ],
    }


def _reported(
    measure: Callable[..., float], scores: Any, asked: Sequence[Case], places: Sequence[int], seed: int
) -> dict[str, float]:
    """A measure of validity, on some cases."""
    truth, ids = [float(asked[place].valid) for place in places], [asked[place].problem_id for place in places]
    return asdict(linear.over_problems(measure, scores[list(places)], truth, ids, seed=seed))


def controls(read: Residuals, layer: int, asked: Sequence[Case], parts: Parts, *, seed: int) -> dict[str, Any]:
    """Fit the same probes where there is nothing to be known; the shuffled labels are learned on `layer`."""
    valid = [float(one.valid) for one in asked]
    shuffled = Random(f"shuffled {seed}").sample(valid, len(valid))
    learned = {
        "embedding": (read.layer(0), valid),
        "shuffled": (read.layer(layer), shuffled),
        "bag_of_objects": (_bags(asked), valid),
    }
    found = {}
    for name, (features, labels) in learned.items():
        scores = linear.best_fit(features, labels, parts.fit, parts.choose).scores
        found[name] = _reported(linear.auroc, scores, asked, parts.report, seed)
    return found


class _Words:
    """Words of each step with their positions as features, read like the residuals of a one-layer model."""

    layers = 1

    def __init__(self, asked: Sequence[Case]) -> None:
        import numpy as np

        said = [set(enumerate(one.step.split())) for one in asked]
        words = sorted(set().union(*said))
        self._features = np.array([[float(word in one) for word in words] for one in said], dtype=np.float32)

    def layer(self, number: int) -> Any:
        """Return the word features, whatever the number."""
        return self._features


def _bags(asked: Sequence[Case]) -> Any:
    """Count the words of each step, at any position."""
    import numpy as np

    words = sorted({word for one in asked for word in one.step.split()})
    return np.array([[float(one.step.split().count(word)) for word in words] for one in asked], dtype=np.float32)


def said(read: Residuals, asked: Sequence[Case], parts: Parts, *, seed: int) -> dict[str, Any]:
    """Validity as the model's own probability of the step says it: of all its tokens together, and on the mean."""
    import numpy as np

    chosen = [float(asked[place].valid) for place in parts.choose]
    found = {}
    for name, measure in (("sum", np.sum), ("mean", np.mean)):
        scores = np.array([measure(one) for one in read.logprobs])
        cut = linear.best_threshold(scores[parts.choose], chosen)
        found[name] = {
            "auroc": _reported(linear.auroc, scores, asked, parts.report, seed),
            "balanced_accuracy": _reported(linear.balanced_accuracy, scores - cut, asked, parts.report, seed),
            "scores": [round(float(one), 4) for one in scores[parts.report]],
        }
    return found


def _some(asked: Sequence[Case], parts: Parts, count: int, seed: int) -> list[Case]:
    """Some pairs of the cases that are reported."""
    first = [place for place in parts.report if place % 2 == 0]
    chosen = sorted(Random(f"ranked {seed}").sample(first, min(count // 2, len(first))))
    return [asked[place + one] for place in chosen for one in (0, 1)]


def _ranks(
    student: Loaded, problems: Sequence[Problem], asked: Sequence[Case], untuned: bool, seed: int
) -> dict[str, Any]:
    """Rank some steps among all others of their kind, by the model and, if `untuned`, without its adapter."""
    worlds = {one.id: world_in(one) for one in problems}
    found = {"tuned": step_ranks.ranked(student, asked, worlds, seed=seed)}
    if untuned:
        with student.untuned():
            found["untuned"] = step_ranks.ranked(student, asked, worlds, seed=seed)
    return found


# --- predicates -------------------------------------------------------------------------------------------------------


def predicates(read: Residuals | _Words, asked: Sequence[Case], parts: Parts, *, seed: int) -> dict[str, Any]:
    """A probe a fact, scored only where the fact is no longer what it was at the start, and pooled by predicate.

    A predicate that is the same in all starts is scored everywhere: where it changed, it is always the other way. What
    the first part never sees both ways is left out; layer and penalty are chosen for all facts together.
    """
    import numpy as np

    atoms = sorted({atom for one in asked for atom in one.atoms})
    known = np.array([[atom in one.atoms for atom in atoms] for one in asked])
    holds = np.array([[atom in one.facts for atom in atoms] for one in asked], dtype=float)
    scored = np.array([[atom in one.changed for atom in atoms] for one in asked])
    truth = np.where(known, holds, np.nan).astype(np.float32)
    first = truth[parts.fit]
    learnable = (first == 1).any(0) & (first == 0).any(0)
    columns = np.flatnonzero(learnable & scored[parts.report].any(0))
    if not len(columns):
        return {"layer": None, "by_predicate": {}, "all": None}
    truth, scored = truth[:, columns], scored[:, columns]
    best = max(
        (_together(read.layer(number), truth, scored, parts, strength)[:1] + (number, strength))
        for number in range(read.layers)
        for strength in linear.STRENGTHS[1:3]  # a finer choice for so many probes changes nothing
    )
    _, number, strength = best
    scores = _together(read.layer(number), truth, scored, parts, strength)[1]
    found: dict[str, Any] = {"layer": number, "strength": strength, "by_predicate": {}}
    for name in sorted({atoms[column][0] for column in columns}):
        mine = [at for at, column in enumerate(columns) if atoms[column][0] == name]
        where, pooled = "changed", _pooled(scores, truth, scored, mine, asked, parts.report, seed)
        if pooled.value != pooled.value:
            # Every start of blocksworld has an empty hand: where that changed, it is always not so any more.
            where = "everywhere"
            pooled = _pooled(scores, truth, ~np.isnan(truth), mine, asked, parts.report, seed)
        if pooled.value == pooled.value:  # else, in the few cases there are, it always holds or never does
            found["by_predicate"][name] = {**asdict(pooled), "scored": where}
    everything = _pooled(scores, truth, scored, range(len(columns)), asked, parts.report, seed)
    found["all"] = asdict(everything) if everything.value == everything.value else None
    return found


def _together(features: Any, truth: Any, scored: Any, parts: Parts, strength: float) -> tuple[float, Any]:
    """All probes of a layer at once: their balanced accuracy on the second part, and the scores."""
    fitted = linear.fit(features[parts.fit], truth[parts.fit], strength=strength)
    scores = fitted(features).numpy()
    there = scored[parts.choose]
    accuracy = linear.balanced_accuracy(scores[parts.choose][there], truth[parts.choose][there])
    return (accuracy if accuracy == accuracy else 0.0), scores


def _pooled(
    scores: Any,
    truth: Any,
    scored: Any,
    columns: Sequence[int],
    asked: Sequence[Case],
    places: Sequence[int],
    seed: int,
) -> Estimate:
    at = [(place, column) for place in places for column in columns if scored[place, column]]
    if not at:
        return Estimate(float("nan"), 0.0, 1.0)
    rows, cells = zip(*at, strict=True)
    ids = [asked[place].problem_id for place in rows]
    return linear.over_problems(linear.balanced_accuracy, scores[rows, cells], truth[rows, cells], ids, seed=seed)


# --- what it does -----------------------------------------------------------------------------------------------------


def _generated(
    generate: Any, problems: Sequence[Problem], asked: Sequence[Case], max_tokens: int, seed: int
) -> Mapping[str, Any]:
    written = generated_steps.plans_written(generate, problems, max_tokens=max_tokens)
    written["next_step"] = generated_steps.next_steps(generate, asked, problems, seed=seed)
    return {name: asdict(estimate) for name, estimate in written.items()}
