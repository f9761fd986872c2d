"""An adapter folder as PEFT's own layers over a base whose weights stay on the disk.

What comes in: a folder with adapter_config.json and adapter_model.safetensors, and the folder of the 16-bit base. What
goes out: for each tensor of the merged model, which tensor it starts from and which layer is merged into it:

    opened.parts["model.layers.0.self_attn.q_proj.weight"]  ->  Part(source=Tensor(...), layer=Layer(lora.Linear ...))

The model is built without weights, PEFT puts its layers in, and each layer then merges blocks of rows by its own
merge(): what LoRA, rslora, DoRA, patterns and fan-in mean is PEFT's business. What cannot be merged so is refused.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plantune_lite.export.safetensors_io import FLOATS, ExportError, Tensor, tensors_in, tensors_of
from plantune_lite.types import present

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
ADAPTER = "default"  # what PEFT calls an adapter when it is loaded
_BLOCK_VALUES = 1 << 20  # merged at once: larger blocks leave the cache and take three times as long

# What may stand in a LoRA's config: where its layers are and how large, and what says nothing about them. Anything else
# that is set is of a kind that came after this file, and a merge that ignored it would be wrong without a word.
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
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # the others take something out of the base


@dataclass
class Layer:
    """One of PEFT's layers, without base weights; it merges into a block of its weight."""

    module: Any
    tensors: dict[str, Tensor]  # "lora_A", "lora_B", "magnitude" -> where they are

    def merged(self, weight: Any, dtype: Any) -> Any:
        """Return the weight after PEFT merged the adapter into it: in float32, in blocks of outputs, rounded once."""
        values = self._values()
        by_input = ADAPTER in self.module.lora_embedding_A or getattr(self.module, "fan_in_fan_out", False)
        axis = 1 if by_input else 0
        result = weight.new_empty(weight.shape, dtype=dtype)
        step = max(1, _BLOCK_VALUES // weight.shape[1 - axis])
        parts = [values[role].split(step) for role in ("lora_B", "magnitude") if role in values]
        for block, into, *outputs in zip(weight.split(step, axis), result.split(step, axis), *parts, strict=True):
            self._hold(block.float().contiguous(), values["lora_A"], *outputs)
            self.module.merge()
            into.copy_(self.module.get_base_layer().weight.data)
            self.module.merged_adapters.clear()  # ready for the next block
        self.module.to("meta")  # or each layer of the model would keep its last block
        return result

    def _values(self) -> dict[str, Any]:
        """Read the layer's own tensors, in float32."""
        values = {role: tensor.read().float() for role, tensor in self.tensors.items()}
        for role, numbers in values.items():
            if not numbers.isfinite().all():
                raise ExportError(
                    f"{self.tensors[role].name} holds numbers that are not finite: the training went wrong. Export an "
                    "earlier checkpoint, or train again with a lower learning rate."
                )
        return values

    def _hold(self, weight: Any, down: Any, up: Any, magnitude: Any = None) -> None:
        from torch.nn import Parameter

        module = self.module
        weight, down, up = (Parameter(values, requires_grad=False) for values in (weight, down, up))
        module.get_base_layer().weight = weight
        if ADAPTER in module.lora_embedding_A:
            module.lora_embedding_A[ADAPTER], module.lora_embedding_B[ADAPTER] = down, up
        else:
            module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight = down, up
        if magnitude is not None:
            module.lora_magnitude_vector[ADAPTER].weight = Parameter(magnitude, requires_grad=False)


@dataclass(frozen=True)
class Part:
    """Tensor of the merged model: its source, and the layer that is merged into it, if any."""

    source: Tensor
    layer: Layer | None = None


@dataclass(frozen=True)
class Opened:
    """An adapter over a base."""

    parts: dict[str, Part]  # in the order of the base's files
    layers: int
    untied: bool  # what was one tensor in the base is two now


def open_adapter(adapter: Path, base: Path) -> Opened:
    """Lay out the merged model tensor by tensor; refuse, by name, what cannot be merged."""
    config = read_config(adapter)
    _refuse_kind(config, adapter)
    in_base = tensors_in(base)
    model = skeleton(base)
    names = {name: tuple(values.shape) for name, values in model.named_parameters(remove_duplicate=False)}
    ties = ties_of(model)
    _check_base(names, ties, in_base, base)

    left = {tensor.name: tensor for tensor in tensors_of(adapter / WEIGHTS)}
    layers = {}
    for path, module in inject(model, {**config, "modules_to_save": None}).items():
        layers[f"{path}.weight"] = Layer(module, _layer_tensors(path, module, left, adapter))
    own, shared = _replaced(left, names, ties, config, adapter)

    parts = {}
    for name, tensor in in_base.items():
        parts[name] = Part(shared.get(name, tensor))
    changed = layers.keys() | own.keys()
    untied = False
    for tie in ties:
        kept = parts[next(name for name in tie if name in parts)]
        changes = not changed.isdisjoint(tie)
        for name in tie:
            if changes or parts.get(name) is kept:
                parts[name] = kept
            else:
                parts.pop(name, None)
        untied = untied or changes
    for name in changed:
        parts[name] = Part(own.get(name, parts[name].source), layers.get(name))
    return Opened(parts, len(layers), untied)


def read_config(adapter: Path) -> dict[str, Any]:
    """Read the adapter's config as it is on disk."""
    try:
        return json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ExportError(f"{adapter} has no {CONFIG}: name the folder of an adapter in PEFT's format") from None


def _refuse_kind(config: dict[str, Any], adapter: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise ExportError(
            f"{adapter} is of the kind {config.get('peft_type')!r}, and only LoRA can be merged here (rslora and DoRA "
            "too). Push the adapter as it is, or merge it with PEFT's own merge_and_unload()."
        )
    set_fields = {name for name, value in config.items() if value not in (None, False, 0, "", [], {})}
    if unknown := sorted(set_fields - _SHAPE - _SILENT):
        raise ExportError(
            f"{adapter} uses {unknown[0]}={config[unknown[0]]!r}, which a merge in blocks of rows cannot carry over. "
            "Push the adapter as it is, or merge it with PEFT's own merge_and_unload()."
        )
    if (start := config.get("init_lora_weights", True)) not in _PLAIN_STARTS:
        raise ExportError(
            f"{adapter} was begun with init_lora_weights={start!r}, which changes the base's own weights. Convert it "
            "to a plain LoRA first (PEFT: save_pretrained(path_initial_model_for_weight_conversion=...))."
        )


def skeleton(base: Path) -> Any:
    """Build the base model without weights: names, shapes and tied tensors."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ExportError(f"{base} is no folder that transformers can load: {str(error).splitlines()[0]}") from None
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.tie_weights()  # again: each tensor that is left out was made one of its own
    return model


def inject(model: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Put PEFT's layers of that config into the model, without weights; each by its path."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    shape = {name: value for name, value in config.items() if name in _SHAPE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tied tensors, which open_adapter sees to, and fan-in, which PEFT mends
        lora = LoraConfig(**shape, init_lora_weights=False, inference_mode=True)
        inject_adapter_in_model(lora, model, adapter_name=ADAPTER, low_cpu_mem_usage=True)
    return {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}


def ties_of(model: Any) -> list[list[str]]:
    """Group the names that share one tensor; in each group the name that a checkpoint keeps comes first."""
    groups: dict[int, list[str]] = {}
    for name, values in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(values), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _check_base(names: dict[str, tuple[int, ...]], ties: list[list[str]], found: dict[str, Tensor], base: Path) -> None:
    for name, shape in names.items():
        if name not in found:
            if any(name in tie and not found.keys().isdisjoint(tie) for tie in ties):
                continue
            raise ExportError(f"{base} lacks {name}, which its config.json asks for: fetch the model again")
        if found[name].dtype not in FLOATS or found[name].shape != shape:
            raise ExportError(
                f"{base} keeps {name} as {found[name].dtype} {list(found[name].shape)} and not as 16-bit numbers "
                f"{list(shape)}: it is quantised. An adapter is merged onto the original 16-bit model; name that."
            )


def _layer_tensors(path: str, module: Any, left: dict[str, Tensor], adapter: Path) -> dict[str, Tensor]:
    """Take the adapter's tensors for one layer out of `left`."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module.get_base_layer(), nn.Linear | nn.Embedding | Conv1D):
        raise ExportError(f"{adapter} changes {path}, a {type(module.get_base_layer()).__name__}: no layer to merge")
    embedding = ADAPTER in module.lora_embedding_A
    keys = {"lora_A": "lora_embedding_A" if embedding else "lora_A.weight"}
    keys["lora_B"] = "lora_embedding_B" if embedding else "lora_B.weight"
    if ADAPTER in module.lora_magnitude_vector:
        keys["magnitude"] = "lora_magnitude_vector"
    found = {role: left.pop(f"{PREFIX}{path}.{key}", None) for role, key in keys.items()}
    rank = module.r[ADAPTER]
    wanted = {"lora_A": (rank, module.in_features), "lora_B": (module.out_features, rank)}
    for role, tensor in found.items():
        if tensor is None or tensor.shape != wanted.get(role, tensor.shape):
            shape = "nothing" if tensor is None else tensor.shape
            raise ExportError(
                f"{adapter} has {shape} as {keys[role]} of {path}, where the base and the adapter's config want "
                f"{wanted.get(role)}: it is cut off, or of another model"
            )
    return {role: present(tensor) for role, tensor in found.items()}


def _replaced(
    left: dict[str, Tensor],
    names: dict[str, tuple[int, ...]],
    ties: list[list[str]],
    config: dict[str, Any],
    adapter: Path,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors that the adapter brings whole: those trained on their own, and those that stay tied as they were."""
    own: dict[str, Tensor] = {}
    shared: dict[str, Tensor] = {}
    saved = config.get("modules_to_save") or []
    for key, tensor in left.items():
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        if names.get(name) != tensor.shape or not key.startswith(PREFIX) or tensor.dtype not in FLOATS:
            raise ExportError(
                f"{adapter} has {key} {list(tensor.shape)}, for which the base has no place: it is of another model, "
                "or of a kind that this merge does not know. Merge it with PEFT's own merge_and_unload()."
            )
        if any(f".{path}." in f".{name}" for path in saved):
            own[name] = tensor
        else:
            shared |= {other: tensor for tie in [{name}, *ties] if name in tie for other in tie}
    return own, shared
