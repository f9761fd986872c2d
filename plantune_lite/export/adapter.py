"""Open an adapter folder as PEFT's layers over a base whose weights stay on disk.

Input: a folder with adapter_config.json and adapter_model.safetensors, and the folder of the 16-bit base. Output: for
each tensor of the merged model, which tensor it starts from and which layer is merged into it:

    opened.parts["model.layers.0.self_attn.q_proj.weight"]  ->  Part(source=Tensor(...), layer=lora.Linear(...), ...)

The model is built without weights, PEFT adds its layers, each parameter is found in the adapter or in the base, and
each layer then merges with its own merge(): PEFT handles LoRA, rslora, DoRA, patterns and fan-in. What cannot be merged
this way is refused.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plantune_lite.export.safetensors_io import FLOATS, ExportError, Tensor, tensors_in, tensors_of
from plantune_lite.student import text_part
from plantune_lite.student.chat import read_config

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_ADAPTER = "default"  # PEFT's name for a loaded adapter

# Fields that a LoRA's config may set: where its layers are and how large, and what does not affect them. Any other set
# field is newer than this file, and a merge that ignored it would be silently wrong.
_SHAPE = {
    *("target_modules", "exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save"),
    *("r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out"),
    "ensure_weight_tying",
}
_SILENT = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "peft_type", "peft_version"),
    *("inference_mode", "lora_dropout", "bias", "init_lora_weights", "eva_config", "runtime_config"),
    *("megatron_core", "qalora_group_size"),
}
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # the others change the base's weights


@dataclass(frozen=True)
class Part:
    """Tensor of the merged model: its source and, where an adapter is merged, PEFT's layer with all its tensors."""

    source: Tensor
    layer: Any = None
    inside: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    def read(self) -> Any:
        """Return its values, merged in float32 and rounded once to the base's dtype."""
        given = self.source.read()
        if self.layer is None:
            return given
        self.layer.load_state_dict({name: tensor.read().float() for name, tensor in self.inside.items()}, assign=True)
        self.layer.merge()
        merged = self.layer.get_base_layer().weight.detach().to(given.dtype)
        self.layer.merged_adapters.clear()
        self.layer.to("meta")  # frees the weights
        return merged


@dataclass(frozen=True)
class Opened:
    """An adapter over a base."""

    model: Any  # with PEFT's layers, without weights
    stored: dict[str, Tensor]  # by parameter
    parts: dict[str, Part]  # by tensor of the merged model
    layers: int
    untied: bool  # a tensor that the base shares is now two


def open_adapter(adapter: Path, base: Path) -> Opened:
    """Map the merged model tensor by tensor; raise for what cannot be merged, with its name."""
    config = read_config(adapter / CONFIG)
    _refuse_kind(config, adapter)
    model = skeleton(base)
    ties, in_base = ties_of(model), stored_in(base, model)
    layers = _inject(model, config)
    stored = _find(model, in_base, adapter)
    parts = {name: Part(tensor) for name, tensor in in_base.items()}
    for name, tensor in stored.items():
        into = _bare(name).replace(f".modules_to_save.{_ADAPTER}.", ".")
        path = into.removesuffix(".weight")
        if name == f"{path}.base_layer.weight":
            inside = {key.removeprefix(f"{path}."): stored[key] for key in stored if key.startswith(f"{path}.")}
            parts[into] = Part(tensor, layers[path], inside)
        elif ".lora_" not in name and ".original_module." not in name:
            parts[into] = Part(tensor)
    untied = False
    for tie in ties:
        if len({parts[name] for name in tie}) > 1:
            untied = True
        else:
            for name in tie[1:]:
                del parts[name]
    return Opened(model, stored, parts, len(layers), untied)


def _refuse_kind(config: dict[str, Any], adapter: Path) -> None:
    set_fields = {name for name, value in config.items() if value not in (None, False, 0, "", [], {})}
    wrong = sorted(set_fields - _SHAPE - _SILENT)
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        wrong.append("init_lora_weights")
    if config.get("peft_type") != "LORA":
        wrong.insert(0, "peft_type")
    if wrong:
        raise ExportError(
            f"{adapter} has {wrong[0]}={config.get(wrong[0])!r}, which a merge layer by layer cannot carry over. Push "
            "the adapter as it is, or merge it with PEFT's own merge_and_unload()."
        )


