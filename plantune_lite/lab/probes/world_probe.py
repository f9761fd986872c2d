"""Does a model know which steps are possible, and what is true? Linear probes on its activations as it reads a plan.

    probe(student, problems, Path("probe"), per_problem=8, seed=0)
        -> {"validity": {"tuned": {"layer": 17, "auroc": {"value": 0.93, ...}, "by_layer": [0.5, ...]}, "untuned": ...},
            "output_probability": {"mean": {...}, ...}, "predicates": {"on": {...}}, "generative": {...}, ...}

Problems are split in three: probes are fitted on one part, layer and penalty are chosen on the second, and figures are
reported on the third. Each probe has controls: the same model untuned, its embeddings (layer 0), the same fit on
shuffled labels, and a fit on only the words of the step; for facts, on the words and their positions. Activations are
compared with output: the probability of the step as the model would write it, and its rank among all steps of its
kind.
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
_LEAST = 10  # problems: fewer cannot be split in three


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
    """Probe one student and return all figures as JSON types; `problems` are ones that it was not trained on.

    `ranked` is how many of the steps are ranked among all others of their kind; 0 skips that. `untuned` is whether a
    model with an adapter is probed without it too.
    """
    examples = cases(problems, per_problem=per_problem, seed=seed)
    kinds = Counter(f"{case.step.split()[0]}: {case.lacks}" for case in examples if not case.valid)
    parts = split([case.problem_id for case in examples], seed=seed)
    texts = [student.encode_chat(case.messages) for case in examples]
    learned = [len(text) - len(student.encode_chat(case.before)) for text, case in zip(texts, examples, strict=True)]
    say(f"{len(examples)} steps of {len(problems)} problems, half of them possible, {len(parts.report)} reported on")
    with residuals.room(out) as folder:
        models = {"tuned": residuals.read(student, texts, folder / "tuned.f32", learned=learned, show=show)}
        generates = {"tuned": student.generate}
        if untuned := untuned and hasattr(student.model, "disable_adapter"):
            with student.untuned():
                file = folder / "untuned.f32"
                models["untuned"] = residuals.read(student, texts, file, learned=learned, show=show)
            generates["untuned"] = student.generate_untuned
        some = _some(examples, parts, ranked, seed) if ranked else []
        say(f"ranks of {len(some)} of them among all steps of their kind, then steps that the model writes itself")
        of_ranks = _ranks(student, problems, some, untuned, seed) if ranked else {}
        validity = {name: by_layer(read, examples, parts, seed=seed) for name, read in models.items()}
        best = validity["tuned"]["layer"]
        return {
            "cases": len(examples),
            "problems": len(problems),
            "kinds": dict(sorted(kinds.items())),
            "layers": models["tuned"].layers,
            "validity": validity,
            "controls": controls(models["tuned"], best, examples, parts, seed=seed),
            "output_probability": {name: said(read, examples, parts, seed=seed) for name, read in models.items()},
            "rank": of_ranks,
            "predicates": {name: predicates(read, examples, parts, seed=seed) for name, read in models.items()},
            "predicates_by_words": predicates(_Words(examples), examples, parts, seed=seed),
            "reported": {
                "problems": [examples[place].problem_id for place in parts.report],
                "valid": [examples[place].valid for place in parts.report],
            },
            "generative": {
                name: _generated(generate, problems, examples, max_tokens, seed) for name, generate in generates.items()
            },
        }


def split(problem_ids: Sequence[str], *, seed: int, spared: Collection[str] = ()) -> Parts:
    """Split the cases in three, by problem; fit or choose on `spared` ones only if there are too few others."""
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


def by_layer(read: Residuals, examples: Sequence[Case], parts: Parts, *, seed: int) -> dict[str, Any]:
    """Fit a probe per layer; choose layer and penalty on the second part and score them on the third."""
    labels = [float(case.valid) for case in examples]
    fitted = [linear.best_fit(read.layer(number), labels, parts.fit, parts.choose) for number in range(read.layers)]
    best = max(range(read.layers), key=lambda number: fitted[number].auroc)
    scores = fitted[best].scores
    return {
        "layer": best,
        "strength": fitted[best].strength,
        "auroc": _reported(linear.auroc, scores, examples, parts.report, seed),
        "balanced_accuracy": _reported(linear.balanced_accuracy, scores, examples, parts.report, seed),
        "scores": [round(float(score), 4) for score in scores[parts.report]],
        "auroc_after": {
            after: _reported(linear.auroc, scores, examples, places, seed)
            for after in ("plan", "walk")
            if (places := [place for place in parts.report if examples[place].after == after])
        },
        "by_layer": [
            round(linear.auroc(fit.scores[parts.report], [labels[place] for place in parts.report]), 4)
            for fit in fitted
        ],
    }


def _reported(
    measure: Callable[..., float], scores: Any, examples: Sequence[Case], places: Sequence[int], seed: int
) -> dict[str, float]:
    """Compute a measure of validity on some cases."""
    truth, ids = [float(examples[place].valid) for place in places], [examples[place].problem_id for place in places]
    return asdict(linear.over_problems(measure, scores[list(places)], truth, ids, seed=seed))


def controls(read: Residuals, layer: int, examples: Sequence[Case], parts: Parts, *, seed: int) -> dict[str, Any]:
    """Fit the same probes where there is nothing to know; the shuffled labels are learned on `layer`."""
    valid = [float(case.valid) for case in examples]
    shuffled = Random(f"shuffled {seed}").sample(valid, len(valid))
    learned = {
        "embedding": (read.layer(0), valid),
        "shuffled": (read.layer(layer), shuffled),
        "bag_of_objects": (_bags(examples), valid),
    }
    aurocs = {}
    for name, (features, labels) in learned.items():
        scores = linear.best_fit(features, labels, parts.fit, parts.choose).scores
        aurocs[name] = _reported(linear.auroc, scores, examples, parts.report, seed)
    return aurocs


class _Words:
    """Words of each step with their positions as features, read like the residuals of a one-layer model."""

    layers = 1

    def __init__(self, examples: Sequence[Case]) -> None:
        import numpy as np

        word_sets = [set(enumerate(case.step.split())) for case in examples]
        words = sorted(set().union(*word_sets))
        self._features = np.array([[float(word in seen) for word in words] for seen in word_sets], dtype=np.float32)

    def layer(self, number: int) -> Any:
        """Return the word features, whatever the number."""
        return self._features


def _bags(examples: Sequence[Case]) -> Any:
    """Count the words of each step, at any position."""
    import numpy as np

    words = sorted({word for case in examples for word in case.step.split()})
    return np.array([[float(case.step.split().count(word)) for word in words] for case in examples], dtype=np.float32)


def said(read: Residuals, examples: Sequence[Case], parts: Parts, *, seed: int) -> dict[str, Any]:
    """Measure validity by the model's own log-probability of the step: the sum and the mean over its tokens."""
    import numpy as np

    chosen = [float(examples[place].valid) for place in parts.choose]
    results = {}
    for name, measure in (("sum", np.sum), ("mean", np.mean)):
        scores = np.array([measure(logprobs) for logprobs in read.logprobs])
        cut = linear.best_threshold(scores[parts.choose], chosen)
        results[name] = {
            "auroc": _reported(linear.auroc, scores, examples, parts.report, seed),
            "balanced_accuracy": _reported(linear.balanced_accuracy, scores - cut, examples, parts.report, seed),
            "scores": [round(float(score), 4) for score in scores[parts.report]],
        }
    return results


