"""Define the studies of `plantune ablate`: which variants of a recipe each compares, and what it needs of the recipe.

    study("filter", RECIPE) -> Study(variants=(Variant("plan", ("corpus.filter=plan",), "plans that ..."), ...), ...)

A variant is the recipe with a few overrides, as written on the command line. The first is the one that the others are
compared with. A recipe that does not suit a study is refused with an error that names the override that fixes it.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plantune_lite import files
from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.lab import PREFIX, canonical
from plantune_lite.recipe.schema import Recipe
from plantune_lite.types import RecipeError, present

_THRESHOLDS = (0, 40, 60, 70, 80, 85, 90, 95)  # distill's prompt SCORE, as the paper's, asks for 95 at most


@dataclass(frozen=True)
class Variant:
    """One way to run the recipe; its folder has its name."""

    name: str
    settings: tuple[str, ...]
    tests: str
    routes: Mapping[str, str] = field(default_factory=dict)  # source -> the variant that answers it; nothing is run


@dataclass(frozen=True, kw_only=True)
class Study:
    """The question of a study, the variants that answer it, and notes to read with them."""

    what: str
    asks: str
    variants: tuple[Variant, ...]
    notes: tuple[str, ...] = ()


Make = Callable[[Recipe], tuple[list[Variant], list[str]]]  # the variants of a recipe, and the notes


def study(what: str, recipe: Recipe) -> Study:
    """Make the study of that name for this recipe."""
    if what not in STUDIES:
        raise RecipeError(f"no study {what!r}{nearest(what, STUDIES)}")
    asks, make = STUDIES[what]
    part = {"reward": "grpo", "preference": "cpl"}.get(what, "sft")
    if getattr(recipe, part) is None:
        raise RecipeError(f"the study {what} compares variants of {part}, and this recipe has none: add {part}=default")
    variants, notes = make(recipe)
    return Study(what=what, asks=asks, variants=tuple(variants), notes=tuple(notes))


# --- filter and threshold ---------------------------------------------------------------------------------------------

# "none is better" would be read as its opposite, hence the name.
_UNFILTERED = Variant("unfiltered", ("corpus.filter=none",), "every plan that was carried out, right or wrong")
_BY_SCORE = Variant("plan", ("corpus.filter=plan",), "plans that the verifier gave enough points")
_BY_ANSWER = Variant("answer", ("corpus.filter=answer",), "plans that led to the right answer")
_BY_BOTH = Variant("both", ("corpus.filter=both",), "plans with enough points that led to the right answer")


def _filter(recipe: Recipe) -> tuple[list[Variant], list[str]]:
    if not recipe.plans_are_scored:
        return [_UNFILTERED, _BY_ANSWER], ["These plans have no scores."]
    if not _has_low_scores(recipe):
        raise RecipeError(
            f"distill.execute is {recipe.distill.execute!r}, so plans with a low score were never carried out. "
            "Set distill.execute=all (what the ledger holds is not asked again)"
        )
    return [_UNFILTERED, _BY_SCORE, _BY_ANSWER, _BY_BOTH], _first_notes(recipe)


def _threshold(recipe: Recipe) -> tuple[list[Variant], list[str]]:
    if not recipe.plans_are_scored or recipe.corpus.filter not in ("plan", "both"):
        raise RecipeError(
            f"distill.teacher is {recipe.distill.teacher!r} and corpus.filter {recipe.corpus.filter!r}: set "
            "distill.teacher to one that scores plans (gemini, or a server's address), and set corpus.filter=both"
        )
    least = recipe.distill.min_score if recipe.corpus.min_score is None else recipe.corpus.min_score
    assert least is not None  # the filter needs scores
    if least >= _THRESHOLDS[-1]:
        raise RecipeError(
            f"the threshold is {least} already, and a verifier is asked for {_THRESHOLDS[-1]} points at most: set "
            "distill.min_score=80, which the study raises"
        )
    scores = [least, *(score for score in _THRESHOLDS if score > least)]
    variants = [
        Variant(f"{score}", (f"corpus.min_score={score}",), f"plans with {score} points or more") for score in scores
    ]
    if _has_low_scores(recipe):
        rest = "answer" if recipe.corpus.filter == "both" else "none"
        variants.append(Variant("unfiltered", (f"corpus.filter={rest}",), "plans with any score, by sample number"))
        return variants, _first_notes(recipe)
    return variants, ["distill.execute=all would add a variant unfiltered.", *_first_notes(recipe)]


def _has_low_scores(recipe: Recipe) -> bool:
    """Tell whether plans with a low score came out of distillation as training rows."""
    return recipe.distill.execute == "all" or present(recipe.sft).target == "plan"


def _first_notes(recipe: Recipe) -> list[str]:
    note = "distill.keep='first' leaves little to choose from; distill.keep=best makes all distill.plans of them."
    return [note] if recipe.distill.keep == "first" else []


# --- target and reward ------------------------------------------------------------------------------------------------


def _target(recipe: Recipe) -> tuple[list[Variant], list[str]]:
    alike = ("cpl=none", "grpo=none", "sft.same_rows=true")  # the arms have other texts of the same problems
    own, taught = (*alike, "sft.solutions=dataset"), (*alike, "sft.solutions=teacher")
    return [
        Variant("baseline", (*own, "sft.target=solution"), "the data set's own solutions, no plans"),
        Variant("control", (*taught, "sft.target=solution"), "the teacher's solutions without the plans they follow"),
        Variant("m1", (*taught, "sft.target=plan+solution"), "the plan, then the solution that follows it"),
        Variant("m2", (*taught, "sft.target=plan"), "the plan alone, which the untuned model carries out"),
    ], []


def _reward(recipe: Recipe) -> tuple[list[Variant], list[str]]:
    grpo = present(recipe.grpo)
    if recipe.sft and recipe.sft.target != "plan+solution":
        raise RecipeError(
            f"sft.target is {recipe.sft.target!r}, so there are no plans to reward: set sft.target=plan+solution"
        )
    # All arms pay 2 for a right answer and at most 1 for a plan; whatever else a reward would add is left out of each.
    weights = grpo.weights | {"plan_shape": 0, "spoiler_penalty": 0, "guided": 2}
    alike = f"grpo.weights={json.dumps(weights)}"
    words = (alike, "grpo.judge=alignment")
    plans, continuations = _guided_shape(grpo.group, grpo.plans, grpo.continuations)
    guided: tuple[str, ...] = (f"grpo.plans={plans}", f"grpo.continuations={continuations}", "grpo.plan_weight=0.5")
    guided += ("grpo.structure_weight=0", "grpo.length_weight=0", "grpo.reward=guided")
    variants = [
        Variant("answer", (*words, "grpo.reward=answer"), "right answers alone"),
        Variant("alignment", (*words, "grpo.reward=answer+plan"), "right answers, and plans like the reference"),
        Variant("guided", (*words, *guided), "right answers, and plans that lead to them when carried out"),
    ]
    notes = ["Each variant pays 2 for a right answer and at most 1 for its plan, and nothing for form or length."]
    if recipe.distill.teacher in ("worked", "self"):
        notes.append(f"There is no variant teacher: distill.teacher={recipe.distill.teacher!r} cannot judge plans.")
    else:
        judged = (alike, "grpo.reward=answer+plan", "grpo.judge=teacher")
        variants.insert(2, Variant("teacher", judged, "the same, judged by the teacher"))
    return variants, notes


def _guided_shape(group: int, plans: int, continuations: int) -> tuple[int, int]:
    """Choose plans x continuations that make a group of the same size, so that all variants sample equally."""
    if plans * continuations == group:
        return plans, continuations
    shapes = [(count, group // count) for count in range(2, group + 1) if group % count == 0]
    return min(shapes, key=lambda shape: (shape[0] < shape[1], abs(shape[0] - shape[1])))


# --- preference -------------------------------------------------------------------------------------------------------


def _preference(recipe: Recipe) -> tuple[list[Variant], list[str]]:
    once = ("grpo=none", "cpl.rounds=1")  # a second round would search with the model that the first trained
    dpo, apo = (*once, "cpl.alpha=0"), (*once, f"cpl.alpha={present(recipe.cpl).alpha or 1.0:g}")
    variants = [
        Variant("sft", (*dpo, "cpl.pairs=none"), "right paths alone, imitated"),
        Variant("instance-dpo", (*dpo, "cpl.pairs=answers"), "then whole answers, right ones preferred"),
        Variant("step-dpo", (*dpo, "cpl.pairs=steps"), "then single steps, those that lead to right answers"),
        Variant("step-apo", (*apo, "cpl.pairs=steps"), "the same, by as much as the search found them better"),
    ]
    return variants, [
        "All variants learn from the same trees, unless cpl.max_tokens or max_hours cuts the search short. Each takes "
        "as many steps as it has pairs; sft has none."
    ]


# --- mixture and domain -----------------------------------------------------------------------------------------------


def _mixture(recipe: Recipe) -> tuple[list[Variant], list[str]]:
    sources = _sources(recipe)
    if len(sources) < 2:
        raise RecipeError(
            f"problems.source is {recipe.problems.path or recipe.problems.source!r}, a single source: name two or more "
            "with a + between them, say problems.source=gsm8k+math"
        )
    plainly = "sft.order=mixed"
    weights = ",".join(map(str, recipe.corpus.weights or (2, *(1,) * (len(sources) - 1))))
    alone = [
        Variant(
            f"only-{name}",
            (f"corpus.weights={','.join('1' if other == source else '0' for other in sources)}", plainly),
            f"{_plain(source)} alone, tested on all",
        )
        for source, name in sources.items()
    ]
    return [
        Variant("mixed", ("corpus.weights=", plainly), "all sources together, as they come"),
        *alone,
        Variant("weighted", (f"corpus.weights={weights}", plainly), f"as many of each source as {weights} says"),
        Variant("one-by-one", ("corpus.weights=", "sft.order=by_source"), "one source after the other"),
        Variant("easy-first", ("corpus.weights=", "sft.order=easy_first"), "the easiest problems first"),
        Variant(
            "routed",
            (),
            "one adapter per source, each asked its source's problems",
            routes={_plain(source): f"only-{name}" for source, name in sources.items()},
        ),
    ], ["All variants are tested on the same problems. One source alone has fewer rows."]


def _sources(recipe: Recipe) -> dict[str, str]:
    """Map each source to its name in folders."""
    if recipe.problems.path is not None:
        return {recipe.problems.path: "file"}
    sources = [text.strip() for text in recipe.problems.source.split("+")]
    names = [re.sub(r"[^A-Za-z0-9]+", "-", _plain(source)).strip("-") or "source" for source in sources]
    return {
        source: name if names.count(name) == 1 else f"{name}-{number}"
        for number, (source, name) in enumerate(zip(sources, names, strict=True), 1)
    }


def _plain(source: str) -> str:
    """Shorten a source to what its problems call it: a file to its name alone."""
    return Path(source).name if files.is_data_file(source) else source


def _domain(recipe: Recipe) -> tuple[list[Variant], list[str]]:
    own = recipe.problems.path or recipe.problems.source
    variants = [Variant("own", (), f"the recipe as it is: {own}")]
    notes = ["Each domain has its own test problems, so domains are not compared with one another."]
    if own != "strategyqa":
        settings = ["problems.path=none", "problems.source=strategyqa", "problems.levels=", "corpus.weights="]
        settings += [f"problems.{role}=none" for role in ("question", "answer", "solution", "choices", "id")]
        settings += ["problems.split=train", "evaluate.suites=strategyqa"]
        if recipe.distill.teacher == "worked":
            settings.append("distill.teacher=self")
            notes.append("strategyqa has no worked steps: there the untuned student plans (distill.teacher='self').")
        variants.append(Variant("strategyqa", tuple(settings), "questions of general knowledge, answered yes or no"))
    return variants, notes


# --- world ------------------------------------------------------------------------------------------------------------


def _world(recipe: Recipe) -> tuple[list[Variant], list[str]]:
    source = canonical(recipe.problems.source)
    if not source.startswith(PREFIX):
        raise RecipeError(
            f"problems.source is {source!r}, which is not a world: set problems.source=world:blocksworld, or use "
            "the recipe smollm2_135m_worlds"
        )
    alone, world = ("cpl=none", "grpo=none"), source.removesuffix("_walks").removesuffix("_mixed")
    return [
        Variant("planner", (*alone, f"problems.source={world}"), "a planner's plans"),
        Variant("walks", (*alone, f"problems.source={world}_walks"), "random walks, which show more of the world"),
        Variant("mixed", (*alone, f"problems.source={world}_mixed"), "half plans, half walks"),
    ], ["All three teach equally many words and are tested, and probed, on the same problems."]


STUDIES: dict[str, tuple[str, Make]] = {
    "filter": ("Which plans are worth learning from?", _filter),
    "threshold": ("How many points must a plan have?", _threshold),
    "target": ("Do plans help, and in which form?", _target),
    "reward": ("Which reward teaches most?", _reward),
    "preference": ("What is to be learned from a search over steps?", _preference),
    "mixture": ("One source of problems or several, and in which order?", _mixture),
    "domain": ("Does it work beyond the recipe's own domain?", _domain),
    "world": ("Which plans teach a model its world?", _world),
}