def skeleton(base: Path) -> Any:
    """Build the base model without weights: names, shapes and tied tensors."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    try:
        config = text_part.config_of(base)
    except (OSError, ValueError) as error:
        raise ExportError(f"transformers cannot load {base}: {str(error).splitlines()[0]}") from None
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.tie_weights()  # again: init_empty_weights unties the tensors
    stored = {text_part.bare(name): tensor for name, tensor in tensors_in(base).items()}
    for name, values in model.named_buffers():
        if name in stored:  # Gemma 4 has a scale per layer
            values.copy_(stored[name].read())
    return model


def _inject(model: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Add PEFT's layers of that config to the model, without weights; return them by path."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    shape = {name: value for name, value in config.items() if name in _SHAPE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tied tensors, which open_adapter handles, and fan-in, which PEFT fixes
        lora = LoraConfig(**shape, init_lora_weights=False, inference_mode=True)
        inject_adapter_in_model(lora, model, adapter_name=_ADAPTER, low_cpu_mem_usage=True)
    return {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}


def ties_of(model: Any) -> list[list[str]]:
    """Group the names that share one tensor; in each group the name that a checkpoint stores comes first."""
    groups: dict[int, list[str]] = {}
    for name, values in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(values), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def with_ties(model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Add the names of a model that share one of these tensors."""
    for tie in ties_of(model):
        if kept := next((tensors[name] for name in tie if name in tensors), None):
            tensors |= dict.fromkeys(tie, kept)
    return tensors


def stored_in(folder: Path, model: Any) -> dict[str, Tensor]:
    """Map each parameter of a model to its tensor in a folder, a tied one to its partner's; keep other tensors."""
    tensors = tensors_in(folder)
    if text_part.renaming(model.config):
        own = model.state_dict()
        tensors = {text_part.bare(name): tensor for name, tensor in tensors.items() if text_part.bare(name) in own}
    tensors = with_ties(model, tensors)
    for name, values in model.named_parameters():
        if name not in tensors:
            raise ExportError(f"{folder} lacks {name}, which its config.json requires: fetch the model again")
        if tensors[name].dtype not in FLOATS or tensors[name].shape != values.shape:
            raise ExportError(
                f"{folder} keeps {name} as {tensors[name].dtype} {list(tensors[name].shape)} and not as 16-bit numbers "
                f"{list(values.shape)}: it is quantised. An adapter is merged into the 16-bit original: name that."
            )
    return tensors


def _find(model: Any, in_base: dict[str, Tensor], adapter: Path) -> dict[str, Tensor]:
    """Map each parameter, by its name after PEFT's layers are injected, to its tensor in the adapter or the base."""
    trained = {tensor.name.removeprefix(_PREFIX): tensor for tensor in tensors_of(adapter / WEIGHTS)}
    stored = {}
    for name, values in model.named_parameters(remove_duplicate=False):
        key = name.replace(f".modules_to_save.{_ADAPTER}", "").replace(f".{_ADAPTER}", "")
        key = key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
        tensor = trained.pop(key, None) or in_base.get(_bare(name))
        if tensor is None or tensor.shape != values.shape:
            raise ExportError(
                f"{adapter} has {tensor.shape if tensor else 'nothing'} as {key}, but the base and the adapter's "
                f"config need {tuple(values.shape)}: it is cut off, or belongs to another model"
            )
        stored[name] = tensor
    if trained:
        raise ExportError(
            f"{adapter} has {next(iter(trained))}, which the base does not have: it belongs to another model, or is of "
            "an unknown kind. Merge it with PEFT's own merge_and_unload()."
        )
    return stored


def _bare(name: str) -> str:
    """Return the name that a parameter of the base had before PEFT wrapped it."""
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")