def _some(examples: Sequence[Case], parts: Parts, count: int, seed: int) -> list[Case]:
    """Draw some pairs of the reported cases."""
    first = [place for place in parts.report if place % 2 == 0]
    chosen = sorted(Random(f"ranked {seed}").sample(first, min(count // 2, len(first))))
    return [examples[place + offset] for place in chosen for offset in (0, 1)]


def _ranks(
    student: Loaded, problems: Sequence[Problem], examples: Sequence[Case], untuned: bool, seed: int
) -> dict[str, Any]:
    """Rank some steps among all others of their kind, by the model and, if `untuned`, without its adapter."""
    worlds = {problem.id: world_in(problem) for problem in problems}
    ranks = {"tuned": step_ranks.ranked(student, examples, worlds, seed=seed)}
    if untuned:
        with student.untuned():
            ranks["untuned"] = step_ranks.ranked(student, examples, worlds, seed=seed)
    return ranks


# --- predicates -------------------------------------------------------------------------------------------------------


def predicates(read: Residuals | _Words, examples: Sequence[Case], parts: Parts, *, seed: int) -> dict[str, Any]:
    """Fit a probe per fact, scored only where the fact has changed since the start, and pool them by predicate.

    A predicate that is the same in all starts is scored everywhere: where it changed, it always has the other value.
    Facts with one value in the whole first part are left out; layer and penalty are chosen for all facts together.
    """
    import numpy as np

    atoms = sorted({atom for case in examples for atom in case.atoms})
    known = np.array([[atom in case.atoms for atom in atoms] for case in examples])
    holds = np.array([[atom in case.facts for atom in atoms] for case in examples], dtype=float)
    scored = np.array([[atom in case.changed for atom in atoms] for case in examples])
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
    results: dict[str, Any] = {"layer": number, "strength": strength, "by_predicate": {}}
    for name in sorted({atoms[column][0] for column in columns}):
        mine = [at for at, column in enumerate(columns) if atoms[column][0] == name]
        where, pooled = "changed", _pooled(scores, truth, scored, mine, examples, parts.report, seed)
        if pooled.value != pooled.value:
            # Every start of blocksworld has an empty hand: where that changed, it is always false.
            where = "everywhere"
            pooled = _pooled(scores, truth, ~np.isnan(truth), mine, examples, parts.report, seed)
        if pooled.value == pooled.value:  # else, in the few cases there are, it always holds or never does
            results["by_predicate"][name] = {**asdict(pooled), "scored": where}
    everything = _pooled(scores, truth, scored, range(len(columns)), examples, parts.report, seed)
    results["all"] = asdict(everything) if everything.value == everything.value else None
    return results


def _together(features: Any, truth: Any, scored: Any, parts: Parts, strength: float) -> tuple[float, Any]:
    """Fit all probes of a layer at once; return their balanced accuracy on the second part, and the scores."""
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
    examples: Sequence[Case],
    places: Sequence[int],
    seed: int,
) -> Estimate:
    at = [(place, column) for place in places for column in columns if scored[place, column]]
    if not at:
        return Estimate(float("nan"), 0.0, 1.0)
    rows, cells = zip(*at, strict=True)
    ids = [examples[place].problem_id for place in rows]
    return linear.over_problems(linear.balanced_accuracy, scores[rows, cells], truth[rows, cells], ids, seed=seed)


# --- what it does -----------------------------------------------------------------------------------------------------


def _generated(
    generate: Any, problems: Sequence[Problem], examples: Sequence[Case], max_tokens: int, seed: int
) -> Mapping[str, Any]:
    written = generated_steps.plans_written(generate, problems, max_tokens=max_tokens)
    written["next_step"] = generated_steps.next_steps(generate, examples, problems, seed=seed)
    return {name: asdict(estimate) for name, estimate in written.items()}
