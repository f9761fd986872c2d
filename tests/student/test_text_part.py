"""Qwen3.5 and Gemma 4, which read images too: their text part is trained, answers, is merged, exported, estimated."""

import json
import re

import pytest
import torch
from grpo_child import asked, low_ids, many_low_ids
from safetensors.torch import load_file
from tiny import SEERS, tiny_seer, tiny_student
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from plantune_lite.estimate import shapes
from plantune_lite.export.adapter import open_adapter
from plantune_lite.export.check_merge import compare
from plantune_lite.export.merge import merge_adapter
from plantune_lite.pipeline.runner import run
from plantune_lite.plan import as_completion, chat, render
from plantune_lite.recipe.load import load_recipe, override
from plantune_lite.recipe.schema import GRPO, SFT, Student
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.student import attention, presets, text_part, weights
from plantune_lite.student.load import StudentError, load_student
from plantune_lite.train import grpo, sft
from plantune_lite.types import Sampling

PRESET = {"qwen3_5": presets.find("qwen3_5_2b"), "gemma4": presets.find("gemma4_e2b")}
ASKED = chat("A pen costs 3 dollars. What do 4 pens cost?")
QUESTIONS = [chat(f"{text} How much do {count} pens cost?") for count, text in ((2, "A pen costs 3."), (4, "Five."))]
ROWS = [
    {"prompt": question, "completion": as_completion(render(("Multiply.",), f"The answer is \\boxed{{{number}}}."))}
    for number, question in enumerate(QUESTIONS * 4)
]
IDS = torch.arange(40).reshape(2, 20) + 8
PROMPTS = [[(7 * row + place * place) % 320 for place in range(24 + row % 5)] for row in range(8)]


