"""run(recipe): the stages in their order, each in its own process; a done one is skipped, a cut-off one goes on.

What comes in: a recipe. What goes out: a run folder. This is the only file that knows the order of the stages, what
each reads of the recipe, and so when a stage in a folder is still the stage that the recipe asks for.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from plantune_lite import __version__, functions, runs
from plantune_lite.mirror import INTERVAL_SECONDS, Mirror, restore
from plantune_lite.process import run_stage
from plantune_lite.recipe import Recipe, is_pace, leaves
from plantune_lite.recipe_files import to_json
from plantune_lite.records import NotBuiltError, RunError, write_whole
from plantune_lite.terminal import duration
from plantune_lite.typed import nearest


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the order."""

    name: str
    reads: tuple[str, ...]  # parts or fields of the recipe that decide what it makes
    after: tuple[str, ...] = ()  # stages whose output decides what it makes
    also: tuple[str, ...] = ()  # stages whose output it reads without being another stage when that changes
    outputs: tuple[str, ...]  # under the run folder
    home: str = ""  # its folder; "" = the run folder itself
    part: str | None = None  # an optional part: None in the recipe skips the stage
    trains: bool = False  # leaves an adapter: the last one of these is the run's final model
    format: int = 1  # raised when the same inputs would give other files
    work: str | None = None  # another function than stage.py's: "module_or_path.py:function"


STAGES = (
    Stage(name="problems", reads=("seed", "problems"), home="problems", outputs=("problems",)),
    Stage(
        name="suites",
        reads=("seed", "evaluate.suites", "evaluate.limit"),
        after=("problems",),
        home="suites",
        outputs=("suites",),
    ),
    Stage(
        name="distill",
        reads=("seed", "distill", "student.model", "student.revision", "student.bits"),
        after=("problems",),
        outputs=("trajectories.jsonl", "rejected.jsonl"),
    ),
    # A suite added later does not make this another corpus: evaluation says which of its problems the corpus overlaps.
    Stage(
        name="corpus",
        reads=("seed", "corpus", "sft.target", "sft.solutions"),
        after=("distill",),
        also=("problems", "suites"),
        home="corpus",
        outputs=("corpus",),
    ),
    Stage(
        name="sft",
        reads=("seed", "student", "sft"),
        after=("corpus",),
        home="sft",
        outputs=("sft",),
        part="sft",
        trains=True,
    ),
    Stage(
        name="cpl",
        reads=("seed", "student", "cpl"),
        after=("problems", "corpus", "sft"),
        home="cpl",
        outputs=("cpl",),
        part="cpl",
        trains=True,
    ),
    Stage(
        name="grpo",
        reads=("seed", "student", "grpo"),
        after=("corpus", "sft", "cpl"),
        home="grpo",
        outputs=("grpo",),
        part="grpo",
        trains=True,
    ),
    Stage(
        name="evaluate",
        reads=("seed", "student", "evaluate"),
        after=("suites", "sft", "cpl", "grpo"),
        also=("problems", "corpus"),
        home="eval",
        outputs=("eval",),
    ),
    Stage(
        name="export",
        reads=("student", "export"),
        after=("sft", "cpl", "grpo"),
        also=("evaluate",),
        outputs=("merged", "gguf"),
    ),
    Stage(name="report", reads=("name",), after=("distill", "corpus", "evaluate", "export"), outputs=("report.html",)),
)


def run(
    asked: Recipe,
    *,
    to: Path | None = None,
    mirror: Path | None = None,
    again: str | None = None,
    only: Sequence[str] | None = None,
    stages: Sequence[Stage] = STAGES,
    say: Callable[[str], None] = print,
    mirror_seconds: float = INTERVAL_SECONDS,
) -> Path:
    """Bring a run to its end, or go on with it; its folder. `only` names the stages to do, given those before."""
    wanted = with_teacher(asked, os.environ, say)
    folder = to or runs.runs_folder() / wanted.name
    if mirror is None and "COLAB_RELEASE_TAG" in os.environ:
        say("Colab forgets this machine's files; --mirror /content/drive/MyDrive/plantune keeps this run on your Drive")
    with ExitStack() as stack:
        stack.enter_context(runs.locked(folder / ".lock"))
        if mirror is not None and (count := restore(mirror, folder)):
            say(f"restored {count} files of {folder} from {mirror}")
        manifest = runs.read_manifest(folder)
        active = active_stages(wanted, stages)
        if again is not None:
            _put_away(folder, manifest, active, again, say)
        found = list(states(folder, wanted, manifest, active))
        _refuse_other(folder, found, active)
        write_whole(folder / "recipe.json", to_json(wanted))
        manifest.update(name=wanted.name, seed=wanted.seed, versions=versions(), device=_device())
        runs.write_manifest(folder, manifest)
        copies = None
        if mirror is not None:
            copies = Mirror(mirror, folder, say, interval_seconds=mirror_seconds)
            copies.start()
            stack.callback(copies.close)
        for number, (stage, state, _) in enumerate(found, 1):
            label = f"[{number}/{len(active)}] {stage.name:<9}"
            if only is not None and stage.name not in only:
                if state != "done" and set(only) & set(_dependants(stage.name, active)):
                    raise RunError(
                        f"{folder} has no finished {stage.name} yet; `plantune run` or that stage's verb makes it"
                    )
            elif state == "done":
                say(f"{label} done before: {manifest['stages'][stage.name]['summary'].get('line', '')}")
            else:
                if state == "to do":
                    manifest["stages"].pop(stage.name, None)
                say(f"{label} {'goes on' if state == 'goes on' else 'starts'}")
                _do(folder, wanted, manifest, stage, active, mirror)
                entry = manifest["stages"][stage.name]
                say(f"{label} done in {duration(entry['seconds'])}: {entry['summary'].get('line', '')}")
            if copies is not None:
                copies.sync()
    return folder


