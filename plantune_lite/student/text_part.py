"""Serve the text part of a model that reads images too: its config, and its tensors under a text model's names.

    config_of("Qwen3.5-2B")                    -> the config that Qwen3_5ForCausalLM is built from
    bare("model.language_model.norm.weight")   -> "model.norm.weight"

An adapter and a merged model contain the text part alone, with a text model's names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plantune_lite.types import PlantuneError

SERVED = ("qwen3_5", "gemma4")  # families whose text part is loaded alone
_INSIDE = "model.language_model."


class StudentError(PlantuneError, ValueError):
    """A model that cannot be loaded with these settings."""


def is_part(config: Mapping[str, Any]) -> bool:
    """Return whether config.json belongs to a model of which only the text part is served."""
    return config.get("model_type") in SERVED


def config_of(place: str | Path) -> Any:
    """Read a model's config, or its text part's."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    return config.get_text_config() if is_part({"model_type": config.model_type}) else config


def renaming(config: Any) -> dict[str, str] | None:
    """Return the key_mapping with which from_pretrained finds a text part's tensors; None for a whole model."""
    parts = [f"{family}_text" for family in SERVED]
    return {"^" + _INSIDE.replace(".", r"\."): "model."} if config.model_type in parts else None


def bare(name: str) -> str:
    """Return a tensor's name in a text model."""
    return "model." + name.removeprefix(_INSIDE) if name.startswith(_INSIDE) else name


def text_json(config: dict[str, Any]) -> dict[str, Any]:
    """Return the text part's config.json, with the maker's fields."""
    if not is_part(config):
        return config
    text = config["text_config"]
    above = {name: config[name] for name in ("dtype", "tie_word_embeddings") if name in config}
    text = {name: value for name, value in text.items() if not name.startswith("mtp_")}  # its tensors are left out
    return {**above, **text, "architectures": [architecture(config)]}


def architecture(config: Mapping[str, Any]) -> str | None:
    """Return the transformers class that generates text with this model; None where this version has none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    family = config.get("model_type")
    return NAMES.get(f"{family}_text" if is_part(config) else family)


def check(name: str, config: Mapping[str, Any]) -> str | None:
    """Raise for a model that cannot be trained, by its config.json; else return its class in transformers."""
    if not is_part(config) and ("vision_config" in config or "audio_config" in config):
        raise StudentError(
            f"student.model is {name}, which reads more than text: of such models only the text part of "
            f"{' and '.join(SERVED)} is served; use one of these, or a text model of its family"
        )
    try:
        from transformers import __version__
    except ImportError:
        return None  # `estimate` works without; training does not
    class_name = architecture(config)
    if class_name is None:
        raise StudentError(
            f"student.model is {name}, which cannot be loaded (its own code is never run): transformers "
            f"{__version__} has no {config.get('model_type')!r} that generates text; use another model"
        )
    return class_name
