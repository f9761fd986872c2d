"""Attention for one new token at a time, where transformers would copy more than it computes.

    from_pretrained(..., attn_implementation=register())
    generate(..., past_key_values=memory_of(config))      what was read and said, with room for more

Several heads of a query share one head of keys. transformers repeats the keys for each of them at every token; here the
heads that share them are so many queries of one head, which is the same sum without the copy. And a token is added to
what is remembered without copying the rest.
"""

from functools import cache
from typing import Any

NAME = "plantune_sdpa"
ROOM = 64  # tokens that room is made for at a time


def register() -> str:
    """Make this attention known to transformers; its masks are those of sdpa."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def memory_of(config: Any) -> Any:
    """Return an empty memory for a model; layers of another kind, say of a sliding window, are transformers' own."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    memory = DynamicCache(config=config)
    memory.layers = [_roomy_layer()() if type(layer) is DynamicLayer else layer for layer in memory.layers]
    return memory


def remembers_all(memory: Any) -> bool:
    """Tell whether every layer remembers from the first token on."""
    return all(isinstance(layer, _roomy_layer()) for layer in memory.layers)


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
            # Rows that were left out made new tensors of the others.
            in_place = before and self.room and self.keys.data_ptr() == self.room[0].data_ptr()
            if not in_place or end > self.room[0].shape[-2]:
                known = (self.keys, self.values) if before else None
                self.room = tuple(
                    torch.empty((*new.shape[:2], end + ROOM, new.shape[-1]), dtype=new.dtype, device=new.device)
                    for new in (key_states, value_states)
                )
                for room, old in zip(self.room, known or (), strict=bool(known)):
                    room[:, :, :before] = old
            for room, new in zip(self.room, (key_states, value_states), strict=True):
                room[:, :, before:end] = new
            self.is_initialized = True
            self.keys, self.values = (room[:, :, :end] for room in self.room)
            return self.keys, self.values

    return RoomyLayer
