"""From a tiny random student under its family's real tokenizer to a GGUF file that llama.cpp cuts text by."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from real_tokenizers import PACKAGES, ROWS, as_on_the_hub, real_tokenizer
from tiny import tiny_model

from plantune_lite.export import gguf
from plantune_lite.export.merge import merge_adapter
from plantune_lite.plan import chat, render
from plantune_lite.student.chat import encode_chat
from plantune_lite.student.load import Loaded

VOCABULARY = {"gemma3_1b": "llama", "qwen3_4b": "gpt2", "qwen2_5_7b": "gpt2"}
TEXTS = (
    render(("Find the price of 4 pens.", "Multiply by \\frac{1}{2}"), "4 * 3 = 12.\n\nThe answer is \\boxed{36}."),
    "two  spaces,\ta tab,\n\n\nlines, 1234567.89 and 3/4",
    "don't — ñ 漢字 🙂 ＋１２ \u200b",
    "x = {'a': [1, 2]}\n    return x  # <b>",
    "<start_of_turn>user\nTwo?<end_of_turn>\n<|im_start|>user\nTwo?<|im_end|>\n",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_text_is_cut_in_llama_cpp_as_by_the_familys_own_tokenizer(name, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    real = real_tokenizer(name)
    base, adapter, merged = tmp_path / "base", tmp_path / "sft", tmp_path / "merged"
    # llama.cpp takes Gemma's scale of attention from the width of a head, as in the real one, where both are 256.
    scale = {"query_pre_attn_scalar": 16} if real.preset.family == "gemma3_text" else {}
    model = tiny_model(real.preset.family, dtype=torch.bfloat16, vocab_size=ROWS[name], initializer_range=0.2, **scale)
    model.save_pretrained(base)
    as_on_the_hub(real, base)
    with_lora = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    Loaded(with_lora, real.tokenizer, real.preset, None).save(adapter)
    merge_adapter(adapter, base, merged, preset=real.preset)

    prompts = [encode_chat(real.tokenizer, chat(question)) for question in ("How many legs have 3 hens?", "Two?")]
    student = gguf.Model(merged=merged, name="tiny", preset=real.preset, prompts=prompts)
    assert gguf.export_gguf(student, tmp_path, ("f16",))["gguf"]["tiny-F16.gguf"]["ran"]
    file = llama_cpp.Llama(str(tmp_path / "tiny-F16.gguf"), vocab_only=True, verbose=False)
    assert file.metadata["tokenizer.ggml.model"] == VOCABULARY[name]
    for text in TEXTS:
        assert file.tokenize(text.encode(), add_bos=False, special=True) == real.cut(text)
