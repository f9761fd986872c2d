"""What a model card is written from: everything a run's folder says of its model.

    facts = of_run(Path("runs/mine"), form="merged", repo="you/mine-merged", scores={"own": [untuned, baseline, tuned]})
    facts.base, facts.licence -> "google/gemma-3-1b-it", "gemma"

What comes in: recipe.json, manifest.json, corpus/, the adapter's config. What goes out: Facts, and no folder of a user.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from plantune_lite.files import read_jsonl
from plantune_lite.recipe.redact import without_paths
from plantune_lite.runs.folder import read_manifest
from plantune_lite.runs.job import TRAININGS, trained_by
from plantune_lite.student.presets import Preset, find

Form = Literal["adapter", "merged", "gguf"]
FORMS: dict[Form, str] = {"adapter": "", "merged": "-merged", "gguf": "-GGUF"}  # and how their repositories end
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_QUANTISED = re.compile(r"bnb|[48]bit|gptq|awq|gguf|fp8", re.IGNORECASE)
EMBEDDED = "smollm2_135m"  # the preset whose weights are not the Hub's own


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A line of a table of scores: how many of how many were right, and the 95 % interval of the share."""

    model: str
    right: int  # answers
    of: int
    low: float
    high: float
    samples: int = 1  # answers to each problem
    caveats: tuple[str, ...] = ()  # what the figure must not be read without

    @property
    def share(self) -> float:
        return self.right / self.of

    @property
    def counts(self) -> str:
        return f"{self.right} of {self.of}" + (f" ({self.samples} to a problem)" if self.samples > 1 else "")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card is written from."""

    name: str
    form: Form
    repo: str  # where it goes
    siblings: Mapping[Form, str] = field(default_factory=dict)  # the other repositories of the same push
    base: str | None = None  # on the Hub, 16-bit; None = a folder of the user's own
    revision: str | None = None
    licence: str | None = None  # None = nobody told us
    licence_url: str | None = None
    recipe: Mapping[str, Any]
    trained: Sequence[str] = ()  # the stages that its adapter has been through
    asks_for_plans: bool = False  # whether its prompt in training asked for a plan
    stats: Mapping[str, Any] | None = None  # corpus/stats.json
    example: Mapping[str, Any] | None = None  # a row of corpus/train.jsonl
    scores: Mapping[str, Sequence[Scored]] = field(default_factory=dict)  # suite -> untuned, baseline ..., this model
    ahead: Mapping[str, bool] = field(
        default_factory=dict
    )  # suite -> whether a paired test shows it; else the intervals
    checks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # GGUF file -> bytes, ran, agreement, kl
    agreement: str | None = None  # of the merged model with its adapter
    plot: str | None = None  # a path in the repository
    data_repo: str | None = None  # where the corpus was pushed
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """What it writes: what supervised learning taught it, a plan too where that was searched for or rewarded."""
        planned = "cpl" in self.trained or "grpo" in self.trained and self.recipe["grpo"]["reward"] != "answer"
        if planned:
            return "plan+solution"
        return self.recipe["sft"]["target"] if "sft" in self.trained else "answer"


def of_run(
    run: Path,
    *,
    form: Form,
    repo: str,
    siblings: Mapping[Form, str] = {},
    scores: Mapping[str, Sequence[Scored]] = {},
    ahead: Mapping[str, bool] = {},
    plot: str | None = None,
    data_repo: str | None = None,
) -> Facts:
    """What a run's folder says of its model; the scores are evaluation's to hand in."""
    manifest, recipe = read_manifest(run), json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    preset = find(recipe["student"]["model"])
    base, revision = base_of(adapter_folder(run, manifest), preset)
    exported = manifest["stages"].get("export", {}).get("summary", {})
    stats, rows = run / "corpus" / "stats.json", run / "corpus" / "train.jsonl"
    return Facts(
        name=recipe["name"],
        form=form,
        repo=repo,
        siblings=siblings,
        base=base,
        revision=revision,
        licence=preset.licence if preset else None,
        licence_url=preset.licence_url if preset else None,
        recipe=recipe,
        trained=_trained(recipe, manifest.get("final")),
        asks_for_plans=manifest["stages"].get("grpo", {}).get("summary", {}).get("asks_for_plans", False),
        stats=without_paths(json.loads(stats.read_text(encoding="utf-8"))) if stats.is_file() else None,
        example=next(read_jsonl(rows), None) if rows.is_file() else None,
        scores=scores,
        ahead=ahead,
        checks={
            file.name: {"bytes": file.stat().st_size, **exported.get("gguf", {}).get(file.name, {})}
            for file in sorted((run / "gguf").glob("*.gguf"))
        },
        agreement=_agreement(exported),
        plot=plot,
        data_repo=data_repo,
        versions=manifest.get("versions", {}),
    )


def _agreement(exported: Mapping[str, Any]) -> str | None:
    if not exported.keys() >= {"top1", "positions", "largest"}:
        return None
    same = f"the same likeliest token on {exported['top1']:.1%} of {exported['positions']} positions"
    return f"{same}, largest logit difference {exported['largest']:.3g}"


def adapter_folder(run: Path, manifest: Mapping[str, Any]) -> Path | None:
    """Where the adapter lies that the run ended with; None before training."""
    final = manifest.get("final")
    return run / final if final and (run / final / "adapter_config.json").is_file() else None


def _trained(recipe: Mapping[str, Any], final: str | None) -> list[str]:
    until = TRAININGS.index(final) + 1 if final in TRAININGS else 0
    return trained_by(recipe, [stage for stage in TRAININGS[:until] if recipe.get(stage)])


def base_of(adapter: Path | None, preset: Preset | None) -> tuple[str | None, str | None]:
    """The Hub's name and the revision of what an adapter was trained on; None for a folder of the user's own."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")) if adapter else {}
    named = config.get("base_model_name_or_path") or ""
    if is_public(named):
        return named, config.get("revision")
    return preset.repo if preset else None, None  # a revision is one of the repository that is named with it


def is_public(base: str) -> bool:
    """Whether a base is a name on the Hub that others can load: no folder, and no quantised copy."""
    return bool(_HUB_ID.fullmatch(base)) and not Path(base).exists() and not _QUANTISED.search(base)
