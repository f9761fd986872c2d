"""A merged model beside its adapter: do they say the same?

What comes in: the folders of base, adapter and merged model, and prompts as token ids. What goes out: on how many
positions both hold the same token for the likeliest, and the largest difference of two logits, in float32:

    compare(adapter, base, merged, prompts) -> {"verified": True, "top1": 0.91, "largest": 1.5, "rounded_top1": 1.0, ...

Two comparisons, because 16 bits cost something: beside the adapter as it is, to know how much (SmolLM2 in bfloat16:
another likeliest token on one position in ten), and beside the adapter whose sums are rounded likewise, where nothing
may differ and even one lost matrix shows.

The models run with their weights on the disk: each layer is read when its turn comes and forgotten after it, so that a
model of any size is compared in the memory of its largest layer.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from plantune_lite.export.adapter import ADAPTER, PREFIX, WEIGHTS, inject, read_config, skeleton, ties_of
from plantune_lite.export.safetensors_io import FLOATS, Tensor, tensors_in, tensors_of, torch_dtype
from plantune_lite.types import PlantuneError

PROMPTS = 32
MIN_TOP1 = 0.99  # of positions, beside the rounded adapter
MAX_SHARE = 0.003  # of the logits' spread, by which one of them may be off there: sums in another order, rounded apart
_TOKENS = 24  # a prompt is cut to: its first and its last ones
_POSITIONS = 16  # a prompt's last ones are compared


def compare(adapter: Path, base: Path, merged: Path, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Run both on the prompts and say how far they agree, and whether the merged model may go out."""
    ids = _ids(prompts)
    whole = _logits(merged, ids)
    exact = _logits(base, ids, adapter)
    top1, largest = _apart(whole, exact)
    rounded_top1, rounded_largest = _apart(whole, _logits(base, ids, adapter, rounded_as=merged))
    # A NaN makes every comparison false.
    verified = rounded_top1 >= MIN_TOP1 and rounded_largest <= MAX_SHARE * exact.std().item()
    return {
        "verified": verified,
        "top1": top1,
        "largest": largest,
        "rounded_top1": rounded_top1,
        "rounded_largest": rounded_largest,
        "positions": whole.shape[0] * whole.shape[1],
        "line": f"merged against its adapter in float32: the same likeliest token on {top1:.1%} of "
        f"{whole.shape[0] * whole.shape[1]} positions, largest logit difference {largest:.3g}; against the adapter "
        f"rounded to the same 16 bits {rounded_top1:.1%} and {rounded_largest:.3g}"
        + ("" if verified else ": this is not the model that was trained"),
    }


def likeliest(folder: Path, prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the prompts as they are compared, and a model's likeliest token after each of their last ones."""
    ids = _ids(prompts)
    return ids.tolist(), _logits(folder, ids).argmax(-1).tolist()


def _ids(prompts: Sequence[Sequence[int]]) -> Any:
    import torch

    if not prompts or not all(prompts):
        raise PlantuneError("an exported model is compared on prompts, and there are none, or empty ones")
    length = min(_TOKENS, *(len(prompt) for prompt in prompts))
    rows = [[*prompt[:1], *prompt[len(prompt) - length + 1 :]] for prompt in prompts[:PROMPTS]]
    return torch.tensor(rows, device="cuda" if torch.cuda.is_available() else "cpu")


def _apart(one: Any, other: Any) -> tuple[float, float]:
    """Compute the share of positions with the same likeliest token, and the largest difference of two logits."""
    top1 = (one.argmax(-1) == other.argmax(-1)).double().mean().item()
    return round(top1, 4), float(f"{(one - other).abs().max().item():.3g}")


# --- a model whose weights stay on the disk ---------------------------------------------------------------------------


def _logits(folder: Path, ids: Any, adapter: Path | None = None, *, rounded_as: Path | None = None) -> Any:
    """Compute the logits of the last positions; `rounded_as`: with sums of base and adapter rounded as there."""
    import torch

    model = skeleton(folder).eval()
    found, layers = _stored(model, folder), {}
    rounding = {name: tensor.dtype for name, tensor in _stored(model, rounded_as).items()} if rounded_as else {}
    if adapter is not None:
        layers = inject(model, read_config(adapter))
        found = _with_adapter(found, model, adapter)
    for path, module in model.named_modules():
        for name, values in module.named_buffers(recurse=False):
            setattr(module, name, values.to(ids.device))
        if path in layers or not any(path.startswith(f"{layer}.") for layer in layers):
            _read_when_used(module, path, path in layers, found, rounding, ids.device)
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False, logits_to_keep=min(_POSITIONS, ids.shape[1])).logits


def _stored(model: Any, folder: Path) -> dict[str, Tensor]:
    """Map each parameter of the model to its stored tensor; a tied one to its partner's."""
    found = tensors_in(folder)
    for tie in ties_of(model):
        kept = next(found[name] for name in tie if name in found)
        found |= dict.fromkeys(tie, kept)
    return found


def _with_adapter(found: dict[str, Tensor], model: Any, adapter: Path) -> dict[str, Tensor]:
    """Map each parameter, by its name after PEFT's layers are injected, to its tensor in the adapter or the base."""
    trained = {tensor.name: tensor for tensor in tensors_of(adapter / WEIGHTS)}
    placed = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        stored = name.replace(f"modules_to_save.{ADAPTER}.", "").replace(f".{ADAPTER}", "")
        stored = stored.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
        placed[name] = trained.get(PREFIX + stored) or found[_in_base(name)]
    return placed


def _in_base(name: str) -> str:
    """Return the name that a parameter had before PEFT wrapped it."""
    for wrapping in ("base_layer.", "original_module.", f"modules_to_save.{ADAPTER}."):
        name = name.replace(f".{wrapping}", ".")
    return name


def _read_when_used(
    module: Any, path: str, layer: bool, found: dict[str, Tensor], rounding: dict[str, str], device: Any
) -> None:
    """Give a module its weights when it is called and take them away after; a layer of PEFT's, with all within it."""
    from torch.nn import Parameter

    empty = dict(module.named_parameters(path, recurse=layer))
    merges = layer and bool(rounding)
    weight = f"{path}.base_layer.weight"

    def kept(name: str, values: Any) -> Any:
        word = rounding.get(_in_base(name))
        return values.to(torch_dtype(word)).float() if word in FLOATS else values

    def fill(values: Iterable[tuple[str, Any]]) -> None:
        for name, value in values:
            owner, _, last = name.removeprefix(f"{path}.").rpartition(".")
            setattr(module.get_submodule(owner), last, value)

    def read(*_: Any) -> None:
        for name in empty:
            values = found[name].read().float().to(device)
            values = values if merges and name == weight else kept(name, values)
            fill([(name, Parameter(values, requires_grad=False))])
        if merges:
            module.merge()
            module.get_base_layer().weight.data = kept(weight, module.get_base_layer().weight.data)

    def forget(*_: Any) -> None:
        fill(empty.items())
        if merges:
            module.merged_adapters.clear()

    if empty:
        module.register_forward_pre_hook(read)
        module.register_forward_hook(forget)
