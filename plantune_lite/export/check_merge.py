"""Compare a merged model with its adapter.

Input: the folders of base, adapter and merged model, and prompts as token ids. Output: the share of positions with
the same likeliest token, and the largest difference of two logits, in float32:

    compare(adapter, base, merged, prompts) -> {"verified": True, "top1": 0.91, "largest": 1.5, "rounded_top1": 1.0, ...

Two comparisons, because 16 bits cost something: with the adapter as it is, to measure how much (SmolLM2 in bfloat16:
another likeliest token on one position in ten), and with the adapter whose sums are rounded the same way, where nothing
may differ and even one lost matrix shows.

The models run with their weights on disk: each layer is read when it is needed and freed after it, so that a model of
any size is compared in the memory of its largest layer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plantune_lite.export.adapter import Part, open_adapter, skeleton, stored_in, with_ties
from plantune_lite.export.safetensors_io import Tensor
from plantune_lite.types import PlantuneError

PROMPTS = 32  # on which a merged model and its adapter are compared
MIN_TOP1 = 0.99  # of positions, against the rounded adapter
MAX_SHARE = 0.003  # of the logits' spread, that a logit may differ there: sums in another order round differently
_TOKENS = 24  # a prompt is cut to its first and its last ones
_POSITIONS = 16  # a prompt's last ones are compared


def compare(adapter: Path, base: Path, merged: Path, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Run both on the prompts and report how far they agree, and whether the merged model may be released."""
    ids = _ids(prompts)
    opened = open_adapter(adapter, base)
    like_merged = skeleton(merged)
    parts = with_ties(like_merged, opened.parts)
    exact = _logits(opened.model, opened.stored, ids)
    whole = _logits_of(merged, ids)
    top1, largest = _apart(whole, exact)
    rounded_top1, rounded_largest = _apart(whole, _logits(like_merged, parts, ids))
    # A NaN makes every comparison false.
    verified = rounded_top1 >= MIN_TOP1 and rounded_largest <= MAX_SHARE * exact.std().item()
    count = whole.shape[0] * whole.shape[1]
    agreement = f"the same likeliest token on {top1:.1%} of {count} positions, largest logit difference {largest:.3g}"
    return {
        "verified": verified,
        "top1": top1,
        "largest": largest,
        "rounded_top1": rounded_top1,
        "rounded_largest": rounded_largest,
        "positions": count,
        "agreement": agreement,
        "line": f"merged against its adapter in float32: {agreement}; against the adapter rounded to the same 16 bits "
        f"{rounded_top1:.1%} and {rounded_largest:.3g}"
        + ("" if verified else ": this is not the model that was trained"),
    }


def likeliest(folder: Path, prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the prompts as they are compared, and a model's likeliest token after each of their last ones."""
    ids = _ids(prompts)
    return ids.tolist(), _logits_of(folder, ids).argmax(-1).tolist()


def _ids(prompts: Sequence[Sequence[int]]) -> Any:
    import torch

    if not prompts or not all(prompts):
        raise PlantuneError("an exported model is compared on prompts, but there are none, or empty ones")
    length = min(_TOKENS, *(len(prompt) for prompt in prompts))
    rows = [[*prompt[:1], *prompt[len(prompt) - length + 1 :]] for prompt in prompts]
    return torch.tensor(rows, device="cuda" if torch.cuda.is_available() else "cpu")


def _apart(first: Any, second: Any) -> tuple[float, float]:
    """Compute the share of positions with the same likeliest token, and the largest difference of two logits."""
    top1 = (first.argmax(-1) == second.argmax(-1)).double().mean().item()
    return round(top1, 4), float(f"{(first - second).abs().max().item():.3g}")


# --- a model whose weights stay on disk -------------------------------------------------------------------------------


class _Lazy:
    """Values of a model's parameters by name, read on access."""

    def __init__(self, stored: Mapping[str, Tensor | Part]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> Any:
        return self._stored[name].read()


def _logits_of(folder: Path, ids: Any) -> Any:
    model = skeleton(folder)
    return _logits(model, stored_in(folder, model), ids)


def _logits(model: Any, stored: Mapping[str, Tensor | Part], ids: Any) -> Any:
    """Compute the logits of the last positions with a model whose weights are in `stored`."""
    import torch
    from accelerate.hooks import attach_align_device_hook

    # PEFT's layers and Qwen3.5's, by class name, access the layers within them directly: those are loaded together.
    together = ["Linear", "Embedding", "Qwen3_5GatedDeltaNet"]
    shared = getattr(model, "_skip_keys_device_placement", None)  # the states that Gemma 4's layers share
    attach_align_device_hook(
        model.eval(), ids.device, True, _Lazy(stored), preload_module_classes=together, skip_keys=shared
    )
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False, logits_to_keep=min(_POSITIONS, ids.shape[1])).logits
