"""A study: variants of one recipe, each a run of its own, side by side in the end.

    ablate("target", RECIPE) -> Found(...), and runs/mine/ablate/target/ with table.md, baseline/, m1/ ...

What a variant shares with the run it is of, or with another variant, is taken over and not made again. Each variant is
a run folder, so whatever is cut off goes on with the same command; one that fails is named, and the others go on.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TextIO

from plantune_lite.evaluate import compare
from plantune_lite.evaluate.results import Arm, Runs
from plantune_lite.pipeline import runner
from plantune_lite.pipeline.mirror import bring_back
from plantune_lite.pipeline.stages import STAGES, Stage
from plantune_lite.recipe.load import override
from plantune_lite.recipe.schema import Recipe
from plantune_lite.runs.folder import RunFolder, locked
from plantune_lite.runs.manifest import read_manifest
from plantune_lite.studies import page, reuse
from plantune_lite.studies.definitions import Study, Variant, study
from plantune_lite.teacher.gemini import KEYS, key_name
from plantune_lite.terminal import table
from plantune_lite.types import PlantuneError, RunError

# A variant is measured and no more: what the run's headroom, export and report say, its own run says.
OF_A_VARIANT = tuple(stage for stage in STAGES if stage.name not in ("headroom", "export", "report"))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of a study, and what is to be done for it."""

    variant: Variant
    folder: Path
    recipe: Recipe
    done: tuple[str, ...]
    shared: Mapping[str, str]  # stage -> whose it is
    to_do: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return self.folder.name


def run_study(
    what: str,
    asked: Recipe,
    *,
    seeds: int,
    to: Path | None = None,
    mirror: Path | None = None,
    command: str = "",
    stages: Sequence[Stage] = OF_A_VARIANT,
    say: Callable[[str], None],
    stream: TextIO | None = None,
) -> page.Found:
    """Bring a study to its end, or go on with it; its tables lie in RUN/ablate/WHAT."""
    parent = runner.folder_of(asked, to)
    folder = parent / "ablate" / what
    kept = mirror and mirror.resolve() / parent.name / "ablate" / what
    planning = partial(plan_study, what, asked, seeds=seeds, to=to, stages=stages)
    planning(say=lambda line: None)  # what cannot be is refused before anything is written
    with locked(RunFolder(folder).lock):
        if mirror and kept and (count := bring_back(mirror.resolve(), parent) + _bring_back_variants(kept, folder)):
            say(f"restored {count} files from {mirror}")
        asked_for, planned = planning(say=say)
        _refuse_without_key(planned)
        say(study_cost(asked_for, planned))
        failed = {}
        for place, one in enumerate(planned, 1):
            if not (one.to_do or one.shared or mirror):
                say(f"({place} of {len(planned)}) {one.name}: done before")
                continue
            say(f"\n({place} of {len(planned)}) {one.name}: {one.variant.tests}")
            try:
                _take_over(one, parent, stages, say)
                runner.run(one.recipe, to=one.folder, mirror=kept, stages=stages, say=say, stream=stream)
            except PlantuneError as error:
                failed[one.name] = str(error)
                say(f"{one.name} failed: {error}")
        if len(failed) == len(planned):
            reasons = "\n".join(f"  {name}: {why}" for name, why in failed.items())
            raise RunError(f"no variant of the study {what} came to its end:\n{reasons}")
        found = _found(asked_for, planned, failed, folder, command, say)
        for file in page.write(found):
            if kept:
                _copy(file, kept, say)
    return found


def plan_study(
    what: str,
    asked: Recipe,
    *,
    seeds: int,
    to: Path | None = None,
    stages: Sequence[Stage] = OF_A_VARIANT,
    say: Callable[[str], None],
) -> tuple[Study, list[Planned]]:
    """Plan a study: what each of its runs still has to do; refused where a folder holds another run."""
    parent = runner.folder_of(asked, to)
    wanted = runner.with_teacher(asked, os.environ, read_manifest(parent), say)
    asked_for = study(what, wanted)
    there: dict[tuple[str, str], str] = {}
    for donor in reversed(reuse.donors(parent)):
        there.update(dict.fromkeys(reuse.finished(donor), donor.name))
    planned = []
    for number, variant in product(range(seeds), asked_for.variants):
        if not variant.routes:
            folder = parent / "ablate" / what / (f"{variant.name}-s{number}" if number else variant.name)
            recipe = override(wanted, ["evaluate.baseline=false", *variant.settings])
            recipe = replace(recipe, seed=wanted.seed + number)
            planned.append(_planned(variant, folder, recipe, stages, there))
    return asked_for, planned


