"""Read the facts for a model card from a run folder.

    facts = of_run(Path("runs/mine"), form="merged", repos={"merged": "you/mine-merged"})
    facts.base, facts.licence -> "google/gemma-3-1b-it", "gemma"

Input: recipe.json, manifest.json, corpus/, eval/, the adapter's config. Output: Facts, without local paths.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from plantune_lite.evaluate.compare import BASELINE, UNTUNED, Row, standing
from plantune_lite.files import read_object
from plantune_lite.recipe.redact import without_paths
from plantune_lite.runs.folder import RunFolder
from plantune_lite.runs.job import TRAININGS, trained_by
from plantune_lite.runs.manifest import Manifest, read_manifest
from plantune_lite.student.presets import Preset, find

Form = Literal["adapter", "merged", "gguf"]
FORMS: dict[Form, str] = {"adapter": "", "merged": "-merged", "gguf": "-GGUF"}  # and their repositories' suffixes
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_QUANTISED = re.compile(r"bnb|[48]bit|gptq|awq|gguf|fp8", re.IGNORECASE)
EMBEDDED = "smollm2_135m"  # the preset whose weights are not the Hub's


@dataclass(frozen=True)
class Scores:
    """Scores on one suite."""

    rows: Sequence[Row]  # the untuned model at its best prompt first, this model last
    better: bool  # than untuned at its best prompt, by a paired test


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that a card needs."""

    name: str
    form: Form
    repos: Mapping[Form, str]  # where it goes, and the other forms of the same push
    base: str | None = None  # on the Hub, 16-bit; None = a local folder
    revision: str | None = None
    licence: str | None = None  # None = unknown
    licence_url: str | None = None
    recipe: Mapping[str, Any]
    trained: Sequence[str] = ()  # the stages that trained its adapter
    unsloth: bool = False  # whether Unsloth trained it
    asks_for_plans: bool = False  # whether its prompt in training asked for a plan
    stats: Mapping[str, Any] | None = None  # corpus/stats.json
    scores: Mapping[str, Scores] = field(default_factory=dict)  # by suite
    checks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # GGUF file -> bytes, ran, agreement
    agreement: str | None = None  # of the merged model with its adapter
    plot: Path | None = None  # a chart of the scores
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def repo(self) -> str:
        return self.repos[self.form]

    @property
    def target(self) -> str:
        """Return what it writes: SFT's target, or a plan where plans were searched for or rewarded."""
        planned = "cpl" in self.trained or "grpo" in self.trained and self.recipe["grpo"]["reward"] != "answer"
        if planned:
            return "plan+solution"
        return self.recipe["sft"]["target"] if "sft" in self.trained else "answer"


def of_run(run: Path, *, form: Form, repos: Mapping[Form, str]) -> Facts:
    """Read the facts of a run's model from its folder."""
    manifest, folder = read_manifest(run), RunFolder(run)
    recipe, summaries = folder.recipe_row(), manifest.summaries
    scores = _scores(run, manifest)
    preset = find(recipe["student"]["model"])
    base, revision = base_of(adapter_folder(run, manifest), preset)
    stats = folder.stats
    return Facts(
        name=recipe["name"],
        form=form,
        repos=repos,
        base=base,
        revision=revision,
        licence=preset.licence if preset else None,
        licence_url=preset.licence_url if preset else None,
        recipe=recipe,
        trained=_trained(recipe, manifest.final),
        unsloth=manifest.final in TRAININGS and summaries.training(manifest.final).base.get("backend") == "unsloth",
        asks_for_plans=summaries.grpo.asks_for_plans,
        stats=without_paths(read_object(stats)) if stats.is_file() else None,
        scores=scores,
        checks={
            file.name: {"bytes": file.stat().st_size, **summaries.export.gguf.get(file.name, {})}
            for file in sorted(folder.gguf.glob("*.gguf"))
        },
        agreement=summaries.export.agreement,
        plot=_plot(run, manifest, scores),
        versions=manifest.versions,
    )


def _scores(run: Path, manifest: Manifest) -> dict[str, Scores]:
    """Read the scores of this run's model by suite, with the untuned model's and the baseline's.

    Only from a finished evaluation, so of the current adapter, and of no other evaluated model.
    """
    mine = manifest.summaries.evaluate.arm if manifest.is_done("evaluate") else None
    if mine is None:
        return {}
    stood = standing([run])
    models = (UNTUNED, *({BASELINE} - {mine}), mine)
    rows = [row for model in models for row in stood.rows if row.model == model]
    return {
        compared.suite: Scores([row for row in rows if row.suite == compared.suite], compared.verdict == "better")
        for compared in stood.comparisons
        if compared.beside_untuned and compared.model == mine
    }


def _plot(run: Path, manifest: Manifest, suites: Iterable[str]) -> Path | None:
    """Return the chart of the first suite that has one, where the report is finished."""
    if not manifest.is_done("report"):
        return None
    charts = (RunFolder(run).figures / f"scores_{suite}.svg" for suite in sorted(suites))
    return next((chart for chart in charts if chart.is_file()), None)


def adapter_folder(run: Path, manifest: Manifest) -> Path | None:
    """Return the run's final adapter; None before training."""
    final = manifest.final
    return run / final if final and (run / final / "adapter_config.json").is_file() else None


def _trained(recipe: Mapping[str, Any], final: str | None) -> list[str]:
    until = TRAININGS.index(final) + 1 if final in TRAININGS else 0
    return trained_by(recipe, [stage for stage in TRAININGS[:until] if recipe.get(stage)])


def base_of(adapter: Path | None, preset: Preset | None) -> tuple[str | None, str | None]:
    """Return name and revision of the base that an adapter was trained on; None for a local folder."""
    config = read_object(adapter / "adapter_config.json") if adapter else {}
    named = config.get("base_model_name_or_path") or ""
    if is_public(named):
        return named, config.get("revision")
    return preset.repo if preset else None, None  # a revision belongs to the repository named with it


def is_public(base: str) -> bool:
    """Return whether a base is a Hub id that others can load: not a folder or a quantised copy."""
    return bool(_HUB_ID.fullmatch(base)) and not Path(base).exists() and not _QUANTISED.search(base)
