"""The studies of `plantune ablate`: which variants of a recipe each compares, and what it needs of the recipe.

    study("filter", RECIPE) -> Study(variants=(Variant("plan", ("corpus.filter=plan",), "plans that ..."), ...), ...)

A variant is the recipe with a few settings, as they would be written on the command line. The first is what the others
are compared with. A recipe that a study cannot be made of is refused in a sentence with the override that mends it.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from plantune_lite import files
from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.lab import PREFIX, canonical
from plantune_lite.recipe.schema import Recipe
from plantune_lite.types import RecipeError

Sources = Mapping[str, str]  # of problems -> the variant that answers them
SAME_ROWS = "sft.same_rows=true"  # of the study target, whose arms have other texts of the same problems
SEEDS = 5  # trainings of each variant: of 3 the t interval is half as wide again
_THRESHOLDS = (0, 40, 60, 70, 80, 85, 90, 95)  # distill's prompt SCORE, as the paper's, asks for 95 at most


@dataclass(frozen=True)
class Variant:
    """One way to run the recipe; its folder has its name."""

    name: str
    settings: tuple[str, ...]
    tests: str
    routes: Sources = field(default_factory=dict)  # nothing is run: the answers are other variants', by source


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked, the variants that answer it, and what is to be known beside them."""

    what: str
    asks: str
    variants: tuple[Variant, ...]
    notes: tuple[str, ...] = ()
    probed: bool = False  # each variant is asked what it knows, as `plantune probe` does


class _Row(NamedTuple):
    asks: str
    variants: Callable[[Recipe], Iterator[Variant]]
    notes: Callable[[Recipe], Iterator[str]]
    probed: bool = False


def study(what: str, recipe: Recipe) -> Study:
    """The study of that name for this recipe."""
    if what not in STUDIES:
        raise RecipeError(f"no study {what!r}{nearest(what, STUDIES)}")
    row = STUDIES[what]
    variants, notes = tuple(row.variants(recipe)), tuple(row.notes(recipe))
    return Study(what=what, asks=row.asks, variants=variants, notes=notes, probed=row.probed)


def _nothing(recipe: Recipe) -> Iterator[str]:
    yield from ()


# --- filter and threshold ---------------------------------------------------------------------------------------------


def _filters(recipe: Recipe) -> Iterator[Variant]:
    _needs_sft(recipe, "filter")
    scored = recipe.distill.teacher != "worked" and recipe.distill.min_score is not None
    if scored and not _has_low_scores(recipe):
        raise RecipeError(
            f"distill.execute is {recipe.distill.execute!r}: plans with a low score are never carried out, so a filter "
            "that lets them through has nothing to let through. Set distill.execute=all (what the ledger holds is not "
            "asked again)"
        )
    about = {
        "none": "every plan that was carried out, right or wrong",
        "plan": "plans that the verifier gave enough points",
        "answer": "plans that led to the right answer",
        "both": "plans with enough points that led to the right answer",
    }
    for name, words in about.items():
        if scored or name in ("none", "answer"):
            # "none is better" would be read as its opposite.
            yield Variant("unfiltered" if name == "none" else name, (f"corpus.filter={name}",), words)


def _filter_notes(recipe: Recipe) -> Iterator[str]:
    if recipe.distill.teacher == "worked":
        yield (
            "Nobody scored these plans (distill.teacher='worked'), so there is no variant plan and none both; "
            "another distill.teacher scores them."
        )
    yield from _first_notes(recipe)


def _thresholds(recipe: Recipe) -> Iterator[Variant]:
    _needs_sft(recipe, "threshold")
    if recipe.distill.teacher == "worked":
        raise RecipeError(
            "distill.teacher is 'worked', whose plans nobody scored, so there is no threshold to raise: set "
            "distill.teacher to one that scores (gemini, self, or a server's address) and corpus.filter=both"
        )
    if recipe.corpus.filter not in ("plan", "both"):
        raise RecipeError(f"corpus.filter is {recipe.corpus.filter!r}, which looks at no score: set corpus.filter=both")
    least = _threshold(recipe)
    if least >= _THRESHOLDS[-1]:
        raise RecipeError(
            f"the threshold is {least} already, and a verifier is asked for {_THRESHOLDS[-1]} points at most: set "
            "distill.min_score=80, which the study raises"
        )
    yield Variant(f"{least}", (f"corpus.min_score={least}",), "the recipe's own threshold")
    for score in _THRESHOLDS:
        if score > least:
            yield Variant(f"{score}", (f"corpus.min_score={score}",), f"plans with {score} points or more")
    if _has_low_scores(recipe):
        rest = "answer" if recipe.corpus.filter == "both" else "none"
        yield Variant("unfiltered", (f"corpus.filter={rest}",), "plans with any score, chosen by sample number")


