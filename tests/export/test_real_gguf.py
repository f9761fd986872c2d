"""From a tiny random student under its family's real tokenizer to a GGUF file that llama.cpp cuts text by."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from real_tokenizers import ROWS, as_on_the_hub, real_tokenizer
from tiny import SEERS, tiny_model, tiny_seer
from transformers import AutoTokenizer

from plantune_lite.export import gguf
from plantune_lite.export.merge import merge_adapter
from plantune_lite.plan import chat, render
from plantune_lite.recipe.schema import Student
from plantune_lite.student import presets, smollm2
from plantune_lite.student.chat import encode_chat
from plantune_lite.student.load import Loaded, load_student

VOCABULARY = {"gemma3_1b": "llama", "qwen3_4b": "gpt2", "qwen2_5_7b": "gpt2"}
TEXTS = (
    render(("Find the price of 4 pens.", "Multiply by \\frac{1}{2}"), "4 * 3 = 12.\n\nThe answer is \\boxed{36}."),
    "two  spaces,\ta tab,\n\n\nlines, 1234567.89 and 3/4",
    "don't — ñ 漢字 🙂 ＋１２ \u200b",
    "x = {'a': [1, 2]}\n    return x  # <b>",
    "<start_of_turn>user\nTwo?<end_of_turn>\n<|im_start|>user\nTwo?<|im_end|>\n",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", VOCABULARY)
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


@pytest.mark.slow
@pytest.mark.parametrize("family", SEERS)
def test_a_text_part_and_its_lora_are_files_that_llama_cpp_runs(family, tmp_path):
    """Qwen3.5 under SmolLM2's tokenizer and Gemma 4 under Gemma-3's with its turns: their own are not here."""
    pytest.importorskip("llama_cpp")
    preset, base = presets.find({"qwen3_5": "qwen3_5_2b", "gemma4": "gemma4_e2b"}[family]), tmp_path / "base"
    rows = {"qwen3_5": 49_152, "gemma4": 262_145}[family]
    more = {"vocab_size_per_layer_input": rows} if family == "gemma4" else {"hidden_size": 256, "head_dim": 64}
    tiny_seer(base, family, vocab_size=rows, initializer_range=0.2, **more)
    files = real_tokenizer("gemma3_1b").folder if family == "gemma4" else smollm2.folder()
    for file in [file for file in files.iterdir() if "token" in file.name]:
        text = file.read_text("utf-8").replace("<start_of_turn>", "<|turn>").replace("<end_of_turn>", "<turn|>")
        (base / file.name).write_text(text, "utf-8")
    tokenizer = AutoTokenizer.from_pretrained(base)
    if family == "gemma4":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn>"]})
    tokenizer.chat_template = preset.chat_template
    tokenizer.save_pretrained(base)
    student = Student(str(base), bits=16, lora_rank=4, lora_alpha=8, checkpointing=False)
    loaded = load_student(student, training=True, say=lambda line: None)
    for name, values in loaded.model.named_parameters():
        if "lora_B" in name:
            values.data += 0.1 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values.dtype)
    loaded.save(tmp_path / "sft")
    merge_adapter(tmp_path / "sft", base, tmp_path / "merged", preset=preset)
    prompts = [encode_chat(loaded.tokenizer, chat(question)) for question in ("How many legs have 3 hens?", "Two?")]
    model = gguf.Model(
        merged=tmp_path / "merged", name="tiny", preset=preset, prompts=prompts, adapter=tmp_path / "sft", base=base
    )
    made = gguf.export_gguf(model, tmp_path / "gguf", ("f16", "lora_gguf"))["gguf"]
    assert {name: found["ran"] for name, found in made.items()} == {"tiny-F16.gguf": True, "tiny-lora.gguf": True}