def active_stages(wanted: Recipe, stages: Sequence[Stage] = STAGES) -> list[Stage]:
    """The stages of this recipe, in order, with the ones it leaves out gone from what others come after."""
    names = {stage.name for stage in stages if stage.part is None or getattr(wanted, stage.part) is not None}
    return [
        replace(
            stage,
            after=tuple(name for name in stage.after if name in names),
            also=tuple(name for name in stage.also if name in names),
        )
        for stage in stages
        if stage.name in names
    ]


def with_teacher(asked: Recipe, environ: Mapping[str, str], say: Callable[[str], None]) -> Recipe:
    """The recipe as it can be run: without a key the student is its own teacher."""
    keys = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
    if asked.distill.teacher != "gemini" or any(environ.get(key) for key in keys):
        return asked
    say("no GOOGLE_API_KEY or GEMINI_API_KEY is set: distill.teacher='self', the untuned student plans for itself")
    return replace(asked, distill=replace(asked.distill, teacher="self"))


# --- fingerprints: is a stage in the folder the one that is asked for? -----------------------------------------------


def inputs_of(wanted: Recipe, stage: Stage) -> dict[str, Any]:
    """Every field the stage reads, by its dotted name; files and functions by their content too."""
    read = {}
    for name, value in leaves(wanted):
        if is_pace(name) or not any(name == entry or name.startswith(entry + ".") for entry in stage.reads):
            continue
        read[name] = list(value) if isinstance(value, tuple) else value
        for text in value if isinstance(value, tuple) else str(value).split("+"):
            if content := _content(name, str(text)):
                read[f"{name}{_CONTENT}{text})"] = content
    return read


def _content(name: str, text: str) -> str | None:
    if name in ("problems.source", "grpo.rewards") and functions.is_reference(text):
        return functions.source_hash(text)
    if name in ("problems.source", "problems.path") and Path(text).is_file():
        return hashlib.sha256(Path(text).read_bytes()).hexdigest()
    return None


