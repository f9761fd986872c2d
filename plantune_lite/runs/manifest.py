"""Read and write a run's manifest: which stages are done, what each was made from, and what each reports.

    manifest = read_manifest(Path("runs/mine"))
    manifest.is_done("sft"), manifest.line("sft") -> True, "60 steps on 251 rows, loss 1.94 to 0.31"
    manifest.summaries.sft.steps, manifest.summaries.grpo.asks_for_plans -> 60, False

manifest.json: {"format": 1, "name": ..., "versions": {...}, "device": ..., "final": "sft", "stages": {"sft": {
"fingerprint": ..., "status": "done", "seconds": ..., "summary": {...}, "outputs": {...}}}}

Fields at their defaults are not written, and fields that this version does not know are ignored: a run made by another
version still loads.
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from plantune_lite.files import default_of, fits, read_object, type_hints, write_whole
from plantune_lite.runs.folder import changed_outputs
from plantune_lite.types import PlantuneError, RunError

FORMAT = 1
Status = Literal["running", "done", "failed", "stopped"]


def now() -> str:
    """Return the time as a manifest has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass(kw_only=True)
class _Row:
    """A record that is one object of the manifest."""

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Self:
        """Return the record that `to_row` wrote, in any version."""
        known = type_hints(cls)
        kept = {name: value for name, value in row.items() if name in known}
        if wrong := [name for name in kept if not fits(kept[name], known[name])]:
            raise ValueError(f"{wrong[0]} is {kept[wrong[0]]!r:.40}")
        return cls(**kept)

    def to_row(self) -> dict[str, Any]:
        """Return the record as JSON."""
        values = ((f, getattr(self, f.name)) for f in fields(self))
        return {f.name: value for f, value in values if value != default_of(f)}


# --- summaries of stages ----------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Summary(_Row):
    """Fields of every stage's summary."""

    line: str = ""  # for a person
    usd: float = 0.0  # what it cost
    partial: bool = False  # max_hours or a budget ended it early

    @property
    def cut_short(self) -> bool:
        """Tell whether another run may get further, with more hours or money."""
        return self.partial


@dataclass(kw_only=True)
class ProblemsSummary(Summary):
    """Problems to learn from, and those held out."""

    origin: dict[str, Any] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)  # of data sets on the Hub


@dataclass(kw_only=True)
class SuitesSummary(Summary):
    """Problems to test on."""

    revisions: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class HeadroomSummary(Summary):
    """Problems that the untuned student solves before anything is spent."""

    looked: bool = True  # False: no model could be asked on this machine


@dataclass(kw_only=True)
class DistillSummary(Summary):
    """Output of the teacher, and what asking it took."""

    problems: int = 0
    problems_done: int = 0
    problems_kept: int = 0
    max_usd: float | None = None  # the budget that ended it
    max_hours: float | None = None  # the time of the whole run, of which its share ended it
    out_of_time: bool = False
    usd_unanswered: float = 0.0  # of usd: reserved for calls without a reply, and perhaps never billed


@dataclass(kw_only=True)
class CorpusSummary(Summary):
    """Training rows."""

    train: int = 0


@dataclass(kw_only=True)
class TrainingSummary(Summary):
    """Fields of every training's summary."""

    steps: int = 0
    planned_steps: int = 0
    base: dict[str, Any] = field(default_factory=dict)  # where the weights came from: student/weights.py

    @property
    def revision(self) -> str | None:
        """Return the commit of the base that was trained on."""
        return self.base.get("revision")

    @property
    def cut_short(self) -> bool:
        return self.partial or self.steps < self.planned_steps


@dataclass(kw_only=True)
class SFTSummary(TrainingSummary):
    """A supervised training."""

    trained_tokens: int | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    problems: int = 0  # a baseline's: those that have a solution ...
    of: int = 0  # ... of those that the tuned model learned from
    sft_steps: int = 0  # a baseline's: the steps it should have had


@dataclass(kw_only=True)
class GRPOSummary(TrainingSummary):
    """A GRPO training."""

    rewards: dict[str, list[float]] = field(default_factory=dict)  # each reward at the beginning and at the end
    asks_for_plans: bool = False  # whether its prompts asked for a plan


@dataclass(kw_only=True)
class EvaluateSummary(Summary):
    """Results of each model."""

    arm: str | None = None  # what the run's model is called among its answers


@dataclass(kw_only=True)
class ExportSummary(Summary):
    """Merged model and GGUF files."""

    verified: bool | None = None  # None: the merged model was not compared with its adapter
    agreement: str | None = None  # how far it agrees with its adapter, in words
    gguf: dict[str, Any] = field(default_factory=dict)  # file -> what ran it, and how well it agreed


