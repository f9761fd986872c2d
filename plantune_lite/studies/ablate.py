"""Run a study: variants of one recipe, each a separate run, compared in the end.

    run_study("target", RECIPE) -> Outcome(...), and runs/mine/ablate/target/ with table.md, baseline/, m1/ ...

What a variant shares with its run, or with another variant, is reused and not made again. Each variant is a run folder,
so the same command resumes whatever was cut off; a variant that fails is named, and the others continue.
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

# A variant is only measured: headroom, export and report belong to the run itself.
OF_A_VARIANT = tuple(stage for stage in STAGES if stage.name not in ("headroom", "export", "report"))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of a study, and what is left to do for it."""

    variant: Variant
    folder: Path
    recipe: Recipe
    done: tuple[str, ...]
    shared: Mapping[str, str]  # stage -> the run it comes from
    to_do: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return its folder's name."""
        return self.folder.name


def run_study(
    what: str,
    recipe: Recipe,
    *,
    seeds: int,
    to: Path | None = None,
    mirror: Path | None = None,
    command: str = "",
    stages: Sequence[Stage] = OF_A_VARIANT,
    say: Callable[[str], None],
    stream: TextIO | None = None,
) -> page.Outcome:
    """Run a study, or resume it; its tables are in RUN/ablate/WHAT."""
    parent = runner.folder_of(recipe, to)
    folder = parent / "ablate" / what
    kept = mirror and mirror.resolve() / parent.name / "ablate" / what
    planning = partial(plan_study, what, recipe, seeds=seeds, to=to, stages=stages)
    planning(say=lambda line: None)  # refuse bad settings before anything is written
    with locked(RunFolder(folder).lock):
        if mirror and kept and (count := bring_back(mirror.resolve(), parent) + _bring_back_variants(kept, folder)):
            say(f"restored {count} files from {mirror}")
        definition, planned = planning(say=say)
        _refuse_without_key(planned)
        say(study_cost(definition, planned))
        failed = {}
        for number, run in enumerate(planned, 1):
            if not (run.to_do or run.shared or mirror):
                say(f"({number} of {len(planned)}) {run.name}: done before")
                continue
            say(f"\n({number} of {len(planned)}) {run.name}: {run.variant.tests}")
            try:
                _take_over(run, parent, stages, say)
                runner.run(run.recipe, to=run.folder, mirror=kept, stages=stages, say=say, stream=stream)
            except PlantuneError as error:
                failed[run.name] = str(error)
                say(f"{run.name} failed: {error}")
        if len(failed) == len(planned):
            reasons = "\n".join(f"  {name}: {why}" for name, why in failed.items())
            raise RunError(f"every variant of the study {what} failed:\n{reasons}")
        result = _result(definition, planned, failed, folder, command, say)
        for file in page.write(result):
            if kept:
                _copy(file, kept, say)
    return result


def plan_study(
    what: str,
    recipe: Recipe,
    *,
    seeds: int,
    to: Path | None = None,
    stages: Sequence[Stage] = OF_A_VARIANT,
    say: Callable[[str], None],
) -> tuple[Study, list[Planned]]:
    """Plan what each run of a study still has to do; refuse a folder that holds another run."""
    parent = runner.folder_of(recipe, to)
    wanted = runner.with_teacher(recipe, os.environ, read_manifest(parent), say)
    definition = study(what, wanted)
    there: dict[tuple[str, str], str] = {}
    for donor in reversed(reuse.donors(parent)):
        there.update(dict.fromkeys(reuse.finished(donor), donor.name))
    planned = []
    for number, variant in product(range(seeds), definition.variants):
        if not variant.routes:
            folder = parent / "ablate" / what / (f"{variant.name}-s{number}" if number else variant.name)
            varied = override(wanted, ["evaluate.baseline=false", *variant.settings])
            varied = replace(varied, seed=wanted.seed + number)
            planned.append(_planned(variant, folder, varied, stages, there))
    return definition, planned