def _has_low_scores(recipe: Recipe) -> bool:
    """Whether plans with a low score came out of distillation as training rows."""
    return recipe.distill.execute == "all" or recipe.sft.target == "plan"


def _threshold(recipe: Recipe) -> int:
    return recipe.distill.min_score if recipe.corpus.min_score is None else recipe.corpus.min_score


def _threshold_notes(recipe: Recipe) -> Iterator[str]:
    yield f"Raising a threshold asks nobody; one below {recipe.distill.min_score} would ask the teacher for more plans."
    if not _has_low_scores(recipe):
        yield (
            f"There is no variant unfiltered: distill.execute={recipe.distill.execute!r} carries out no plan with "
            "a low score; distill.execute=all carries out all."
        )
    yield from _first_notes(recipe)


def _first_notes(recipe: Recipe) -> Iterator[str]:
    if recipe.distill.keep == "first" and recipe.distill.teacher != "worked":
        yield (
            f"distill.keep='first' stops at the first plan with {recipe.distill.min_score} points and the right "
            "answer, so there is little to choose from; distill.keep=best makes all distill.plans of them."
        )


# --- target and reward ------------------------------------------------------------------------------------------------


def _targets(recipe: Recipe) -> Iterator[Variant]:
    _needs_sft(recipe, "target")
    arms = {
        "baseline": ("solution", "dataset", "the data set's own solutions, no plans"),
        "control": ("solution", "teacher", "the teacher's solutions without the plans they follow"),
        "m1": ("plan+solution", "teacher", "the plan, then the solution that follows it"),
        "m2": ("plan", "teacher", "the plan alone, which the untuned model carries out"),
    }
    for name, (target, solutions, words) in arms.items():
        alone = ("cpl=none", "grpo=none")
        yield Variant(name, (*alone, SAME_ROWS, f"sft.target={target}", f"sft.solutions={solutions}"), words)


def _rewards(recipe: Recipe) -> Iterator[Variant]:
    if recipe.grpo is None:
        raise RecipeError("this recipe has no grpo, whose rewards the study compares: add grpo=default")
    if recipe.sft and recipe.sft.target != "plan+solution":
        raise RecipeError(
            f"sft.target is {recipe.sft.target!r}, so there are no plans to reward: set sft.target=plan+solution"
        )
    # All arms pay 2 for a right answer and at most 1 for a plan; whatever else a reward would add is left out of each.
    weights = recipe.grpo.weights | {"plan_shape": 0, "spoiler_penalty": 0, "guided": 2}
    alone = f"grpo.weights={json.dumps(weights)}"
    words = (alone, "grpo.judge=alignment")
    yield Variant("answer", (*words, "grpo.reward=answer"), "right answers alone")
    yield Variant(
        "alignment",
        (*words, "grpo.reward=answer+plan"),
        f"right answers, and plans like the reference by {'an embedding' if recipe.grpo.embedder else 'their words'}",
    )
    if _can_judge(recipe):
        yield Variant(
            "teacher",
            (alone, "grpo.reward=answer+plan", "grpo.judge=teacher"),
            "right answers, and plans like the reference by the teacher's judgement",
        )
    plans, continuations = _guided_shape(recipe.grpo.group, recipe.grpo.plans, recipe.grpo.continuations)
    shape = (f"grpo.plans={plans}", f"grpo.continuations={continuations}")
    worth = ("grpo.plan_weight=0.5", "grpo.structure_weight=0", "grpo.length_weight=0")
    yield Variant(
        "guided",
        (*words, *shape, *worth, "grpo.reward=guided"),
        f"right answers, and plans that lead to them: {plans} plans, each carried out {continuations} times",
    )


