"""Define the stages, their order, and which recipe fields each reads; state.py compares them with a folder.

Only this table ties parts of the recipe to stages: a test fails when a part has a field that no stage reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plantune_lite.recipe.schema import OPTIONAL, Recipe
from plantune_lite.runs.folder import REJECTED, TRAJECTORIES


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the order."""

    name: str
    reads: tuple[str, ...]  # parts or fields of the recipe that determine its output
    after: tuple[str, ...] = ()  # stages whose output determines its output
    also: tuple[str, ...] = ()  # stages whose output it reads without becoming stale when that changes
    home: str | None = None  # its folder; None = its name, or the run folder itself where it has outputs there
    outputs: tuple[str, ...] = ()  # under the run folder; empty = its folder
    trains: bool = False  # makes an adapter: the last one of these is the run's final model
    shared: bool = False  # several processes may share it, one per GPU
    advice: bool = False  # only for people: with other settings it is rerun, nothing is refused
    may_fail: bool = False  # later stages run anyway; the run ends with its error
    work: str | None = None  # in tests: a function instead of child.py's, "module_or_path.py:function"

    def __post_init__(self) -> None:
        home = self.home or ("" if self.outputs else self.name)
        object.__setattr__(self, "home", home)
        object.__setattr__(self, "outputs", self.outputs or (home,))


STAGES = (
    Stage(name="problems", reads=("seed", "problems")),
    Stage(name="suites", reads=("seed", "evaluate.suites", "evaluate.limit"), after=("problems",)),
    # Nothing comes after it: it only advises whether to continue.
    Stage(
        name="headroom",
        reads=("seed", "headroom", "student.model", "student.revision", "student.bits", "evaluate.max_tokens"),
        after=("problems",),
        advice=True,
    ),
    Stage(
        name="distill",
        reads=("seed", "distill", "student.model", "student.revision", "student.bits"),
        after=("problems",),
        outputs=(TRAJECTORIES, REJECTED, "distilled.jsonl"),
    ),
    # A suite added later does not change the corpus: evaluation reports which of its problems overlap with it.
    Stage(
        name="corpus",
        reads=("seed", "corpus", "sft.target", "sft.solutions"),
        after=("distill",),
        also=("problems", "suites"),
    ),
    Stage(name="sft", reads=("seed", "student", "sft"), after=("corpus",), trains=True, shared=True),
    # The same problems and as many steps, without plans: the comparison for the tuned model.
    Stage(
        name="baseline",
        reads=("seed", "student", "sft", "evaluate.baseline"),
        after=("corpus", "sft"),
        also=("problems",),
    ),
    Stage(name="cpl", reads=("seed", "student", "cpl"), after=("problems", "corpus", "sft"), trains=True),
    Stage(name="grpo", reads=("seed", "student", "grpo"), after=("corpus", "sft", "cpl"), trains=True),
    Stage(
        name="evaluate",
        reads=("seed", "student", "evaluate"),
        after=("suites", "sft", "baseline", "cpl", "grpo"),
        also=("problems", "corpus"),
        home="eval",
    ),
    Stage(
        name="export",
        reads=("student", "export"),
        after=("sft", "cpl", "grpo"),
        outputs=("merged", "gguf"),
        may_fail=True,
    ),
    Stage(
        name="report",
        reads=("name",),
        after=("distill", "corpus", "evaluate", "export"),
        outputs=("report.html", "figures"),
    ),
)


def active_stages(wanted: Recipe, stages: Sequence[Stage] = STAGES) -> list[Stage]:
    """Return the stages of this recipe, in order."""
    left_out = {name for name in OPTIONAL if getattr(wanted, name) is None}
    if not wanted.has_baseline:
        left_out.add("baseline")
    return [stage for stage in stages if stage.name not in left_out]


def stale_after(name: str, active: Sequence[Stage]) -> list[str]:
    """List the stages that become stale, directly or not, when this one's output changes."""
    return _following(name, active, lambda stage: stage.after)


def readers_of(name: str, active: Sequence[Stage]) -> list[str]:
    """List the stages that need this one to be done, directly or not."""
    return _following(name, active, lambda stage: (*stage.after, *stage.also))


def with_what_is_moved(again: str, only: Sequence[str], active: Sequence[Stage]) -> tuple[str, ...]:
    """List the stages a verb runs, after `again` and the stale stages they need."""
    needed = [name for name in stale_after(again, active) if set(only) & set(readers_of(name, active))]
    return (again, *needed, *only)


def _following(name: str, active: Sequence[Stage], before: Callable[[Stage], tuple[str, ...]]) -> list[str]:
    names = [name]
    for stage in active:
        if set(before(stage)) & set(names):
            names.append(stage.name)
    return names[1:]
