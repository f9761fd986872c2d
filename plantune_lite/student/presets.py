"""Describe the known students: each family's chat template, end-of-turn token and licence.

find("Qwen/Qwen2.5-7B-Instruct").turn_end -> "<|im_end|>"; any other model is loaded by its own tokenizer's settings.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from plantune_lite.plan import SYSTEM
from plantune_lite.student import text_part

# Our templates render like the families' own where a conversation opens with a system turn. Where there is none, they
# add the one that the student was trained with, so that a merged model plans in any program that renders them.
_CHATML = (
    "__BOS__{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\n__SYSTEM__<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + __ROLE__ + '\\n' -}}__CLOSED__"
    "{{- message['content']__TRIM__ + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n__OPENING__' -}}{%- endif -%}"
)
_GEMMA = (
    "{{- bos_token -}}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set system, turns = messages[0]['content'], messages[1:] -%}"
    "{%- else -%}{%- set system, turns = '__SYSTEM__', messages -%}{%- endif -%}"
    "{%- for message in turns -%}"
    "{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' -}}"
    "{%- if loop.first -%}{{- system + '\\n\\n' -}}{%- endif -%}"
    "{{- message['content'] | trim + '<end_of_turn>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"
)

DEQUANTISED = "SmolLM2-135M here is its Q4_1 release, dequantised: the Hub's 16-bit weights may do otherwise."


def _with_system(template: str) -> str:
    return template.replace("__SYSTEM__", SYSTEM.replace("\\", "\\\\").replace("'", "\\'"))


def _chatml(*, trim: bool = False, opening: str = "") -> str:
    """Write ChatML; `opening` comes before the last reply: for models that can think, an empty thought."""
    opening = opening.replace("\n", "\\n")
    last = "{%- if loop.last and message['role'] == 'assistant' -%}{{- '__OPENING__' -}}{%- endif -%}"
    text = _CHATML.replace("__BOS__", "").replace("__ROLE__", "message['role']")
    text = text.replace("__CLOSED__", last if opening else "").replace("__OPENING__", opening)
    return _with_system(text.replace("__TRIM__", " | trim" if trim else ""))


def _gemma4() -> str:
    """Write Gemma 4's turns, which are ChatML's with other tokens."""
    text = _CHATML.replace("__BOS__", "{{- bos_token -}}").replace("__CLOSED__", "").replace("__OPENING__", "")
    text = text.replace("__ROLE__", "('model' if message['role'] == 'assistant' else message['role'])")
    text = text.replace("<|im_start|>assistant", "<|turn>model").replace("<|im_start|>", "<|turn>")
    return _with_system(text.replace("<|im_end|>", "<turn|>").replace("__TRIM__", " | trim"))


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One student family at one size."""

    name: str
    repo: str  # the 16-bit original: an adapter names it as base, and a merge starts from it
    family: Literal["llama", "qwen2", "qwen3", "gemma3_text", "qwen3_5_text", "gemma4_text"]
    parameters: float  # billions
    licence: str  # the Hub's identifier
    licence_url: str | None = None
    chat_template: str
    turn_end: str  # training teaches it and generation stops at it
    bos: str | None  # None: the family has none; else the template writes exactly one
    pad: str  # never the turn's end, or that would not be learned
    stops: tuple[str, ...] = ()  # further tokens that end a reply
    opening: str = ""  # before every reply's text: for models that can think, an empty thought
    float16: bool = True  # False: activations overflow in fp16, so a T4 computes in float32

    @property
    def aliases(self) -> tuple[str, ...]:
        """Return the Hub ids of the same weights, including Unsloth's 4-bit copies; the embedded student has none."""
        copy = "unsloth/" + self.repo.partition("/")[2]
        return () if self.name == "smollm2_135m" else (self.repo, copy, f"{copy}-unsloth-bnb-4bit", f"{copy}-bnb-4bit")

    @property
    def is_part(self) -> bool:
        """Return whether it is the text part of a model that reads images too."""
        return self.family.removesuffix("_text") in text_part.SERVED

    @property
    def wants_gpu(self) -> bool:
        """Return whether the model is too large for a CPU."""
        return self.parameters > 0.5


_with_chatml = partial(
    Preset,
    chat_template=_chatml(),
    turn_end="<|im_end|>",
    bos=None,
    pad="<|endoftext|>",
    stops=("<|endoftext|>",),
    licence="apache-2.0",
)
_NO_THOUGHT = "<think>\n\n</think>\n\n"
_qwen3 = partial(_with_chatml, family="qwen3", chat_template=_chatml(opening=_NO_THOUGHT), opening=_NO_THOUGHT)
_qwen3_5 = partial(
    _with_chatml,
    family="qwen3_5_text",
    chat_template=_chatml(trim=True, opening=_NO_THOUGHT),
    opening=_NO_THOUGHT,
    float16=False,
)
_gemma = partial(
    Preset,
    family="gemma3_text",
    licence="gemma",
    licence_url="https://ai.google.dev/gemma/terms",
    chat_template=_with_system(_GEMMA),
    turn_end="<end_of_turn>",
    bos="<bos>",
    pad="<pad>",
    stops=("<eos>",),
    float16=False,
)
_gemma_4 = partial(
    _gemma,
    family="gemma4_text",
    licence="apache-2.0",
    licence_url=None,
    chat_template=_gemma4(),
    turn_end="<turn|>",
)

PRESETS = (
    _with_chatml(name="smollm2_135m", repo="HuggingFaceTB/SmolLM2-135M-Instruct", family="llama", parameters=0.135),
    _with_chatml(name="smollm2_360m", repo="HuggingFaceTB/SmolLM2-360M-Instruct", family="llama", parameters=0.36),
    _gemma(name="gemma3_270m", repo="google/gemma-3-270m-it", parameters=0.27),
    _gemma(name="gemma3_1b", repo="google/gemma-3-1b-it", parameters=1.0),
    _gemma_4(name="gemma4_e2b", repo="google/gemma-4-E2B-it", parameters=4.6),
    _gemma_4(name="gemma4_e4b", repo="google/gemma-4-E4B-it", parameters=7.5),
    _qwen3(name="qwen3_0_6b", repo="Qwen/Qwen3-0.6B", parameters=0.6),
    _qwen3(name="qwen3_1_7b", repo="Qwen/Qwen3-1.7B", parameters=1.7),
    _qwen3_5(name="qwen3_5_0_8b", repo="Qwen/Qwen3.5-0.8B", parameters=0.75),
    _qwen3_5(name="qwen3_5_2b", repo="Qwen/Qwen3.5-2B", parameters=1.9),
    _qwen3_5(name="qwen3_5_4b", repo="Qwen/Qwen3.5-4B", parameters=4.2),
    # the one without a thinking mode
    _with_chatml(name="qwen3_4b", repo="Qwen/Qwen3-4B-Instruct-2507", family="qwen3", parameters=4.0),
    _with_chatml(name="qwen2_5_7b", repo="Qwen/Qwen2.5-7B-Instruct", family="qwen2", parameters=7.6),
)


def find(model: str) -> Preset | None:
    """Find the preset of that name, repository or alias; None for an unknown model."""
    wanted = model.casefold()
    named = (preset for preset in PRESETS if wanted in {name.casefold() for name in (preset.name, *preset.aliases)})
    return next(named, None)