def _can_judge(recipe: Recipe) -> bool:
    return recipe.distill.teacher not in ("worked", "self")


def _reward_notes(recipe: Recipe) -> Iterator[str]:
    if not _can_judge(recipe):
        yield (
            f"There is no variant teacher: distill.teacher={recipe.distill.teacher!r} is nobody who could judge plans."
        )
    yield (
        "Each variant pays 2 for a right answer and at most 1 for its plan. What a reward adds to that elsewhere is "
        "left out: the shape and spoilers of a plan, and PTA-GRPO's terms for form and length."
    )


def _guided_shape(group: int, plans: int, continuations: int) -> tuple[int, int]:
    """Plans x continuations that make a group of the same size: all variants sample as much."""
    if plans * continuations == group:
        return plans, continuations
    shapes = [(count, group // count) for count in range(2, group + 1) if group % count == 0]
    return min(shapes, key=lambda shape: (shape[0] < shape[1], abs(shape[0] - shape[1])))


# --- preference -------------------------------------------------------------------------------------------------------


def _preferences(recipe: Recipe) -> Iterator[Variant]:
    if recipe.cpl is None:
        raise RecipeError(
            "this recipe has no cpl, and the study preference compares what can be learned from its search: add "
            "cpl=default, and say cpl.questions=24 cpl.iterations=8 to keep the search short"
        )
    ways = {
        "sft": ("none", 0.0, "right paths alone, imitated"),
        "instance-dpo": ("answers", 0.0, "then whole answers, right ones preferred to wrong ones"),
        "step-dpo": ("steps", 0.0, "then single steps, those that lead to right answers preferred"),
        "step-apo": (
            "steps",
            recipe.cpl.alpha or 1.0,
            "the same, preferred by as much as the search found them better",
        ),
    }
    for name, (pairs, alpha, words) in ways.items():
        once = ("grpo=none", "cpl.rounds=1")  # a second round would search with what the first has made
        yield Variant(name, (*once, f"cpl.pairs={pairs}", f"cpl.alpha={alpha:g}"), words)


def _preference_notes(recipe: Recipe) -> Iterator[str]:
    yield (
        "All variants learn from the same trees, those of one round: the search and the SFT on right paths are made "
        "once, and taken over by the others. A search that cpl.max_tokens or max_hours cuts short is not: then each "
        "variant searches for itself. Each takes as many steps as it has pairs; sft has none."
    )


# --- mixture and domain -----------------------------------------------------------------------------------------------


def _mixtures(recipe: Recipe) -> Iterator[Variant]:
    _needs_sft(recipe, "mixture")
    sources = _sources(recipe)
    count = len(sources)
    if count < 2:
        raise RecipeError(
            f"problems.source is {recipe.problems.path or recipe.problems.source!r}, a single source: name two or more "
            "with a + between them, say problems.source=gsm8k+math"
        )
    plainly = "sft.order=mixed"
    yield Variant("mixed", ("corpus.weights=", plainly), "all sources together, as they come")
    alone = {source: f"only-{name}" for source, name in sources.items()}
    for place, (source, name) in enumerate(alone.items()):
        weights = ",".join("1" if other == place else "0" for other in range(count))
        yield Variant(name, (f"corpus.weights={weights}", plainly), f"{_plain(source)} alone, tested on all")
    weights = ",".join(map(str, recipe.corpus.weights or (2, *(1,) * (count - 1))))
    yield Variant("weighted", (f"corpus.weights={weights}", plainly), f"as many of each source as {weights} says")
    yield Variant("one-by-one", ("corpus.weights=", "sft.order=by_source"), "one source after the other")
    yield Variant("easy-first", ("corpus.weights=", "sft.order=easy_first"), "the easiest problems first")
    routes = {_plain(source): name for source, name in alone.items()}
    yield Variant("routed", (), "an adapter a source, each asked what is of its source", routes=routes)


def _sources(recipe: Recipe) -> dict[str, str]:
    """The sources and what they are called in folders."""
    if recipe.problems.path is not None:
        return {recipe.problems.path: "file"}
    found = [text.strip() for text in recipe.problems.source.split("+")]
    names = [re.sub(r"[^A-Za-z0-9]+", "-", _plain(source)).strip("-") or "source" for source in found]
    return {
        source: name if names.count(name) == 1 else f"{name}-{place}"
        for place, (source, name) in enumerate(zip(found, names, strict=True), 1)
    }


def _plain(source: str) -> str:
    """What a source's problems call it: a file by its name alone."""
    return Path(source).name if files.is_data_file(source) else source


def _mixture_notes(recipe: Recipe) -> Iterator[str]:
    yield "All variants are tested on the same problems. One source alone has fewer rows."
    if not recipe.corpus.weights:
        yield "weighted takes twice as many of the first source; corpus.weights says otherwise."


def _domains(recipe: Recipe) -> Iterator[Variant]:
    _needs_sft(recipe, "domain")
    yield Variant("own", (), f"the recipe as it is: {recipe.problems.path or recipe.problems.source}")
    elsewhere = ("problems.path=none", "problems.source=strategyqa", "problems.levels=", "corpus.weights=")
    columns = tuple(f"problems.{role}=none" for role in ("question", "answer", "solution", "choices", "id"))
    teacher = ("distill.teacher=self",) if recipe.distill.teacher == "worked" else ()
    if recipe.problems.path is not None or recipe.problems.source != "strategyqa":
        yield Variant(
            "strategyqa",
            (*elsewhere, *columns, *teacher, "problems.split=train", "evaluate.suites=strategyqa"),
            "questions of general knowledge, answered yes or no: its own train and test split",
        )
    yield from _code(recipe)


def _code(recipe: Recipe) -> Iterator[Variant]:
    if recipe.evaluate.allow_code:
        words = "what the recipe teaches, tested on programs: humaneval has none to train on"
        yield Variant("code", ("evaluate.suites=humaneval",), words)


def _domain_notes(recipe: Recipe) -> Iterator[str]:
    yield "Each domain has test problems of its own, so domains are not compared with one another."
    if recipe.distill.teacher == "worked":
        yield "strategyqa has no worked steps, so there the untuned student plans for itself (distill.teacher='self')."
    if not recipe.evaluate.allow_code:
        yield "code is left out: evaluate.allow_code=true allows to run the programs a model writes."


# --- world ------------------------------------------------------------------------------------------------------------


def _worlds(recipe: Recipe) -> Iterator[Variant]:
    _needs_sft(recipe, "world")
    source = canonical(recipe.problems.source)
    if not source.startswith(PREFIX):
        raise RecipeError(
            f"problems.source is {source!r}, which is no world: set problems.source=world:blocksworld, or take "
            "the recipe smollm2_135m_worlds"
        )
    world = source.removesuffix("_walks").removesuffix("_mixed")
    ways = {
        "planner": ("", "a planner's plans"),
        "walks": ("_walks", "random walks, which show more of the world"),
        "mixed": ("_mixed", "half plans, half walks"),
    }
    for name, (ending, words) in ways.items():
        yield Variant(name, ("cpl=none", "grpo=none", f"problems.source={world}{ending}"), words)


def _world_notes(recipe: Recipe) -> Iterator[str]:
    yield "All three teach equally many words and are tested, and probed, on the same problems."


def _needs_sft(recipe: Recipe, what: str) -> None:
    if recipe.sft is None:
        raise RecipeError(f"the study {what} compares what an SFT learns, and this recipe has none: add sft=default")


STUDIES: dict[str, _Row] = {
    "filter": _Row("Which plans are worth learning from?", _filters, _filter_notes),
    "threshold": _Row("How many points must a plan have?", _thresholds, _threshold_notes),
    "target": _Row("Do plans help, and in which form?", _targets, _nothing),
    "reward": _Row("Which reward teaches most, and which soonest?", _rewards, _reward_notes),
    "preference": _Row("What is to be learned from a search over steps?", _preferences, _preference_notes),
    "mixture": _Row("One source of problems or several, and in which order?", _mixtures, _mixture_notes),
    "domain": _Row("Does it work beyond the recipe's own domain?", _domains, _domain_notes),
    "world": _Row("Which plans teach a model its world?", _worlds, _world_notes, probed=True),
}
