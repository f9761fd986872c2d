"""Run a recipe's stages in order, each in its own process; a finished stage is skipped, an interrupted one resumes.

Input: a recipe. Output: a run folder, and a copy of its small files in the mirror.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

from plantune_lite import files
from plantune_lite._version import __version__
from plantune_lite.estimate import devices, shapes
from plantune_lite.export import llama_cpp
from plantune_lite.files import write_whole
from plantune_lite.pipeline.mirror import Mirror, bring_back
from plantune_lite.pipeline.process import processes_asked, run_stage
from plantune_lite.pipeline.stages import STAGES, Stage, active_stages, readers_of, stale_after, with_what_is_moved
from plantune_lite.pipeline.state import State, fingerprint, inputs_of, states
from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.load import to_json
from plantune_lite.recipe.schema import Recipe
from plantune_lite.runs.folder import RunFolder, is_empty, last_written, locked, move_away, outputs_of, place_in_old
from plantune_lite.runs.manifest import Entry, Manifest, read_manifest, write_manifest
from plantune_lite.student import presets, weights
from plantune_lite.teacher.gemini import KEYS, key_name
from plantune_lite.terminal import duration, printable
from plantune_lite.train import trl_args
from plantune_lite.types import RunError


def run(
    recipe: Recipe,
    *,
    to: Path | None = None,
    mirror: Path | None = None,
    again: str | None = None,
    only: Sequence[str] | None = None,
    stages: Sequence[Stage] = STAGES,
    say: Callable[[str], None] = print,
    stream: TextIO | None = None,
) -> Path:
    """Start or resume a run and return its folder. `only` names the stages to do, given those before.

    `stream` gets what the stages print; None is standard output.
    """
    folder = folder_of(recipe, to)
    mirror = mirror and files.as_path(mirror).resolve()

    def tell(line: str) -> None:
        say(printable(line))

    if mirror is None and "COLAB_RELEASE_TAG" in os.environ:
        tell("Colab deletes this machine's files: --mirror /content/drive/MyDrive/plantune keeps them on your Drive")
    with ExitStack() as stack:
        stack.enter_context(locked(RunFolder(folder).lock))
        if mirror is not None and (count := bring_back(mirror, folder)):
            tell(f"restored {count} files of {folder} from {mirror}")
        manifest = read_manifest(folder)
        _settle(folder, manifest, stages)
        wanted = with_teacher(recipe, os.environ, manifest, tell, again)
        planned, redo = plan(folder, wanted, manifest, again, stages)
        active = [stage for stage, _, _ in planned]
        only = with_what_is_moved(again, only, active) if only and again else only
        _refuse(folder, planned, only)
        _refuse_what_training_would(wanted, planned, only, tell)
        if again is not None and not redo:
            outputs = ", ".join(next(stage.outputs for stage in active if stage.name == again))
            tell(f"--again {again} was stopped and resumes (remove {outputs} from {folder} to start over)")
        if redo:
            manifest.again = again  # until it is done: rerunning the command resumes it
        _put_away(folder, manifest, stages, redo, tell)
        write_whole(RunFolder(folder).recipe, to_json(wanted))
        manifest.name, manifest.resumed = wanted.name, time.time()
        manifest.versions, manifest.device = versions(), _device()
        work = _Run(folder, wanted, manifest, active, stream, tell)
        work.save()  # a variant may have reused all of its stages
        failed = None
        if mirror is not None:
            stack.callback(Mirror(mirror, folder, tell).close)
        for number, (stage, state, _) in enumerate(planned, 1):
            label = f"[{number}/{len(active)}] {stage.name:<9}"
            if only is not None and stage.name not in only:
                continue
            if state == "done":
                tell(f"{label} done before: {manifest.line(stage.name)}")
                continue
            _make_room(work, stage, state, stages)
            tell(f"{label} {'resumes' if stage.name in manifest.stages else 'starts'}")
            try:
                _do(stage, work)
            except RunError as error:
                if not stage.may_fail:
                    raise
                failed = error
                tell(f"{label} failed: {error}")
            else:
                took = duration(manifest.stages[stage.name].seconds)
                tell(f"{label} done in {took}: {manifest.line(stage.name)}")
        if failed is not None:
            raise failed
        if manifest.again and (only is None or manifest.again in only):
            manifest.again = None
            write_manifest(folder, manifest)
    return folder


def folder_of(recipe: Recipe, to: Path | None) -> Path:
    """Return the run folder; one without a name, such as `.`, is resolved: the ledger is next to it."""
    folder = files.as_path(to or files.runs_folder() / recipe.name)
    return folder if folder.name not in ("", "..") else folder.resolve()


def plan(
    folder: Path, wanted: Recipe, manifest: Manifest, again: str | None, stages: Sequence[Stage] = STAGES
) -> tuple[list[tuple[Stage, State, str]], list[str]]:
    """List what a run would do with each stage, and which stages `again` reruns."""
    active = active_stages(wanted, stages)
    if again is not None and again not in {stage.name for stage in active}:
        raise RunError(f"--again {again}: this recipe has no such stage{nearest(again, [s.name for s in active])}")
    known = _as_far_as_limits_go(wanted, manifest)
    if again is not None and again == manifest.again:  # an interrupted --again: its results so far count
        planned = list(states(folder, wanted, known, active))
        begun = {stage.name: state for stage, state, _ in planned}
        if begun[again] in ("resumes", "done") and "differs" not in begun.values():
            return planned, []
    # Over all stages, not only this recipe's: one that it leaves out must not reappear with stale inputs.
    redo = [again, *stale_after(again, stages)] if again is not None else []
    left = next((stage for stage in active if stage.name not in redo and not is_empty(folder, stage.outputs)), None)
    if left and not RunFolder(folder).manifest.is_file():
        raise RunError(
            f"{folder} has lost its manifest.json, which recorded how its {left.name} was made: --mirror FOLDER "
            f"restores it if the run has one; --again {active[0].name} moves all results to {folder / 'old'} and "
            "starts over; name=OTHER starts another run"
        )
    return list(states(folder, wanted, known, active, redo)), redo


def _as_far_as_limits_go(wanted: Recipe, manifest: Manifest) -> Manifest:
    """Count a distillation that distill.max_usd or max_hours ended as done, unless the limit is higher now."""
    summary = manifest.summaries.distill
    limits = ((summary.max_usd, wanted.distill.max_usd), (summary.max_hours, wanted.max_hours))
    if not any(reached is not None and limit is not None and limit <= reached for reached, limit in limits):
        return manifest
    whole = replace(manifest.stages["distill"], summary=replace(summary, partial=False))
    return replace(manifest, stages={**manifest.stages, "distill": whole})


def with_teacher(
    recipe: Recipe,
    environ: Mapping[str, str],
    manifest: Manifest,
    say: Callable[[str], None],
    again: str | None = None,
) -> Recipe:
    """Return the recipe as it can be run: without a key the student is its own teacher, unless Gemini has started."""
    if recipe.distill.teacher != "gemini" or key_name(environ):
        return recipe
    begun = None if again in ("problems", "distill") else manifest.stages.get("distill")
    if begun and begun.inputs.get("distill.teacher") == "gemini":
        if begun.status == "done":
            return recipe  # its plans are done, no key is needed
        raise RunError(f"distillation with Gemini is incomplete: set {KEYS[1]} and rerun the command to resume")
    say(f"no {' or '.join(KEYS)} is set: distill.teacher='self', the untuned student plans for itself")
    return replace(recipe, distill=replace(recipe.distill, teacher="self"))


def _refuse(folder: Path, planned: Sequence[tuple[Stage, State, str]], only: Sequence[str] | None) -> None:
    """Raise where the folder holds another run, a damaged one or lacks what a verb needs: nothing is overwritten."""
    active = [stage for stage, _, _ in planned]
    for stage, state, why in planned:
        stale = ", ".join([stage.name, *stale_after(stage.name, active)])
        if state == "damaged":
            raise RunError(
                f"{folder / why}: it was changed or damaged since. --mirror FOLDER restores it if the run has one; "
                f"otherwise --again {stage.name} moves {stale} to {folder / 'old'} and reruns them"
            )
        if state == "differs":
            raise RunError(
                f"{folder} was made with other settings: {why}. Choose: {folder} as the RECIPE, without settings, "
                f"resumes it unchanged; name=OTHER (or another --to) starts another run; --again {stage.name} moves "
                f"the results of {stale} to {folder / 'old'} and reruns them"
            )
    for stage, state, _ in planned:
        if only and stage.name not in only and state != "done" and set(only) & set(readers_of(stage.name, active)):
            raise RunError(f"{folder} has no finished {stage.name} yet: `plantune run` or that stage's verb makes it")


def _refuse_what_training_would(
    wanted: Recipe,
    planned: Sequence[tuple[Stage, State, str]],
    only: Sequence[str] | None,
    say: Callable[[str], None],
) -> None:
    """Raise before anything is spent where training would fail later, or take days without a GPU."""
    trainings = [stage.name for stage, state, _ in planned if stage.trains and stage.work is None and state != "done"]
    if not trainings:
        return
    # Checked for distillation too: its plans are paid for, and trained on later.
    for name in sorted({"sft", "grpo"}.intersection(trainings)):
        trl_args.refuse_extra(getattr(wanted, name), name)
    preset = presets.find(wanted.student.model)
    if preset is not None:
        shapes.of(preset.name).adapter(wanted.student.lora_rank, wanted.student.lora_targets)  # checks layer names
    if only is not None and set(only).isdisjoint(trainings):
        return
    if preset is not None and preset.wants_gpu and (why := devices.why_no_gpu()):
        raise RunError(
            f"{preset.repo} needs a GPU, and {why}. Nothing was spent. What runs here: plantune distill with the "
            "same recipe and settings (a teacher's plans, to train on elsewhere), or plantune run smollm2_135m"
        )
    architecture = weights.check_access(wanted.student, preset)
    if architecture and set(wanted.export.formats) - {"adapter", "merged"}:
        with suppress(llama_cpp.GGUFError):  # no network: export reports it, if still so
            llama_cpp.scripts(say)
        llama_cpp.refuse_unknown(architecture)


def _put_away(
    folder: Path, manifest: Manifest, stages: Sequence[Stage], redo: Sequence[str], say: Callable[[str], None]
) -> None:
    """Move the output of stages to be rerun to old/."""
    old = place_in_old(folder)
    for stage in stages:
        if stage.name in redo:
            if move_away(folder, stage.outputs, old):
                say(f"moved {stage.name} to {old}")
            manifest.stages.pop(stage.name, None)
            write_manifest(folder, manifest)  # a kill here leaves stages to do, never an entry without its output


def _make_room(run: "_Run", stage: Stage, state: State, stages: Sequence[Stage]) -> None:
    """Move away old output before a stage starts or resumes.

    Mark stages made from its partial output to be rerun, even after a kill: a training must not resume from a
    checkpoint that learned from fewer plans. A model's probe is moved away with the model.
    """
    entries = run.manifest.stages
    if state == "to do":
        entries.pop(stage.name, None)
    elif entries[stage.name].anew:
        _put_away(run.folder, run.manifest, [stage], [stage.name], run.say)
    if stage.trains:
        move_away(run.folder, ["probe"], place_in_old(run.folder))
    entry = entries.get(stage.name)
    if entry and entry.summary and entry.summary.partial:
        for name in set(stale_after(stage.name, stages)) & set(entries):
            entries[name].status, entries[name].anew = "stopped", True


# --- doing a stage ----------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """A run in progress."""

    folder: Path
    recipe: Recipe
    manifest: Manifest
    active: Sequence[Stage]
    stream: TextIO | None
    say: Callable[[str], None]

    def save(self) -> None:
        """Write the manifest, with the final model's stage and the total cost."""
        trained = [stage for stage in self.active if stage.trains and self.manifest.is_done(stage.name)]
        self.manifest.final = trained[-1].home if trained else None
        spent = (entry.summary.usd for entry in self.manifest.stages.values() if entry.summary)
        self.manifest.usd = round(sum(spent), 6)
        write_manifest(self.folder, self.manifest)


