"""A study: variants of one recipe, each a run of its own, side by side in the end.

    ablate("target", RECIPE) -> Found(...), and runs/mine/ablate/target/ with table.md, figure.svg, baseline/, m1/ ...

What a variant shares with the run it is of, or with another variant, is taken over and not made again. Each variant is
a run folder, so whatever is cut off goes on with the same command; one that fails is named, and the others go on.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from plantune_lite.evaluate import arms
from plantune_lite.pipeline import runner
from plantune_lite.pipeline.mirror import bring_back
from plantune_lite.pipeline.stages import STAGES, Stage
from plantune_lite.recipe.load import override
from plantune_lite.recipe.schema import Recipe
from plantune_lite.runs.folder import locked, read_manifest
from plantune_lite.studies import learning_curve, page, plan_diversity, probes, reuse
from plantune_lite.studies.definitions import SAME_ROWS, SEEDS, Study, Variant, study
from plantune_lite.teacher.gemini import KEYS
from plantune_lite.terminal import printable, table
from plantune_lite.types import PlantuneError, RunError

# A variant is measured and no more: what the run's headroom, export and report say, its own run says.
OF_A_VARIANT = tuple(stage for stage in STAGES if stage.name not in ("headroom", "export", "report"))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of a study, and what is to be done for it."""

    variant: Variant
    number: int  # of the seed
    folder: Path
    recipe: Recipe
    done: tuple[str, ...]
    shared: Mapping[str, str]  # stage -> whose it is
    to_do: tuple[str, ...]

    @property
    def name(self) -> str:
        """What its folder is called."""
        return self.folder.name

    def as_row(self) -> dict[str, Any]:
        """For programs."""
        return {
            "run": self.name,
            "folder": str(self.folder),
            "to_do": self.to_do,
            "done": self.done,
            "shared": dict(self.shared),
            "tests": self.variant.tests,
        }


def run_study(
    what: str,
    asked: Recipe,
    *,
    seeds: int = SEEDS,
    to: Path | None = None,
    mirror: Path | None = None,
    command: str = "",
    stages: Sequence[Stage] = OF_A_VARIANT,
    say: Callable[[str], None] = print,
    stream: TextIO | None = None,
) -> page.Found:
    """Bring a study to its end, or go on with it; its tables lie in RUN/ablate/WHAT."""

    def tell(line: str) -> None:
        say(printable(line))

    parent = runner.folder_of(asked, to)
    folder = parent / "ablate" / what
    planning = partial(plan_study, what, asked, seeds=seeds, to=to, stages=stages)
    planning(say=_nobody)  # what cannot be is refused before anything is written
    with locked(folder / ".lock"):
        count = bring_back(mirror.resolve(), parent) if mirror else 0
        asked_for, planned = planning(say=tell)
        if mirror:
            count += sum(bring_back(_mirror_of(mirror, parent, what), one.folder) for one in planned)
            if count:
                tell(f"restored {count} files from {mirror}")
            asked_for, planned = planning(say=_nobody)
        _refuse_without_key(planned)
        tell(study_cost(asked_for, planned))
        failed = {}
        for place, one in enumerate(planned, 1):
            if not (one.to_do or one.shared or mirror):
                tell(f"({place} of {len(planned)}) {one.name}: done before")
                continue
            tell(f"\n({place} of {len(planned)}) {one.name}: {one.variant.tests}")
            try:
                _run(one, parent, what, mirror, stages, tell, stream)
            except PlantuneError as error:
                failed[one.name] = str(error)
                tell(f"{one.name} failed: {error}")
        if len(failed) == len(planned):
            reasons = "\n".join(f"  {name}: {why}" for name, why in failed.items())
            raise RunError(f"no variant of the study {what} came to its end:\n{reasons}")
        unprobed = {}
        if asked_for.probed:
            unprobed = probes.probe_all([one.folder for one in planned if one.name not in failed], tell)
        found = _found(asked_for, planned, failed, unprobed, asked, seeds, command, folder)
        for file in page.write(found):
            if mirror:
                _copy(file, _mirror_of(mirror, parent, what), tell)
    return found


def _nobody(line: str) -> None:
    """Who is told nothing."""


def plan_study(
    what: str,
    asked: Recipe,
    *,
    seeds: int = SEEDS,
    to: Path | None = None,
    stages: Sequence[Stage] = OF_A_VARIANT,
    say: Callable[[str], None] = print,
) -> tuple[Study, list[Planned]]:
    """The study, and what each of its runs still has to do; refused where a folder holds another run."""
    parent = runner.folder_of(asked, to)
    wanted = runner.with_teacher(asked, os.environ, read_manifest(parent), say)
    asked_for = study(what, wanted)
    older = _has_arms_with_rows_of_their_own(parent / "ablate" / what)
    if older and what == "target":
        note = "An older version began this study: each arm learns from all rows that are short enough in that arm."
        asked_for = replace(asked_for, notes=(*asked_for.notes, note))
    there: dict[tuple[str, str], str] = {}
    for donor in reversed(reuse.donors(parent)):
        there.update(dict.fromkeys(reuse.finished(donor), donor.name))
    planned = []
    for number in range(seeds):
        for variant in asked_for.variants:
            if not variant.routes:
                folder = parent / "ablate" / what / (f"{variant.name}-s{number}" if number else variant.name)
                settings = [one for one in variant.settings if not (older and one == SAME_ROWS)]
                recipe = override(wanted, ["evaluate.baseline=false", *settings])
                one = _planned(variant, number, folder, replace(recipe, seed=wanted.seed + number), stages, there)
                planned.append(one)
    return asked_for, planned