@dataclass(kw_only=True)
class Summaries:
    """Summaries of a run's stages; an empty one for a stage that has none."""

    problems: ProblemsSummary = field(default_factory=ProblemsSummary)
    suites: SuitesSummary = field(default_factory=SuitesSummary)
    headroom: HeadroomSummary = field(default_factory=HeadroomSummary)
    distill: DistillSummary = field(default_factory=DistillSummary)
    corpus: CorpusSummary = field(default_factory=CorpusSummary)
    sft: SFTSummary = field(default_factory=SFTSummary)
    baseline: SFTSummary = field(default_factory=SFTSummary)
    cpl: TrainingSummary = field(default_factory=TrainingSummary)
    grpo: GRPOSummary = field(default_factory=GRPOSummary)
    evaluate: EvaluateSummary = field(default_factory=EvaluateSummary)
    export: ExportSummary = field(default_factory=ExportSummary)
    report: Summary = field(default_factory=Summary)
    made: frozenset[str] = frozenset()  # the stages that have one

    def training(self, stage: str | None) -> TrainingSummary:
        """Return a training's summary by the name of its stage; an empty one if there is none."""
        return getattr(self, stage) if stage in self.made else TrainingSummary()


_KINDS: dict[str, type[Summary]] = {f.name: f.type for f in fields(Summaries) if f.name != "made"}  # type: ignore[misc]


def read_summary(stage: str, row: Mapping[str, Any]) -> Summary:
    """Read a stage's summary."""
    return _KINDS.get(stage, Summary).read(row)


# --- the manifest -----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Entry(_Row):
    """One stage of a run, from its beginning on."""

    fingerprint: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)  # fields of the recipe, and hashes of files and functions
    status: Status | None = None
    began: float | None = None  # when it was last started, in seconds since 1970
    seconds: float = 0.0
    anew: bool = False  # made from a partial input: moved to old/ when the stage runs again
    taken_from: str | None = None  # the run that made it
    summary: Summary | None = None
    outputs: dict[str, str | int] = field(default_factory=dict)  # file -> sha256, preceded by the size if large

    def to_row(self) -> dict[str, Any]:
        row = super().to_row()
        return row if self.summary is None else {**row, "summary": self.summary.to_row()}


@dataclass(kw_only=True)
class Manifest(_Row):
    """State of a run, as its folder records it."""

    format: int = 0  # always written: the default is not a valid format
    name: str = ""
    id: str | None = None  # the same on every machine that the run is copied to
    created: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    final: str | None = None  # the folder of the adapter that is the run's model
    usd: float = 0.0  # what all stages have cost
    resumed: float = 0.0  # when the run was last started: of two copies the later one is ahead
    again: str | None = None  # the stage that is being redone; None when it is done
    stages: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def new(cls, name: str) -> Self:
        """Return the manifest of a new run."""
        return cls(format=FORMAT, name=name, id=uuid.uuid4().hex, created=now())

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Self:
        entries = {}
        for name, of_stage in row["stages"].items():
            summary = of_stage.get("summary")
            entries[name] = Entry.read({**of_stage, "summary": None})
            entries[name].summary = read_summary(name, summary) if summary is not None else None
        return super().read({**row, "stages": entries})

    def to_row(self) -> dict[str, Any]:
        return {**super().to_row(), "stages": {name: entry.to_row() for name, entry in self.stages.items()}}

    @property
    def summaries(self) -> Summaries:
        """Return the summaries of the stages."""
        done: dict[str, Any] = {name: entry.summary for name, entry in self.stages.items() if entry.summary is not None}
        return Summaries(**{name: done[name] for name in done if name in _KINDS}, made=frozenset(done))

    def line(self, stage: str) -> str:
        """Return a stage's summary line; empty before it is done."""
        entry = self.stages.get(stage)
        return entry.summary.line if entry and entry.summary else ""

    def is_done(self, stage: str) -> bool:
        """Tell whether a stage is done."""
        return stage in self.stages and self.stages[stage].status == "done"


def read_manifest(run: Path) -> Manifest:
    """Read the manifest of a run folder; a new one where there is none."""
    path = run / "manifest.json"
    try:
        row = read_object(path)
        if row.get("format") != FORMAT:
            raise ValueError("of another format")
        return Manifest.read(row)
    except FileNotFoundError:
        return Manifest.new(run.name)
    except (PlantuneError, AttributeError, KeyError, TypeError, ValueError):
        raise RunError(
            f"{path} is not a manifest of format {FORMAT}: `plantune run {run} --mirror FOLDER` restores it if there "
            "is a mirror; name=OTHER starts another run"
        ) from None


def refuse_changed(run: Path, stage: str, entry: Entry, below: str = "", *, whole: bool = False) -> None:
    """Refuse a file that is not what a stage wrote; if `whole`, also a missing file or any changed byte."""
    outputs = {name: known for name, known in entry.outputs.items() if name.startswith(below)}
    missing, different = changed_outputs(run, outputs, every_byte=whole)
    if changed := [*(missing if whole else ()), *different]:
        raise RunError(
            f"{run / changed[0]} is not what {stage} wrote: `plantune run {run} --mirror FOLDER` restores it from a "
            f"mirror, and `plantune run {run} --again {stage}` makes it again"
        )


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Write the manifest atomically."""
    write_whole(run / "manifest.json", json.dumps(manifest.to_row(), indent=1, ensure_ascii=False) + "\n")