def fingerprint(stage: Stage, inputs: Mapping[str, Any], earlier: Mapping[str, str]) -> str:
    """What makes a stage this stage: its inputs, the stages it comes after, its format."""
    after = {name: earlier[name] for name in stage.after}
    text = json.dumps({"format": stage.format, "inputs": inputs, "after": after}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


State = Literal["to do", "goes on", "done", "differs"]


def states(
    folder: Path, wanted: Recipe, manifest: dict[str, Any], active: Sequence[Stage]
) -> Iterator[tuple[Stage, State, str]]:
    """What a run would do with each stage, and for one that differs, why."""
    expected: dict[str, str] = {}
    for stage in active:
        entry = manifest["stages"].get(stage.name)
        inputs = inputs_of(wanted, stage)
        if entry is not None:  # a file that is gone meanwhile is still the file that was read
            for name in entry["inputs"]:
                if _CONTENT in name and name.partition(_CONTENT)[0] in inputs:
                    inputs.setdefault(name, entry["inputs"][name])
        expected[stage.name] = fingerprint(stage, inputs, expected)
        if entry is None or (entry["status"] != "done" and runs.is_empty(folder, stage.outputs)):
            yield stage, "to do", ""
        elif entry["fingerprint"] != expected[stage.name]:
            yield stage, "differs", _difference(stage, entry, inputs)
        elif entry["status"] != "done":
            yield stage, "goes on", ""
        else:
            missing, different = runs.changed_outputs(folder, entry["outputs"])
            if different:
                yield stage, "differs", f"{different[0]} is not what {stage.name} wrote"
            else:  # merged/ and gguf/ are in no mirror: what is missing is made again
                yield stage, "goes on" if missing else "done", ""


_CONTENT = " (content of "


def _difference(stage: Stage, entry: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """The first thing that makes a stage another one, in words."""
    recorded = entry["inputs"]
    for name in [*inputs, *(name for name in recorded if name not in inputs)]:
        was, is_now = recorded.get(name, "absent"), inputs.get(name, "absent")
        if was != is_now:
            return f"{name} has changed" if _CONTENT in name else f"{name} was {was!r} and is now {is_now!r}"
    if entry["format"] != stage.format:
        return "an older version made it in another format"
    if entry["after"] != list(stage.after):
        return f"it came after {', '.join(entry['after'])} and would now come after {', '.join(stage.after)}"
    return f"{', '.join(stage.after)} before it is another"


def _refuse_other(folder: Path, found: Sequence[tuple[Stage, State, str]], active: Sequence[Stage]) -> None:
    """Stop where the folder holds another run than the one asked for: nothing is overwritten."""
    for stage, state, why in found:
        if state == "differs":
            stale = ", ".join([stage.name, *_dependants(stage.name, active)])
            raise RunError(
                f"{folder} holds another run: {why}, so {stage.name} would not be the same.\n"
                f"Two ways on: name=OTHER starts a run of its own beside it; "
                f"--again {stage.name} moves what there is of {stale} to {folder / 'old'} and makes it anew."
            )


def _dependants(name: str, active: Sequence[Stage]) -> list[str]:
    """The stages that read what a stage makes, directly or not."""
    found = [name]
    for stage in active:
        if any(before in found for before in (*stage.after, *stage.also)):
            found.append(stage.name)
    return found[1:]


def _put_away(
    folder: Path, manifest: dict[str, Any], active: Sequence[Stage], again: str, say: Callable[[str], None]
) -> None:
    """Move a stage's output, and what was made from it, to old/."""
    by_name = {stage.name: stage for stage in active}
    if again not in by_name:
        raise RunError(f"--again {again}: this recipe has no such stage{nearest(again, by_name)}")
    old = folder / "old" / time.strftime("%Y%m%d-%H%M%S")
    for name in (again, *_dependants(again, active)):
        if manifest["stages"].pop(name, None) is None:
            continue
        for output in by_name[name].outputs:
            if (folder / output).exists():
                (old / output).parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / output, old / output)
        runs.write_manifest(folder, manifest)  # a kill here leaves stages that are to be done, never half a promise
        say(f"moved {name} to {old}")


# --- doing a stage ----------------------------------------------------------------------------------------------------


def _do(
    folder: Path,
    wanted: Recipe,
    manifest: dict[str, Any],
    stage: Stage,
    active: Sequence[Stage],
    mirror: Path | None,
) -> None:
    entries = manifest["stages"]
    if stage.name not in entries:
        inputs = inputs_of(wanted, stage)
        earlier = {name: entries[name]["fingerprint"] for name in stage.after}
        entries[stage.name] = {
            "fingerprint": fingerprint(stage, inputs, earlier),
            "inputs": inputs,
            "after": list(stage.after),
            "format": stage.format,
            "started": runs.now(),
            "seconds": 0.0,
        }
    entry = entries[stage.name]
    entry["status"] = "running"
    runs.write_manifest(folder, manifest)
    job = {
        "stage": stage.name,
        "home": stage.home,
        "earlier": {name: other["summary"] for name, other in entries.items() if "summary" in other},
        "hours_left": _hours_left(wanted, manifest),
    }
    write_whole(folder / ".stage" / "job.json", json.dumps(job, ensure_ascii=False))
    began = time.monotonic()
    try:
        summary = run_stage(folder, stage.name, work=stage.work, mirror=mirror)
        entry.update(status="done", ended=runs.now(), summary=summary, outputs=runs.outputs_of(folder, stage.outputs))
    except NotBuiltError:
        del entries[stage.name]
        raise
    except BaseException as error:
        entry["status"] = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        raise
    finally:
        entry["seconds"] = round(entry["seconds"] + time.monotonic() - began, 3)
        _set_final(manifest, active)
        runs.write_manifest(folder, manifest)


def _set_final(manifest: dict[str, Any], active: Sequence[Stage]) -> None:
    entries = manifest["stages"]
    trained = [stage.home for stage in active if stage.trains and entries.get(stage.name, {}).get("status") == "done"]
    manifest["final"] = trained[-1] if trained else None
    manifest["usd"] = round(sum(entry.get("summary", {}).get("usd", 0.0) for entry in entries.values()), 6)


def _hours_left(wanted: Recipe, manifest: dict[str, Any]) -> float | None:
    if wanted.max_hours is None:
        return None
    spent = sum(entry.get("seconds", 0.0) for entry in manifest["stages"].values()) / 3600
    return max(0.0, wanted.max_hours - spent)


# --- what the manifest says of the machine ----------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """The versions that decide what a run makes."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0], "plantune-lite": __version__}
    for name in (
        "torch",
        "transformers",
        "trl",
        "peft",
        "bitsandbytes",
        "unsloth",
        "vllm",
        "datasets",
        "google-genai",
        "math-verify",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _device() -> str:
    import platform

    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
