"""Compute attention for one new token at a time, where transformers would copy more than it computes.

    from_pretrained(..., attn_implementation=register())
    generate(..., past_key_values=memory_of(config))      a KV cache with room for more

Several query heads share one key head. transformers repeats the keys for each of them at every token; here the heads
that share keys become several queries of one head, which is the same sum without the copy. And a token is added to the
KV cache without copying the rest.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

NAME = "plantune_sdpa"
ROOM = 64  # tokens by which the cache grows


def register() -> str:
    """Register this attention with transformers; its masks are those of sdpa."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def memory_of(config: Any) -> Any:
    """Return an empty KV cache for a model.

    A sliding-window layer caches everything too: its mask leaves out the rest.
    """
    from transformers.cache_utils import DynamicCache

    memory = DynamicCache(config=config)
    memory.layers = [_roomy_layer()() for _ in memory.layers]
    return memory


def can_join(config: Any) -> bool:
    """Return whether two KV caches can be joined row by row: all layers of the model are attention."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers)


def has_window(config: Any) -> bool:
    """Return whether a layer has a sliding window: padding within a row would count against it."""
    return any("sliding" in kind for kind in getattr(config.get_text_config(), "layer_types", None) or ())


def chosen(memory: Any, rows: list[int], start: int = 0) -> Any:
    """Return the KV cache of these rows, from a column on."""
    return _of((layer.keys[rows, :, start:], layer.values[rows, :, start:]) for layer in memory.layers)


def joined(first: Any, second: Any) -> Any:
    """Return the KV cache of both caches' rows; the shorter is padded on the left."""
    import torch

    width = max(first.get_seq_length(), second.get_seq_length())

    def both(*known: Any) -> Any:
        pad = torch.nn.functional.pad
        return torch.cat([pad(tensor, (0, 0, width - tensor.shape[-2], 0)) for tensor in known])

    pairs = zip(first.layers, second.layers, strict=True)
    return _of((both(layer.keys, other.keys), both(layer.values, other.values)) for layer, other in pairs)


def _of(known: Iterable[tuple[Any, Any]]) -> Any:
    """Build a KV cache from each layer's keys and values."""
    from transformers.cache_utils import DynamicCache

    memory = DynamicCache()
    for keys, values in known:
        layer = _roomy_layer()()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        memory.layers.append(layer)
    return memory


def _attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **settings: Any) -> tuple[Any, None]:
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, length, width = query.shape
    shared = key.shape[1]
    if length > 1 or heads == shared:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    together = query.view(rows, shared, heads // shared, width)
    seen = scaled_dot_product_attention(
        together, key, value, attn_mask=attention_mask, scale=settings.get("scaling"), is_causal=False
    )
    return seen.reshape(rows, 1, heads, width), None


@cache
def _roomy_layer() -> Any:
    import torch
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        """Keys and values in tensors with room for more."""

        keys: Any
        values: Any
        room: tuple[Any, ...] = ()

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            before = self.get_seq_length()
            end = before + key_states.shape[-2]
            states = (key_states, value_states)
            # Dropping rows copies the others into new tensors.
            in_place = before and self.room and self.keys.data_ptr() == self.room[0].data_ptr()
            if not in_place or end > self.room[0].shape[-2]:
                known = (self.keys, self.values) if before else (new[:, :, :0] for new in states)
                pad = torch.nn.functional.pad
                self.room = tuple(pad(old, (0, 0, 0, end - before + ROOM)) for old in known)
            for room, new in zip(self.room, states, strict=True):
                room[:, :, before:end] = new
            self.is_initialized = True
            self.keys, self.values = (room[:, :, :end] for room in self.room)
            return self.keys, self.values

    return RoomyLayer


# --- the machine's memory ---------------------------------------------------------------------------------------------


def bytes_a_token(model: Any) -> int:
    """Return the KV cache's size per token: a key and a value, every layer and head."""
    config = model.config.get_text_config()
    # Layers may differ in their keys, or have none.
    keys = sum(part.out_features for name, part in model.named_modules() if name.endswith(".k_proj"))
    if not keys:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        keys = config.num_hidden_layers * heads * width
    return int(2 * keys * (4 if "32" in str(model.dtype) else 2))


_REMEMBERED: tuple[str, ...] = ("paged_attention", "paged_attention_K", "paged_attention_V", "attention")
_REMEMBERED += ("temp_QA", "temp_KV", "temp_O", "RH_Q")


def forget_last_batch(model: Any) -> None:
    """Drop Unsloth's KV cache of the last batch, so that free memory can be measured before the next one."""
    for module in model.modules():
        if "paged_attention" in vars(module):
            for name in _REMEMBERED:
                vars(module).pop(name, None)


def free_on_gpu() -> int:
    """Return the bytes of the GPU that a batch can take."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def free_here() -> int:
    """Return the bytes of RAM that the system could give."""
    try:  # MemAvailable, which is far more than MemFree: the page cache fills that
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 << 30  # not Linux


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on the GPU or on the host."""
    import torch

    text = str(error).lower()
    words = ("can't allocate memory", "out of memory", "cublas_status_alloc_failed")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in text for word in words)
