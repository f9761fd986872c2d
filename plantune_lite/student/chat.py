"""Encode conversations with a student as token ids, the same way for training, GRPO and evaluation.

encode_chat(tokenizer, chat("What is 2+3?")) -> [1, 9690, 198, ...]: exactly one BOS where the family has one, else
none; our own system turn; no thinking. A rendered template never gets a second BOS.
"""

import json
from pathlib import Path
from typing import Any

from plantune_lite.files import write_whole
from plantune_lite.plan import SYSTEM
from plantune_lite.student.presets import Preset
from plantune_lite.types import Messages, PlantuneError

_PROBE = "plantune-turn"
_USER, _ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": _PROBE}

# Prepended to a model's own template, so that it opens with our system turn in any program that renders it.
_OUR_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' -%}"
    f"{{%- set messages = [{{'role': 'system', 'content': {json.dumps(SYSTEM)}}}] + messages -%}}"
    "{%- endif -%}"
)
_SYSTEM_IN_USER = (
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']}]"
    " + messages[2:] -%}"
)
_NO_THINKING = "{%- set enable_thinking = false -%}"


def encode_chat(tokenizer: Any, messages: Messages, *, for_reply: bool = True) -> list[int]:
    """Encode a conversation: up to where the reply begins, or whole with every turn closed.

    With for_reply a last assistant message is the beginning of that reply, to continue.
    """
    control = control_tokens(tokenizer)
    messages = tuple({**turn, "content": _without(control, turn["content"])} for turn in messages)
    begun = ""
    if for_reply and messages[-1]["role"] == "assistant":
        messages, begun = messages[:-1], messages[-1]["content"]
    ids = encode(tokenizer, _rendered(tokenizer, messages, add_generation_prompt=for_reply))
    # A reply is generated token by token after these ids, so its beginning is encoded separately too.
    return ids + encode(tokenizer, begun) if begun else ids


def control_tokens(tokenizer: Any) -> list[str]:
    """List the tokens that begin turns, end them or pad: text that spells one would be read as control."""
    special = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return [token for token in {*tokenizer.all_special_tokens, *special} if token]


def _without(control: list[str], text: str) -> str:
    """Remove control tokens from a text: a question that spells the end of its turn would forge another turn."""
    while spelled := [token for token in control if token in text]:
        for token in spelled:
            text = text.replace(token, "")
    return text


def encode(tokenizer: Any, text: str) -> list[int]:
    """Encode a text as it is, without adding special tokens: a template has written them already."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _rendered(tokenizer: Any, messages: Messages, **how: Any) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, **how)


def prepare(tokenizer: Any, preset: Preset) -> Preset:
    """Set the preset's template and its turn-end and padding tokens on the tokenizer."""
    tokenizer.chat_template = preset.chat_template
    tokenizer.pad_token = preset.pad
    tokenizer.eos_token = preset.turn_end
    if preset.bos is not None:
        tokenizer.bos_token = preset.bos
    return preset


def settle(model: Any, tokenizer: Any, preset: Preset) -> None:
    """Replace the model's own generation settings: Qwen2.5's repeat penalty and sampling would silently apply."""
    from transformers import GenerationConfig

    ends = tokenizer.convert_tokens_to_ids([preset.turn_end, *preset.stops])
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    model.config.pad_token_id = tokenizer.pad_token_id


# --- a model without a preset -----------------------------------------------------------------------------------------


def preset_from_tokenizer(name: str, model: Any, tokenizer: Any) -> Preset:
    """Build a preset for an unknown model from its tokenizer."""
    if not tokenizer.chat_template:
        raise PlantuneError(
            f"student.model is {name}, which has no chat template: use an instruct model, not a base one"
        )
    turn_end = end_of_turn(tokenizer)
    return Preset(
        name=name,
        repo=name,
        family=model.config.model_type,
        parameters=model.num_parameters() / 1e9,
        licence="unknown",
        chat_template=template_of(tokenizer),
        turn_end=turn_end,
        bos=beginning(tokenizer),
        pad=padding(tokenizer, turn_end),
        stops=(tokenizer.eos_token,) if tokenizer.eos_token not in (None, turn_end) else (),
    )


def template_of(tokenizer: Any) -> str:
    """Adapt the model's own template: open with our system turn, turn thinking off."""
    from jinja2 import TemplateError

    template = tokenizer.get_chat_template()
    if SYSTEM in _rendered(tokenizer, (_USER,)):  # one of our students, already adapted
        return template
    try:
        has_system = _PROBE in _rendered(tokenizer, ({"role": "system", "content": _PROBE}, _USER))
    except TemplateError:  # "System role not supported"
        has_system = False
    thinking = _NO_THINKING if "enable_thinking" in template else ""
    return thinking + _OUR_SYSTEM + ("" if has_system else _SYSTEM_IN_USER) + template


def end_of_turn(tokenizer: Any) -> str:
    """Return the token that closes an assistant's turn: the first added one that the template writes after its text."""
    added = {id: str(token) for id, token in tokenizer.added_tokens_decoder.items() if not str(token).isspace()}
    after = encode(tokenizer, _rendered(tokenizer, (_USER, _ASSISTANT)).partition(_PROBE)[2])
    end = next((added[id] for id in after if id in added), tokenizer.eos_token)
    if end is None:
        raise PlantuneError("this tokenizer has no token that ends a turn: a model trained on it would never stop")
    return end


def beginning(tokenizer: Any) -> str | None:
    """Return the BOS token if the template writes one."""
    ids = encode_chat(tokenizer, (_USER,))
    return tokenizer.bos_token if ids[0] == tokenizer.bos_token_id else None


def padding(tokenizer: Any, turn_end: str) -> str:
    """Return a pad token that does not end a turn: the tokenizer's own, else an unused added one."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    spare = [token for token in added if any(word in token.lower() for word in ("pad", "reserved", "unused"))]
    for token in (tokenizer.pad_token, *spare, tokenizer.unk_token, *added):
        if token not in (None, turn_end, tokenizer.bos_token):
            return token
    raise PlantuneError(f"this tokenizer has no token to pad with besides {turn_end!r}: add one to it first")


def for_everybody(folder: Path, tokenizer: Any) -> None:
    """Rewrite a saved tokenizer so that transformers 4 reads it, without this machine's paths."""
    config = read_config(folder / "tokenizer_config.json")
    # transformers 5 leaves it out, and llama.cpp's converter then takes Gemma's <start_of_turn> for text.
    config["added_tokens_decoder"] = {id: token.__getstate__() for id, token in tokenizer.added_tokens_decoder.items()}
    # transformers 5 writes two fields that version 4 cannot read, and many programs that run models still have 4.
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    for name in ("name_or_path", "tokenizer_file"):
        config.pop(name, None)
    write_config(folder / "tokenizer_config.json", config)


def read_config(path: Path) -> dict[str, Any]:
    """Read one of a model folder's JSON files."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise PlantuneError(f"{path} is missing or not JSON ({error}): fetch the model again") from None


def write_config(path: Path, content: dict[str, Any]) -> None:
    """Write one of a model folder's JSON files."""
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
