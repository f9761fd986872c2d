"""Who answers, and what vLLM is asked for; what it answers is tried where it is installed (tests/vllm)."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_student

from plantune_lite.recipe.schema import Student
from plantune_lite.student import presets, vllm_engine
from plantune_lite.student.vllm_engine import Served, load_to_ask, why_not

QWEN = Student("qwen3_4b")


@pytest.fixture
def ada(monkeypatch):
    """A machine with vLLM and an RTX 4070."""
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: name == "vllm")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    monkeypatch.setattr(vllm_engine.attention, "free_on_gpu", lambda: 11 << 30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (11 << 30, 12 << 30))


def test_vllm_answers_by_itself_where_it_is_installed_and_the_gpu_is_fit_for_it(ada):
    assert why_not(QWEN) is None
    assert why_not(Student("qwen3_5_2b", bits=16)) == "vLLM serves the whole model, not its text part"


def test_it_does_not_on_a_t4(ada, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert why_not(QWEN) == "vLLM needs a GPU of capability 8 or more"


def test_it_does_not_where_the_model_leaves_no_room(ada):
    assert why_not(Student("qwen2_5_7b", bits=16)) == "the GPU's free memory is too small for vLLM"


def test_it_does_not_without_a_gpu_or_without_vllm(ada, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_not(QWEN) == "vLLM is meant for a GPU"
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    assert why_not(QWEN) == "vLLM is not installed"


def test_asked_for_where_it_is_missing_it_is_one_line_and_the_student_answers_all_the_same(tmp_path):
    said = []
    base = tiny_student(tmp_path / "base", "llama")
    (base / "chat_template.jinja").write_text(presets.find("smollm2_135m").chat_template, encoding="utf-8")
    part = Student(str(base), bits=32, engine="vllm")
    assert not isinstance(load_to_ask(part, say=said.append), Served)
    [line] = [line for line in said if "vLLM" in line]
    assert line == (
        "warning: vLLM is not installed: pip install 'plantune-lite[vllm]'. The student answers without vLLM"
    )


def test_adapters_of_a_rank_that_vllm_has_no_room_for_are_refused(ada):
    source = vllm_engine.Source(repo="x", revision=None, place="x", backend="vllm")
    assert vllm_engine._arguments(replace(QWEN, lora_rank=24), source, 512)["max_lora_rank"] == 32
    with pytest.raises(vllm_engine.EngineError, match="up to rank 512, but student.lora_rank is 1024"):
        vllm_engine._arguments(replace(QWEN, lora_rank=1024), source, 512)


def test_vllm_leaves_a_tenth_of_the_free_memory_and_makes_16_bit_weights_small(ada):
    source = vllm_engine.Source(repo="x", revision=None, place="x", backend="vllm")
    asked = vllm_engine._arguments(QWEN, source, 512)
    assert asked["gpu_memory_utilization"] == pytest.approx(0.9 * 11 / 12, abs=1e-3)
    assert asked["quantization"] == "bitsandbytes" and not asked["trust_remote_code"]
