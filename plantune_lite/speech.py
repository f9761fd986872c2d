"""How a student is spoken to, in token ids: one way for training, reinforcement and evaluation alike.

encode_chat(tokenizer, chat("What is 2+3?")) -> [1, 9690, 198, ...]: exactly one BOS where the family has one, none
where not, our own system turn, no thinking. What a template has rendered is never given a second BOS.
"""

from typing import Any

from plantune_lite.presets import Preset
from plantune_lite.records import Messages, PlantuneError

_PROBE = "plantune-turn"


def encode_chat(tokenizer: Any, messages: Messages, *, for_reply: bool = True) -> list[int]:
    """Token ids of a conversation: up to where the reply begins, or whole with every turn closed.

    With for_reply a last assistant message is the beginning of that reply, to go on from.
    """
    begun = ""
    if for_reply and messages[-1]["role"] == "assistant":
        messages, begun = messages[:-1], messages[-1]["content"]
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=for_reply)
    ids = encode(tokenizer, text)
    # A reply is generated token by token behind these ids, so its beginning is encoded behind them too.
    return ids + encode(tokenizer, begun) if begun else ids


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text as it stands: what a template has written is not added to."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def prepare(tokenizer: Any, preset: Preset) -> Preset:
    """Give the tokenizer the preset's template and pad token; refuse one that lacks the preset's tokens."""
    known = tokenizer.get_vocab()
    for name, token in (("turn end", preset.turn_end), ("pad", preset.pad)):
        if token not in known:
            raise PlantuneError(
                f"{preset.title}: its tokenizer has no {token!r}, the {name} token of this preset. Is this the model "
                "it says it is? A model of your own is given by its folder or Hub id."
            )
    if preset.pad == preset.turn_end:
        raise PlantuneError(f"{preset.title}: pad and turn end are both {preset.pad!r}; the end would not be learned")
    tokenizer.chat_template = preset.chat_template
    tokenizer.pad_token = preset.pad
    tokenizer.eos_token = preset.turn_end
    if preset.bos is not None:
        tokenizer.bos_token = preset.bos
    return preset


def settle(model: Any, tokenizer: Any, preset: Preset) -> None:
    """Replace the model's own generation settings: Qwen2.5's repeat penalty and sampling would stay in force unseen."""
    from transformers import GenerationConfig

    ends = tokenizer.convert_tokens_to_ids([preset.turn_end, *preset.stops])
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    model.config.pad_token_id = tokenizer.pad_token_id


# --- a model that is no preset ----------------------------------------------------------------------------------------


def end_of_turn(tokenizer: Any) -> str:
    """The token that closes an assistant's turn: the first special one that the template writes after its text."""
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": _PROBE}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    after = encode(tokenizer, rendered.partition(_PROBE)[2])
    special = set(tokenizer.all_special_ids) | {id for id, one in tokenizer.added_tokens_decoder.items() if one.special}
    ends = [id for id in after if id in special]
    if not ends and tokenizer.eos_token_id is None:
        raise PlantuneError("this tokenizer has no token that ends a turn: a model trained on it would never stop")
    return tokenizer.convert_ids_to_tokens(ends[0] if ends else tokenizer.eos_token_id)


def beginning(tokenizer: Any) -> str | None:
    """The BOS token where the template writes one."""
    ids = encode_chat(tokenizer, ({"role": "user", "content": "hi"},))
    return tokenizer.bos_token if ids and ids[0] == tokenizer.bos_token_id else None


def padding(tokenizer: Any, turn_end: str) -> str:
    """A pad token that is no end of a turn: the tokenizer's own, else a special one that nothing else uses."""
    used = {turn_end, tokenizer.eos_token, tokenizer.bos_token}
    candidates = [tokenizer.pad_token, *(str(one) for one in tokenizer.added_tokens_decoder.values() if one.special)]
    free = [token for token in candidates if token is not None and token not in used]
    reserved = [token for token in free if any(word in token.lower() for word in ("pad", "reserved", "unused"))]
    for token in (*reserved, *free, tokenizer.unk_token):
        if token is not None and token not in used:
            return token
    raise PlantuneError(f"this tokenizer has no token to pad with besides {turn_end!r}: add one to it first")