def _do(stage: Stage, run: _Run) -> None:
    folder, wanted, entries = run.folder, run.recipe, run.manifest.stages
    if stage.name not in entries:
        inputs = inputs_of(wanted, stage)
        earlier = {active.name: entries[active.name].fingerprint for active in run.active if active.name in entries}
        entries[stage.name] = Entry(fingerprint=fingerprint(stage, inputs, earlier), inputs=inputs)
    entry = entries[stage.name]
    entry.status, entry.began = "running", time.time()
    run.save()
    job = {"home": stage.home, "hours_left": _hours_left(wanted, run.manifest)}
    write_whole(RunFolder(folder).job, json.dumps(job, ensure_ascii=False))
    began = time.monotonic()
    try:
        processes = processes_asked() if stage.shared else 1
        entry.summary = run_stage(folder, stage.name, work=stage.work, processes=processes, stream=run.stream)
        entry.status, entry.outputs = "done", outputs_of(folder, stage.outputs)
    except BaseException as error:
        entry.status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        raise
    finally:
        entry.seconds = round(entry.seconds + time.monotonic() - began, 3)
        run.save()


def _settle(folder: Path, manifest: Manifest, stages: Sequence[Stage]) -> None:
    """Count a killed stage's time against max_hours, before another one writes to log.txt."""
    for stage in stages:
        entry = manifest.stages.get(stage.name)
        if entry and entry.status == "running":
            ended = last_written(folder, (*stage.outputs, "log.txt", "metrics.jsonl"))  # close to the kill
            entry.seconds = round(entry.seconds + max(0.0, ended - (entry.began or ended)), 3)
            entry.status = "stopped"


def _hours_left(wanted: Recipe, manifest: Manifest) -> float | None:
    """Return the remaining part of max_hours."""
    if wanted.max_hours is None:
        return None
    spent = sum(entry.seconds for entry in manifest.stages.values()) / 3600
    return max(0.0, wanted.max_hours - spent)


# --- the machine, for the manifest ------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Return the versions that affect a run's results."""
    installed = {"python": sys.version.split()[0], "plantune-lite": __version__}
    for name in ("torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth", "google-genai", "math-verify"):
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def _device() -> str:
    return ", ".join(
        [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores", *devices.nvidia_smi("name")]
    )
