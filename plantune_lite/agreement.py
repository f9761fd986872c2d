"""A merged model beside its adapter: do they say the same?

What comes in: the folders of base, adapter and merged model, and prompts as token ids. What goes out: on how many
positions both hold the same token for the likeliest, and the largest difference of two logits, in float32:

    compare(adapter, base, merged, prompts) -> {"verified": True, "top1": 0.994, "largest": 0.12, "positions": 512, ...}

Both models run with their weights on the disk: each layer is read when its turn comes and forgotten after it, so that
a model of any size is compared in the memory of its largest layer.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plantune_lite.adapters import ADAPTER, PREFIX, WEIGHTS, inject, read_config, skeleton, ties_of
from plantune_lite.records import PlantuneError
from plantune_lite.shards import Reader, Tensor, tensors_in, tensors_of

PROMPTS = 32
MIN_TOP1 = 0.95  # of positions; see compare()
_TOKENS = 32  # a prompt is cut to: its first and its last ones
_POSITIONS = 16  # a prompt's last ones are compared


def compare(
    adapter: Path,
    base: Path,
    merged: Path,
    prompts: Sequence[Sequence[int]],
    *,
    min_top1: float = MIN_TOP1,
    device: str | None = None,  # None: the GPU where there is one
) -> dict[str, Any]:
    """Run both on the prompts and say how far they agree.

    The adapter's weights are exact and the merged ones rounded to 16 bits, so a few near ties fall the other way. A merge
    that lost something differs in far more.
    """
    import torch

    if len(prompts) < 1 or not all(len(prompt) > 0 for prompt in prompts):
        raise PlantuneError("a merged model is compared with its adapter on prompts, and there is none")
    length = min(_TOKENS, *(len(prompt) for prompt in prompts))
    rows = [[prompt[0], *prompt[len(prompt) - length + 1 :]] for prompt in prompts[:PROMPTS]]
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    ids = torch.tensor(rows, device=where)
    tuned = _logits(base, adapter, ids)
    whole = _logits(merged, None, ids)
    same = tuned.argmax(-1) == whole.argmax(-1)
    largest = (tuned - whole).abs().max().item()
    top1 = same.double().mean().item()
    return {
        "verified": top1 >= min_top1 and largest == largest,  # a NaN is not itself
        "top1": round(top1, 4),
        "largest": round(largest, 4),
        "positions": same.numel(),
        "prompts": len(rows),
        "line": f"merged against adapter: the same likeliest token on {same.sum().item()} of {same.numel()} positions, "
        f"largest logit difference {largest:.3g}",
    }


def _logits(folder: Path, adapter: Path | None, ids: Any) -> Any:
    """The logits of a prompt's last positions, computed with the weights on the disk."""
    import torch

    model = skeleton(folder).eval()
    layers: dict[str, Any] = {}
    found = _found(model, folder)
    if adapter is not None:
        layers = inject(model, read_config(adapter))
        found = _with_adapter(found, model, adapter)
    reader = Reader()
    for path, module in model.named_modules():
        for name, values in module.named_buffers(recurse=False):
            setattr(module, name, values.to(ids.device))
        if path in layers or not any(path.startswith(f"{layer}.") for layer in layers):
            _read_when_used(module, path, path in layers, found, reader, ids.device)
    try:
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=min(_POSITIONS, ids.shape[1])).logits
    finally:
        reader.close()
    return logits.float()


def _found(model: Any, folder: Path) -> dict[str, Tensor]:
    """Where each parameter of the model is; a tied one is where its partner is."""
    found = tensors_in(folder)
    for tie in ties_of(model):
        kept = next(found[name] for name in tie if name in found)
        found |= dict.fromkeys(tie, kept)
    return found


def _with_adapter(found: dict[str, Tensor], model: Any, adapter: Path) -> dict[str, Tensor]:
    """The same after PEFT has put its layers in: by the names that the parameters have there."""
    trained = {tensor.name: tensor for tensor in tensors_of(adapter / WEIGHTS)}
    placed = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        stored = name.replace(f"modules_to_save.{ADAPTER}.", "").replace(f".{ADAPTER}", "")
        stored = stored.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
        if tensor := trained.get(PREFIX + stored):
            placed[name] = tensor
        else:
            placed[name] = found[name.replace(".base_layer.", ".").replace(".original_module.", ".")]
    return placed


def _read_when_used(
    module: Any, path: str, recurse: bool, found: dict[str, Tensor], reader: Reader, device: Any
) -> None:
    """Give a module its weights when it is called and take them away after."""
    from torch.nn import Parameter

    empty = dict(module.named_parameters(path, recurse=recurse))
    if not empty:
        return

    def fill(values: Iterator[tuple[str, Any]]) -> None:
        for name, value in values:
            owner, _, last = name.removeprefix(f"{path}.").rpartition(".")
            setattr(module.get_submodule(owner), last, value)

    def read(*_: Any) -> None:
        fill((name, Parameter(reader.whole(found[name]).float().to(device), requires_grad=False)) for name in empty)

    module.register_forward_pre_hook(read)
    module.register_forward_hook(lambda *_: fill(iter(empty.items())))
