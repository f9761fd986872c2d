"""Run a GGUF file with llama.cpp before it is released, and compare its output with the merged model's.

    expected = read_expected(merged, prompts)
    check_file("q8_0", file, expected)
    -> {"ran": True, "agreement": "the same likeliest token on 99.4% of 512 positions"}

It must load, have the same chat template, tokenise a conversation into the same tokens, stop at the same end of a turn,
and predict the same likeliest tokens as the merged model in float32; else it is an error.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plantune_lite.export import check_merge
from plantune_lite.export.llama_cpp import GGUFError, run_child

LEAST = {"f16": 0.95, "bf16": 0.95, "q8_0": 0.9, "lora_gguf": 0.75}  # share of positions with the same likeliest token
LEAST_OF_A_K_QUANT = 0.5
_CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say  it:\n\n 1234,\tñ — 漢字 'don't'"},
    {"role": "assistant", "content": "\\boxed{3}"},
    {"role": "user", "content": "And 4?"},
]


@dataclass(frozen=True)
class Expected:
    """Output of transformers for a merged model."""

    rows: list[list[int]]  # token ids
    likeliest: list[list[int]]  # the likeliest token after each of a row's last ones
    template: str | None
    text: str  # a rendered conversation; empty where there is no template
    tokens: list[int]  # its tokens
    end: int | None  # the token that ends a turn


def read_expected(merged: Path, prompts: Sequence[Sequence[int]]) -> Expected:
    """Run a merged model on the prompts, and its tokenizer on a conversation."""
    from transformers import AutoTokenizer

    rows, likeliest = check_merge.likeliest(merged, prompts)
    tokenizer = AutoTokenizer.from_pretrained(merged, trust_remote_code=False)
    template = tokenizer.chat_template
    text = tokenizer.apply_chat_template(_CHAT, tokenize=False, add_generation_prompt=True) if template else ""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Expected(rows, likeliest, template, text, tokens, tokenizer.eos_token_id)


def check_file(kind: str, file: Path, expected: Expected, under: Path | None = None) -> dict[str, Any]:
    """Run a file, a LoRA's over its base's, and raise where it differs from the merged model."""
    name, result = file.name, _run(file, expected, under)
    if under is None:
        _check_chat(name, result, expected)
    pairs = [
        (got, want)
        for row in zip(result["likeliest"], expected.likeliest, strict=True)
        for got, want in zip(*row, strict=True)
    ]
    top1 = sum(got == want for got, want in pairs) / len(pairs)
    agreement = f"the same likeliest token on {top1:.1%} of {len(pairs)} positions"
    least = LEAST.get(kind, LEAST_OF_A_K_QUANT)
    if top1 < least:
        raise GGUFError(
            f"{name} does not agree with the merged model: {agreement}, at least {least:.0%} are required. It was not "
            "kept. Set a larger one in export.formats, or export.formats=merged for no GGUF."
        )
    return {"ran": True, "agreement": agreement}


def _check_chat(name: str, result: dict[str, Any], expected: Expected) -> None:
    if result["template"] != expected.template:
        raise GGUFError(f"{name} has another chat template than the merged model. It was not kept.")
    if result["tokens"] != expected.tokens:
        raise GGUFError(
            f"{name} tokenises a conversation as {result['tokens']}, transformers as {expected.tokens}. It was not "
            "kept: llama.cpp does not know this model's tokenizer; export.formats=merged needs no GGUF."
        )
    if not result["stops"]:
        raise GGUFError(f"{name} does not stop where the merged model ends its turn. It was not kept.")


def _run(file: Path, expected: Expected, under: Path | None) -> dict[str, Any]:
    model, lora = (str(under), str(file)) if under else (str(file), None)
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_text(json.dumps({**asdict(expected), "file": model, "lora": lora}), encoding="utf-8")
        run_child("run", job, failed=f"llama.cpp cannot run {file.name}, which was not kept")
        return json.loads(job.read_text(encoding="utf-8"))