def _has_arms_with_rows_of_their_own(folder: Path) -> bool:
    """Tell whether arms were trained before there was sft.same_rows."""
    trained = [read_manifest(file.parent)["stages"].get("sft") for file in folder.glob("*/manifest.json")]
    return any(entry and "sft.same_rows" not in entry["inputs"] for entry in trained)


def _planned(
    variant: Variant,
    number: int,
    folder: Path,
    recipe: Recipe,
    stages: Sequence[Stage],
    there: dict[tuple[str, str], str],
) -> Planned:
    """What is done, what somebody else has done or will have by then, and the rest; adds what will be to `there`."""
    made = reuse.prints(recipe, stages)
    manifest = read_manifest(folder)
    done, shared, to_do = [], {}, []
    for stage, state, why in runner.plan(folder, recipe, manifest, None, stages)[0]:
        key = (stage.name, made[stage.name])
        if state == "differs":
            raise RunError(
                f"{folder} holds a variant of another recipe: {why}.\n"
                f"Two ways on: name=OTHER begins the study anew under another name; or move {folder.parent} away."
            )
        if state == "done":
            done.append(stage.name)
        elif key in there and manifest["stages"].get(stage.name, {}).get("status") != "done":
            shared[stage.name] = there[key]
        else:
            to_do.append(stage.name)
        there.setdefault(key, folder.name)
    return Planned(
        variant=variant,
        number=number,
        folder=folder,
        recipe=recipe,
        done=tuple(done),
        shared=shared,
        to_do=tuple(to_do),
    )


def study_cost(asked: Study, planned: Sequence[Planned]) -> str:
    """What a study will do, before it does it."""
    lines = [(one.name, " ".join(one.to_do) or "nothing", _taken(one), one.variant.tests) for one in planned]
    to_do = sum(len(one.to_do) for one in planned)
    title = f"{asked.what}: {asked.asks} {len(planned)} runs, {to_do} stages to do"
    notes = "".join(f"\n{note}" for note in asked.notes)
    return table(title, ("run", "to do", "there already", "what it learns"), lines) + notes


def _taken(one: Planned) -> str:
    by_whom: dict[str, list[str]] = {}
    for stage, whose in one.shared.items():
        by_whom.setdefault(whose, []).append(stage)
    parts = [" ".join(one.done), *(f"{' '.join(names)} (of {whose})" for whose, names in by_whom.items())]
    return ", ".join(part for part in parts if part)


def _refuse_without_key(planned: Sequence[Planned]) -> None:
    """Plans of two teachers must not stand side by side as if they were one's."""
    for one in planned:
        unkeyed = one.recipe.distill.teacher == "gemini" and not any(os.environ.get(key) for key in KEYS)
        if unkeyed and "distill" in one.to_do:
            raise RunError(f"{one.name} needs plans from Gemini that nobody has asked for yet: set {KEYS[1]}")


# --- doing it ---------------------------------------------------------------------------------------------------------


def _run(
    one: Planned,
    parent: Path,
    what: str,
    mirror: Path | None,
    stages: Sequence[Stage],
    say: Callable[[str], None],
    stream: TextIO | None,
) -> None:
    with locked(one.folder / ".lock"):
        others = reuse.donors(parent, apart_from=one.folder)
        taken = reuse.take(one.folder, one.recipe, others, stages, runner.versions())
    for donor in dict.fromkeys(taken.values()):
        names = ", ".join(stage for stage, whose in taken.items() if whose == donor)
        say(f"taken over from {donor.name}: {names}")
    own = None if mirror is None else _mirror_of(mirror, parent, what)
    runner.run(one.recipe, to=one.folder, mirror=own, stages=stages, say=say, stream=stream)


def _mirror_of(mirror: Path, parent: Path, what: str) -> Path:
    """Where the mirror keeps a study's runs: as they lie here."""
    return mirror.resolve() / parent.name / "ablate" / what


def _copy(file: Path, folder: Path, say: Callable[[str], None]) -> None:
    try:
        shutil.copyfile(file, folder / file.name)
    except OSError as error:
        say(f"warning: {file.name} cannot be copied to {folder} ({error.strerror})")


def _found(
    asked_for: Study,
    planned: Sequence[Planned],
    failed: Mapping[str, str],
    unprobed: Mapping[str, str],
    asked: Recipe,
    seeds: int,
    command: str,
    folder: Path,
) -> page.Found:
    all_arms = list(_arms(asked_for, planned, failed))
    runs = {arm.name: arm.runs for arm in all_arms}
    of_plans = asked_for.what in ("filter", "threshold")
    return page.Found(
        study=asked_for,
        folder=folder,
        recipe=asked.name,
        command=command,
        seeds=seeds,
        beside=arms.beside(all_arms, seed=asked.seed),
        failed=failed,
        learning=learning_curve.learning(runs) if asked_for.what == "reward" else {},
        figures=plan_diversity.diversity(runs) if of_plans else probes.columns(runs) if asked_for.probed else {},
        remarks=(
            *(plan_diversity.older_choice(runs) if of_plans else ()),
            *(f"{run} could not be probed: {why}" for run, why in unprobed.items()),
        ),
    )


def _arms(asked_for: Study, planned: Sequence[Planned], failed: Mapping[str, str]) -> Iterator[arms.Arm]:
    ran: dict[str, arms.Arm] = {}
    for variant in asked_for.variants:
        if not variant.routes:
            mine = [one for one in planned if one.variant is variant]
            folders = tuple(None if one.name in failed else one.folder for one in mine)
            ran[variant.name] = arms.Arm(variant.name, folders)
            yield ran[variant.name]
        else:
            yield arms.Arm(variant.name, routes={source: ran[name] for source, name in variant.routes.items()})
