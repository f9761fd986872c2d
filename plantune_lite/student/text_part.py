"""Serve the text part of a model that reads images too: its config, and its tensors by a text model's names.

    config_of("Qwen3.5-2B")                    -> the config that Qwen3_5ForCausalLM is built from
    bare("model.language_model.norm.weight")   -> "model.norm.weight"

An adapter and a merged model are of the text part alone, and bear a text model's names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plantune_lite.types import PlantuneError

SERVED = ("qwen3_5", "gemma4")  # the families whose text part is loaded by itself
_INSIDE = "model.language_model."


class StudentError(PlantuneError, ValueError):
    """A model that cannot be loaded as asked."""


def is_part(config: Mapping[str, Any]) -> bool:
    """Tell whether config.json is of a model of which only the text part is served."""
    return config.get("model_type") in SERVED


def config_of(place: str | Path) -> Any:
    """Read the config of a model, or that of its text part."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    return config.get_text_config() if is_part({"model_type": config.model_type}) else config


def renaming(config: Any) -> dict[str, str] | None:
    """Return what from_pretrained needs to find the tensors of a text part; None for a whole model."""
    parts = [f"{family}_text" for family in SERVED]
    return {"^" + _INSIDE.replace(".", r"\."): "model."} if config.model_type in parts else None


def bare(name: str) -> str:
    """Return a text model's name of a tensor."""
    return "model." + name.removeprefix(_INSIDE) if name.startswith(_INSIDE) else name


def text_json(config: dict[str, Any]) -> dict[str, Any]:
    """Return config.json of the text part, in its maker's own words."""
    if not is_part(config):
        return config
    text = config["text_config"]
    above = {name: config[name] for name in ("dtype", "tie_word_embeddings") if name in config}
    text = {name: value for name, value in text.items() if not name.startswith("mtp_")}  # its tensors are left out
    return {**above, **text, "architectures": [architecture(config)]}


def architecture(config: Mapping[str, Any]) -> str | None:
    """Name the class of transformers that writes text with this model; None where this transformers has none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    family = config.get("model_type")
    return NAMES.get(f"{family}_text" if is_part(config) else family)


def check(name: str, config: Mapping[str, Any]) -> str | None:
    """Refuse a model that cannot be trained here, by its config.json; else name its class in transformers."""
    if not is_part(config) and ("vision_config" in config or "audio_config" in config):
        raise StudentError(
            f"student.model is {name}, which reads more than text: of such models only the text part of "
            f"{' and '.join(SERVED)} is served; take one of these, or a text model of its family"
        )
    try:
        from transformers import __version__
    except ImportError:
        return None  # `estimate` needs none; whatever trains, does
    found = architecture(config)
    if found is None:
        raise StudentError(
            f"student.model is {name}, which cannot be loaded (code of its own is never run): transformers "
            f"{__version__} has no {config.get('model_type')!r} that writes text; take another model"
        )
    return found