def _planned(
    variant: Variant, folder: Path, recipe: Recipe, stages: Sequence[Stage], there: dict[tuple[str, str], str]
) -> Planned:
    """Plan a variant: what is done, what another run has or will have by then, and the rest; add all to `there`."""
    fingerprints = reuse.prints(recipe, stages)
    manifest = read_manifest(folder)
    done, shared, to_do = [], {}, []
    for stage, state, why in runner.plan(folder, recipe, manifest, None, stages)[0]:
        key = (stage.name, fingerprints[stage.name])
        if state in ("differs", "damaged"):
            raise RunError(
                f"{folder} holds a variant of another recipe: {why}.\n"
                f"Choose: name=OTHER starts the study under another name; or move {folder.parent} away."
            )
        if state == "done":
            done.append(stage.name)
        elif key in there and stage.name not in manifest.stages:
            shared[stage.name] = there[key]
        else:
            to_do.append(stage.name)
        there.setdefault(key, folder.name)
    return Planned(variant=variant, folder=folder, recipe=recipe, done=tuple(done), shared=shared, to_do=tuple(to_do))


def study_cost(definition: Study, planned: Sequence[Planned]) -> str:
    """Say what a study will do, before it does it."""
    lines = [
        (
            run.name,
            " ".join(run.to_do) or "nothing",
            ", ".join([*run.done, *(f"{stage} (of {whose})" for stage, whose in run.shared.items())]),
            run.variant.tests,
        )
        for run in planned
    ]
    to_do = sum(len(run.to_do) for run in planned)
    title = f"{definition.what}: {definition.asks} {len(planned)} runs, {to_do} stages to do"
    notes = "".join(f"\n{note}" for note in definition.notes)
    return table(title, ("run", "to do", "there already", "what it learns"), lines) + notes


def _refuse_without_key(planned: Sequence[Planned]) -> None:
    """Refuse to mix plans of two teachers: a study compares plans of one."""
    for run in planned:
        unkeyed = run.recipe.distill.teacher == "gemini" and not key_name(os.environ)
        if unkeyed and "distill" in run.to_do:
            raise RunError(f"{run.name} needs plans from Gemini that were not made yet: set {KEYS[1]}")


# --- doing it ---------------------------------------------------------------------------------------------------------


def _bring_back_variants(kept: Path, folder: Path) -> int:
    """Restore what a mirror has of a study; return the number of files."""
    return sum(bring_back(kept, folder / manifest.parent.name) for manifest in sorted(kept.glob("*/manifest.json")))


def _take_over(run: Planned, parent: Path, stages: Sequence[Stage], say: Callable[[str], None]) -> None:
    """Copy what the run or another variant has already done."""
    with locked(RunFolder(run.folder).lock):
        others = reuse.donors(parent, apart_from=run.folder)
        taken = reuse.take(run.folder, run.recipe, others, stages, runner.versions())
    for donor in dict.fromkeys(taken.values()):
        names = ", ".join(stage for stage, whose in taken.items() if whose == donor)
        say(f"taken over from {donor.name}: {names}")


def _copy(file: Path, folder: Path, say: Callable[[str], None]) -> None:
    try:
        shutil.copyfile(file, folder / file.name)
    except OSError as error:
        say(f"warning: {file.name} cannot be copied to {folder} ({error.strerror})")


# --- results ----------------------------------------------------------------------------------------------------------


def _result(
    definition: Study,
    planned: Sequence[Planned],
    failed: Mapping[str, str],
    folder: Path,
    command: str,
    say: Callable[[str], None],
) -> page.Outcome:
    """Put the variants side by side, with the columns that this study's table has besides right answers."""
    recipe = planned[0].recipe
    arms = list(_arms(definition, planned, failed))
    runs = {arm.name: arm.runs for arm in arms}
    figures = page.trained(runs)
    remarks = [f"{run} failed, and is not in the table: {why}" for run, why in failed.items()]
    if definition.what == "world":
        remarks += page.probe_all(runs, recipe.evaluate.limit, say)
        for arm, cells in page.knowledge(runs).items():
            figures.setdefault(arm, {}).update(cells)
    beside = compare.beside(arms, seed=recipe.seed)
    return page.Outcome(
        study=definition,
        folder=folder,
        recipe=recipe.name,
        command=command,
        beside=replace(beside, notes=(*definition.notes, *beside.notes, *remarks)),
        failed=failed,
        figures=figures,
    )


def _arms(definition: Study, planned: Sequence[Planned], failed: Mapping[str, str]) -> Iterator[Arm]:
    for variant in definition.variants:
        runs: Runs = tuple(None if run.name in failed else run.folder for run in planned if run.variant is variant)
        yield Arm(variant.name, runs, variant.routes)