def _planned(
    variant: Variant, folder: Path, recipe: Recipe, stages: Sequence[Stage], there: dict[tuple[str, str], str]
) -> Planned:
    """Plan a variant: what is done, what another run has or will have by then, and the rest; add all to `there`."""
    made = reuse.prints(recipe, stages)
    manifest = read_manifest(folder)
    done, shared, to_do = [], {}, []
    for stage, state, why in runner.plan(folder, recipe, manifest, None, stages)[0]:
        key = (stage.name, made[stage.name])
        if state in ("differs", "damaged"):
            raise RunError(
                f"{folder} holds a variant of another recipe: {why}.\n"
                f"Two ways on: name=OTHER begins the study anew under another name; or move {folder.parent} away."
            )
        if state == "done":
            done.append(stage.name)
        elif key in there and stage.name not in manifest.stages:
            shared[stage.name] = there[key]
        else:
            to_do.append(stage.name)
        there.setdefault(key, folder.name)
    return Planned(variant=variant, folder=folder, recipe=recipe, done=tuple(done), shared=shared, to_do=tuple(to_do))


def study_cost(asked: Study, planned: Sequence[Planned]) -> str:
    """Say what a study will do, before it does it."""
    lines = [
        (
            one.name,
            " ".join(one.to_do) or "nothing",
            ", ".join([*one.done, *(f"{stage} (of {whose})" for stage, whose in one.shared.items())]),
            one.variant.tests,
        )
        for one in planned
    ]
    to_do = sum(len(one.to_do) for one in planned)
    title = f"{asked.what}: {asked.asks} {len(planned)} runs, {to_do} stages to do"
    notes = "".join(f"\n{note}" for note in asked.notes)
    return table(title, ("run", "to do", "there already", "what it learns"), lines) + notes


def _refuse_without_key(planned: Sequence[Planned]) -> None:
    """Plans of two teachers must not stand side by side as if they were one's."""
    for one in planned:
        unkeyed = one.recipe.distill.teacher == "gemini" and not key_name(os.environ)
        if unkeyed and "distill" in one.to_do:
            raise RunError(f"{one.name} needs plans from Gemini that nobody has asked for yet: set {KEYS[1]}")


# --- doing it ---------------------------------------------------------------------------------------------------------


def _bring_back_variants(kept: Path, folder: Path) -> int:
    """Restore what a mirror has of a study; the number of files."""
    return sum(bring_back(kept, folder / manifest.parent.name) for manifest in sorted(kept.glob("*/manifest.json")))


def _take_over(one: Planned, parent: Path, stages: Sequence[Stage], say: Callable[[str], None]) -> None:
    """Copy what the run or another variant has done already."""
    with locked(RunFolder(one.folder).lock):
        others = reuse.donors(parent, apart_from=one.folder)
        taken = reuse.take(one.folder, one.recipe, others, stages, runner.versions())
    for donor in dict.fromkeys(taken.values()):
        names = ", ".join(stage for stage, whose in taken.items() if whose == donor)
        say(f"taken over from {donor.name}: {names}")


def _copy(file: Path, folder: Path, say: Callable[[str], None]) -> None:
    try:
        shutil.copyfile(file, folder / file.name)
    except OSError as error:
        say(f"warning: {file.name} cannot be copied to {folder} ({error.strerror})")


# --- what came of it --------------------------------------------------------------------------------------------------


def _found(
    asked_for: Study,
    planned: Sequence[Planned],
    failed: Mapping[str, str],
    folder: Path,
    command: str,
    say: Callable[[str], None],
) -> page.Found:
    """Put the variants side by side, with what this study's table shows besides right answers."""
    asked = planned[0].recipe
    arms = list(_arms(asked_for, planned, failed))
    runs = {arm.name: arm.runs for arm in arms}
    figures = page.trained(runs)
    remarks = [f"{run} failed, and is not in the table: {why}" for run, why in failed.items()]
    if asked_for.what == "world":
        remarks += page.probe_all(runs, asked.evaluate.limit, say)
        for arm, cells in page.knowledge(runs).items():
            figures.setdefault(arm, {}).update(cells)
    beside = compare.beside(arms, seed=asked.seed)
    return page.Found(
        study=asked_for,
        folder=folder,
        recipe=asked.name,
        command=command,
        beside=replace(beside, notes=(*asked_for.notes, *beside.notes, *remarks)),
        failed=failed,
        figures=figures,
    )


def _arms(asked_for: Study, planned: Sequence[Planned], failed: Mapping[str, str]) -> Iterator[Arm]:
    for variant in asked_for.variants:
        runs: Runs = tuple(None if one.name in failed else one.folder for one in planned if one.variant is variant)
        yield Arm(variant.name, runs, variant.routes)