@pytest.fixture(scope="module", params=SEERS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def base(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp(family) / "base"
    return tiny_seer(folder, family, dtype=torch.float32, chat_template=PRESET[family].chat_template)


def part_of(base, bits=32):
    """The targets of the family's recipe: in three of four layers of Qwen3.5 others than attention's."""
    family = json.loads((base / "config.json").read_text())["model_type"]
    targets = load_recipe("qwen3_5_2b_sft" if family == "qwen3_5" else "qwen3_4b_sft").student.lora_targets
    return Student(str(base), bits=bits, lora_rank=4, lora_alpha=8, lora_targets=targets, checkpointing=False)


def load(base, *, bits=32, **how):
    return load_student(part_of(base, bits), say=lambda line: None, **how)


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """Two steps of SFT, and what came out."""
    loaded, out, losses = load(base, training=True), tmp_path_factory.mktemp("sft") / "sft", []
    part = SFT(batch_size=2, accumulate=1, max_steps=2, learning_rate=5e-3)
    reporter = Reporter(metric=lambda step, **named: losses.append(named["loss"]) if "loss" in named else None)
    sft.train(loaded, ROWS, part, out, Training(max_length=512, reporter=reporter))
    return loaded, out, losses


def logits(model, ids=IDS):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


# --- load, train, answer ----------------------------------------------------------------------------------------------


def test_the_text_part_is_loaded_whole_and_says_what_the_whole_model_says(base):
    loaded = load(base)
    whole = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    torch.testing.assert_close(logits(loaded.model), logits(whole))
    assert not any("vision" in name or "visual" in name for name, _ in loaded.model.named_parameters())


@pytest.mark.parametrize("bits", [4, 16])
def test_in_fewer_bits_it_is_loaded_and_answers_too(base, bits):
    loaded = load(base, bits=bits, training=True)
    [[reply]] = loaded.generate([ASKED], Sampling(max_tokens=3))
    assert 0 < reply.tokens_out <= 3


def test_two_steps_of_sft_move_the_adapter_which_bears_a_text_models_names(trained):
    _, out, losses = trained
    adapter = load_file(out / "adapter_model.safetensors")
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)
    assert all(name.startswith("base_model.model.model.layers.") for name in adapter)
    assert any(values.any() for name, values in adapter.items() if "lora_B" in name)


def test_two_steps_of_grpo_move_the_adapter(base, tmp_path):
    rewards, loaded = [], load(base, training=True)
    reporter = Reporter(metric=lambda step, **named: rewards.append(named["reward"]) if "reward" in named else None)
    # The paper's settings also learn from answers that are cut off, as a random model's all are.
    part = GRPO(settings="paper", steps=2, group=4, prompts_per_step=2, max_completion=16, learning_rate=1e-2)
    rewarded = grpo.Rewards(lambda most: [("low_ids", low_ids, 1.0)], many_low_ids)
    grpo.train(loaded, asked(6), rewarded, part, tmp_path / "grpo", Training(max_length=512, reporter=reporter))
    adapter = load_file(tmp_path / "grpo" / "adapter_model.safetensors")
    assert len(rewards) == 2 and all(0 < reward < 1 for reward in rewards)
    assert all(values.isfinite().all() for values in adapter.values())
    assert any(values.any() for name, values in adapter.items() if "lora_B" in name)


def test_the_chunked_loss_is_the_plain_one_also_where_scores_are_capped(base, tmp_path):
    found = []
    for kind in ("chunked_nll", "nll"):
        part = SFT(batch_size=2, accumulate=1, max_steps=1, learning_rate=0, extra={"loss_type": kind})
        reporter = Reporter(metric=lambda step, **named: found.append(named["loss"]) if "loss" in named else None)
        sft.train(load(base, training=True), ROWS, part, tmp_path / kind, Training(reporter=reporter))
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_a_batch_answers_as_each_question_alone_and_as_transformers_own_generate(base):
    loaded = load(base)
    sampling = Sampling(max_tokens=12)
    together = [reply.token_ids for [reply] in loaded.generate(QUESTIONS, sampling)]
    alone = [loaded.generate([question], sampling)[0][0].token_ids for question in QUESTIONS]
    own = []
    for question in QUESTIONS:
        ids = torch.tensor([loaded.encode_chat(question)])
        made = loaded.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
        ends = loaded.model.generation_config.eos_token_id
        own.append(tuple(id for id in made if id not in ends))
    assert together == alone == own


def test_a_memory_of_another_kind_than_keys_and_values_is_not_joined(base, family):
    assert attention.can_join(load(base).model.config) == (family == "gemma4")


def test_the_adapter_on_the_disk_answers_as_the_one_in_memory(trained, base):
    loaded, out, _ = trained
    torch.testing.assert_close(logits(load(base, adapter=out).model), logits(loaded.model))


# --- merge, estimate --------------------------------------------------------------------------------------------------


def test_the_merged_model_is_a_text_model_and_equals_its_adapter(trained, base, tmp_path):
    loaded, out, _ = trained
    merge_adapter(out, base, tmp_path / "merged")
    merged, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    torch.testing.assert_close(logits(merged), logits(loaded.model), rtol=1e-4, atol=1e-5)
    checked = compare(out, base, tmp_path / "merged", PROMPTS)
    assert checked["verified"] and checked["rounded_top1"] == 1
    named = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "vision_config" not in named and named["architectures"] == [type(merged).__name__]


def test_every_matrix_of_the_adapter_finds_its_layer_in_the_base(trained, base):
    _, out, _ = trained
    known = open_adapter(out, base).parts
    for name in load_file(out / "adapter_model.safetensors"):
        assert f"{name.removeprefix('base_model.model.').rpartition('.lora_')[0]}.weight" in known


def test_its_size_is_counted_exactly(base, trained):
    loaded, _, _ = trained
    shape = shapes.of(str(base))
    sizes = {name: values.numel() for name, values in loaded.model.named_parameters()}
    assert shape.parameters == sum(size for name, size in sizes.items() if "lora_" not in name)
    assert shape.adapter(4, part_of(base).lora_targets) == sum(size for name, size in sizes.items() if "lora_" in name)


# --- what is not served -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "gemma3", "vision_config": {}}, "reads more than text: .* qwen3_5 and gemma4 is served"),
        ({"model_type": "never_heard_of"}, "cannot be loaded .* transformers .* has no 'never_heard_of'"),
        ({"model_type": "vit"}, "has no 'vit' that generates text"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_before_anything_is_spent(config, why, tmp_path):
    tiny_student(tmp_path, "llama")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StudentError, match=why):
        weights.check_access(Student(str(tmp_path)), None)
    with pytest.raises(StudentError, match=re.escape(str(tmp_path))):
        load(tmp_path)
    with pytest.raises(StudentError, match=why):
        shapes.of(str(tmp_path))


def test_run_refuses_it_and_does_nothing(tmp_path):
    tiny_student(tmp_path / "base", "llama")
    (tmp_path / "base" / "config.json").write_text('{"model_type": "gemma3", "vision_config": {}}')
    asked = override(load_recipe("smollm2_135m"), [f"student.model={tmp_path / 'base'}"])
    with pytest.raises(StudentError, match="reads more than text"):
        run(asked, to=tmp_path / "run", say=lambda line: None)
    assert not (tmp_path / "run" / "trajectories.jsonl").exists()


def test_a_served_one_is_known_by_its_class(base, family):
    name = {"qwen3_5": "Qwen3_5ForCausalLM", "gemma4": "Gemma4ForCausalLM"}[family]
    assert weights.check_access(Student(str(base)), None) == name
    assert text_part.is_part(json.loads((base / "config.json").read_text()))
