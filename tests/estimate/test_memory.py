import json
import weakref
from functools import cache

import pytest
from huggingface_hub import constants
from loopback_hub import LoopbackHub

from plantune_lite import CPL, GRPO, SFT, Distill, Evaluate, Export, Problems, Recipe, Student
from plantune_lite.estimate import devices, fit, memory, shapes
from plantune_lite.recipe.load import load_recipe, override, shipped
from plantune_lite.student import presets
from plantune_lite.types import PlantuneError

ALL = Student("x").lora_targets
ATTENTION = ALL[:4]
FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text")


# --- shapes: counts that can be exact ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("smollm2_135m", 134_515_008),
        ("smollm2_360m", 361_821_120),
        ("gemma3_270m", 268_098_176),
        ("gemma3_1b", 999_885_952),
        ("gemma4_e2b", 4_628_569_344),
        ("gemma4_e4b", 7_463_013_376),
        ("qwen3_0_6b", 596_049_920),
        ("qwen3_1_7b", 1_720_574_976),
        ("qwen3_5_0_8b", 752_393_024),
        ("qwen3_5_2b", 1_881_825_088),
        ("qwen3_5_4b", 4_205_751_296),
        ("qwen3_4b", 4_022_468_096),
        ("qwen2_5_7b", 7_615_616_512),
    ],
)
def test_the_presets_have_the_parameters_their_makers_count(name, parameters):
    assert shapes.of(name).parameters == parameters
    assert shapes.of(name).weights(16) == 2 * parameters
    if presets.find(presets.find(name).repo):  # the embedded student's weights are not the Hub's
        assert shapes.of(presets.find(name).repo) is shapes.of(name)


@cache
def tiny(family, layers=3, dtype="float32", rank=8, targets=ALL, dropout=0.0, attention="sdpa", **other):
    """A small random model of the family with an adapter, and its shape as its own configuration has it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config

    torch.manual_seed(0)
    kinds = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "gemma3_text": Gemma3TextConfig}
    sizes = {"hidden_size": 96, "intermediate_size": 288, "num_attention_heads": 4, "num_key_value_heads": 2}
    head = {"head_dim": 24, "vocab_size": 160, "attn_implementation": attention}
    head |= {"sliding_window": 32} if family == "gemma3_text" else {}
    config = kinds[family](**(sizes | head | {"num_hidden_layers": layers} | other))
    base = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    lora = LoraConfig(r=rank, target_modules=list(targets), lora_dropout=dropout, task_type="CAUSAL_LM")
    return get_peft_model(base, lora), shapes.from_config(json.loads(config.to_json_string(use_diff=False)))


def numbers(model, *, lora):
    return [one.numel() for name, one in model.named_parameters() if ("lora_" in name) == lora]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_of_model_and_adapter_are_counted_exactly(family, tied):
    model, shape = tiny(family, rank=5, targets=("q_proj", "down_proj"), tie_word_embeddings=tied)
    assert sum(numbers(model, lora=False)) == shape.parameters
    assert sum(numbers(model, lora=True)) == shape.adapter(5, ("q_proj", "down_proj"))


def test_four_bits_are_counted_as_bitsandbytes_stores_them():
    import torch
    from bitsandbytes.nn import Params4bit

    wide, high = 400, 1640
    weight = Params4bit(torch.randn(high, wide), requires_grad=False, quant_type="nf4", compress_statistics=True)
    state = weight.to("cpu").quant_state
    second = state.state2
    held = [weight.data, state.absmax, state.code, state.offset, second.absmax, second.code]
    stored = sum(one.numel() * one.element_size() for one in held)
    assert wide * high * shapes.NF4 == pytest.approx(stored, rel=0.005)
    shape = shapes.of("qwen2_5_7b")
    assert shape.weights(4) == pytest.approx(shapes.NF4 * shape.in_linears + 2 * shape.elsewhere)


def test_weights_adapter_and_optimiser_take_the_bytes_that_a_real_student_and_adamw_keep(tmp_path):
    import torch

    model, _ = tiny("qwen3", dtype="bfloat16")
    model.get_base_model().config.save_pretrained(tmp_path)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    for one in trained:
        one.grad = torch.zeros_like(one)
    optimiser.step()
    kept = [one for state in optimiser.state.values() for one in state.values()]
    moments = sum(one.numel() * one.element_size() for one in kept if one.dim())
    student = Student(str(tmp_path), bits=16, lora_rank=8, lora_alpha=8)
    parts = need_of("sft", recipe(student=student), on="cpu").parts
    assert parts["weights"] == 2 * sum(numbers(model, lora=False))
    assert parts["adapter"] == 8 * sum(numbers(model, lora=True)) and parts["optimiser"] == moments
    for one in trained:
        one.grad = None


def test_the_cache_is_what_generation_remembers():
    import torch

    model, shape = tiny("llama", layers=7, dtype="bfloat16")
    ids = torch.ones((2, 100), dtype=torch.long)
    with torch.inference_mode():
        remembered = model.eval()(input_ids=ids, use_cache=True).past_key_values
    held = sum(2 * layer.keys.untyped_storage().nbytes() for layer in remembered.layers)
    assert held == shape.cache(2, 100)


def test_a_quantised_gguf_is_counted_as_the_largest_that_people_download():
    published = {"gemma3_1b": 0.806, "qwen3_4b": 2.50, "qwen2_5_7b": 4.68, "smollm2_135m": 0.105}  # q4_k_m
    counted = {name: memory.GGUF_BITS / 8 * shapes.of(name).parameters / 1e9 for name in published}
    assert all(counted[name] > gigabytes for name, gigabytes in published.items())
    assert counted["qwen3_4b"] == pytest.approx(4.28, rel=0.01)  # q8_0


# --- shapes: from a configuration -------------------------------------------------------------------------------------


def test_of_a_folder_or_a_model_of_the_hub_config_json_is_read_and_nothing_else(tmp_path, monkeypatch):
    model, shape = tiny("qwen3")
    model.get_base_model().config.save_pretrained(tmp_path / "own")
    assert shapes.of(str(tmp_path / "own")) == shape
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    files = {"config.json": (tmp_path / "own" / "config.json").read_text(), "model.safetensors": b"weights"}
    with LoopbackHub() as hub:
        address = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        hub.commit("some/one", files, kind="model")
        hub.commit("gated/one", files, kind="model", gated=True)
        assert shapes.of("some/one") == shape
        for unknown, why in (("other/one", "404"), ("gated/one", "401.*set HF_TOKEN"), ("no such", "Repo id")):
            with pytest.raises(PlantuneError, match=f"(?s)what {unknown} needs cannot be estimated: it is no.*{why}"):
                shapes.of(unknown)
        assert not any("model.safetensors" in request for request in hub.requests)
    assert shapes.of("some/one") == shape, "from the cache, without a Hub"


def test_what_old_configurations_leave_out_is_the_familys_default():
    said = {"hidden_size": 64, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 8}
    gemma = shapes.from_config(said | {"model_type": "gemma3_text", "vocab_size": 9})
    assert (gemma.tied, gemma.kv_heads, gemma.head_dim) == (True, 4, 16)
    assert not shapes.from_config(said | {"model_type": "qwen2", "vocab_size": 9}).tied


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "phi3"}, "family 'phi3' needs cannot be estimated"),
        ({"model_type": "gemma3"}, "family 'gemma3' needs cannot be estimated"),
        ({}, "family None"),
    ],
)
def test_what_cannot_be_estimated_is_said(config, words):
    with pytest.raises(PlantuneError, match=words):
        shapes.from_config(config)


def test_a_target_that_is_no_linear_layer_is_refused():
    with pytest.raises(PlantuneError, match="lora_targets names 'lm_head'.*q_proj"):
        shapes.of("qwen3_4b").adapter(8, ("q_proj", "lm_head"))


# --- activations: held to autograd ------------------------------------------------------------------------------------


class Alive:
    """The bytes of all tensors that torch makes while it is on, now and at most."""

    def __init__(self, besides):
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_iter

        self.now = self.most = 0
        known = {one.untyped_storage()._cdata for one in besides}

        def forget(key, size):
            known.discard(key)
            self.now -= size

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(mode, function, types, args=(), kwargs=None):
                out = function(*args, **(kwargs or {}))
                for one in tree_iter(out):
                    if not hasattr(one, "untyped_storage"):
                        continue
                    storage = one.untyped_storage()
                    if (key := storage._cdata) not in known:
                        known.add(key)
                        self.now += storage.nbytes()
                        self.most = max(self.most, self.now)
                        weakref.finalize(storage, forget, key, storage.nbytes())
                return out

        self.mode = Mode()


def ratio(family, student, *, rows, length, precision="float32", attention="sdpa", padded=True, chunked=False, **sizes):
    """How many times what a real step of a tiny model has at most is estimated."""
    import torch

    dtype = "float32" if precision == "float32" else "bfloat16"
    model, shape = tiny(
        family,
        dtype=dtype,
        rank=student.lora_rank,
        targets=student.lora_targets,
        dropout=student.lora_dropout,
        attention=attention,
        **{"layers": 4, **sizes},
    )
    base = model.get_base_model()
    base.gradient_checkpointing_disable()
    if student.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    else:
        model.disable_input_require_grads()
    if chunked:
        from trl.trainer.sft_trainer import _patch_chunked_ce_lm_head

        _patch_chunked_ce_lm_head(base, memory.LOGITS_AT_ONCE)
    model.train()
    ids = torch.randint(0, shape.vocab, (rows, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0 if padded else 1
    for one in model.parameters():
        one.grad = torch.zeros_like(one) if one.requires_grad else None
    alive = Alive([*model.parameters(), *(one.grad for one in model.parameters() if one.grad is not None)])
    with alive.mode:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
        loss.backward()
    estimate = memory.activations(shape, student, rows, length, precision=precision, chunked=chunked)
    return memory.SAFETY * estimate / alive.most


def student(**parts):
    return Student("tiny", **({"lora_rank": 8, "lora_alpha": 8, "checkpointing": False} | parts))


STEPS = [
    (student(), {"rows": 2, "length": 48}),
    (student(), {"rows": 3, "length": 33, "padded": False}),
    (student(), {"rows": 2, "length": 64, "attention": "eager"}),
    (student(checkpointing=True), {"rows": 2, "length": 64}),
    (student(lora_targets=ATTENTION), {"rows": 1, "length": 96}),
    (student(lora_targets=("q_proj", "v_proj")), {"rows": 2, "length": 64}),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["float32", "mixed", "autocast"])
def test_a_step_is_estimated_at_what_it_takes_and_at_most_two_and_a_half_times_that(family, precision):
    for part, step in STEPS:
        assert 1 <= ratio(family, part, precision=precision, **step) <= 2.5, (part, step)


def test_wider_models_and_dropout_are_counted_alike():
    wide = {"hidden_size": 256, "intermediate_size": 640, "head_dim": 64, "num_attention_heads": 8}
    rank = {"lora_rank": 16, "lora_alpha": 16}
    assert 1 <= ratio("qwen3", student(**rank), rows=2, length=40, **wide) <= 2
    assert 1 <= ratio("qwen3", student(lora_dropout=0.1, **rank), rows=2, length=40, layers=6) <= 2


def test_trls_chunked_loss_keeps_a_chunk_of_logits_and_the_plain_one_keeps_all():
    step = {"rows": 4, "length": 128, "layers": 2, "vocab_size": 6000, "hidden_size": 48, "intermediate_size": 96}
    part = student(checkpointing=True)
    assert 1 <= ratio("qwen3", part, **step) <= 2
    assert 1 <= ratio("qwen3", part, chunked=True, **step) <= 2


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_longer_steps_of_deeper_models_are_estimated_at_most_twice_too_high(family, checkpointing):
    assert 1 <= ratio(family, student(checkpointing=checkpointing), rows=2, length=128, layers=6) <= 2


# --- a whole recipe ---------------------------------------------------------------------------------------------------


def recipe(model="qwen3_4b", **parts):
    parts = {"distill": Distill("gemini"), "sft": SFT(), "student": Student(model), "headroom": 0} | parts
    return Recipe(name="r", problems=Problems("practice"), **parts)


def need_of(stage, one, **how):
    return next(need for need in memory.needs(one, **how) if need.stage == stage)


def test_a_need_is_the_sum_of_what_it_is_made_of():
    one = recipe("qwen2_5_7b", student=Student("qwen2_5_7b", bits=16))
    need, lora = need_of("sft", one), 80_740_352
    assert need.parts["weights"] == 2 * 7_615_616_512 and need.parts["adapter"] == 8 * lora
    assert 2 * lora < need.parts["optimiser"] < 2.1 * lora
    assert need.memory == sum(need.parts.values()) and need.most == "weights"


def test_four_bits_checkpointing_and_shorter_rows_need_less():
    def memory_of(**student):
        return need_of("sft", recipe(student=Student("qwen3_4b", **student))).memory

    assert memory_of(bits=4) < memory_of(bits=16) < memory_of(bits=32)
    assert memory_of() < memory_of(checkpointing=False)
    assert memory_of(max_length=512) < memory_of() < memory_of(max_length=2048)
    assert memory_of(lora_rank=8, lora_alpha=8) < memory_of()


def test_a_card_without_bf16_computes_gemma_in_float32_and_qwen_in_float16():
    gemma, qwen = recipe("gemma3_1b"), recipe("qwen3_4b")
    assert need_of("sft", gemma, bf16=False).memory > need_of("sft", gemma).memory
    assert need_of("sft", qwen, bf16=False).memory == need_of("sft", qwen).memory
    assert need_of("sft", qwen, on="cpu", bf16=False).memory > need_of("sft", qwen, on="cpu").memory


def test_grpo_needs_room_for_its_completions_while_they_are_written_or_while_they_are_learned():
    many = recipe(grpo=GRPO(group=16, prompts_per_step=8, max_completion=512))
    few = recipe(grpo=GRPO(group=4, prompts_per_step=1, max_completion=512))
    assert need_of("grpo", many).most == "cache" and "activations" in need_of("grpo", few).parts
    assert need_of("grpo", few).memory < need_of("grpo", many).memory


def test_a_pair_to_prefer_by_is_two_rows():
    alone = recipe(sft=SFT(batch_size=1, accumulate=8), cpl=CPL())
    assert need_of("cpl", alone).parts["activations"] > need_of("sft", alone).parts["activations"]
    several = recipe(sft=SFT(batch_size=4, accumulate=2), cpl=CPL())
    assert need_of("cpl", several).parts["activations"] == need_of("sft", several).parts["activations"]
    assert need_of("cpl", recipe(cpl=CPL(rounds=3))).disk > need_of("cpl", recipe(cpl=CPL(rounds=1))).disk


def test_disk_holds_the_download_the_checkpoints_and_what_is_exported():
    one = recipe("gemma3_1b", export=Export(("merged", "q8_0")))
    by_stage = {need.stage: need.disk for need in memory.needs(one)}
    assert by_stage["sft"] > shapes.of("gemma3_1b").weights(4) and by_stage["evaluate"] == 0
    merged, base, gguf = 2.0e9, 2.0e9, 1.06e9
    assert by_stage["export"] == pytest.approx(merged + base + gguf, rel=0.01)
    assert "export" not in {need.stage for need in memory.needs(recipe(export=Export(("adapter",))))}


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_can_be_estimated(name):
    one = load_recipe(name)
    found = memory.needs(one, on="cuda") + memory.needs(one, on="cpu")
    assert all(need.memory > 0 and need.disk >= 0 for need in found)
    table = memory.rows(found, {"sft": "9 to 27 min"}, "$2")
    assert all(len(row) == 6 for row in table) and any(row[1] == "9 to 27 min" for row in table)


# --- what fits --------------------------------------------------------------------------------------------------------

TOO_MUCH = [
    (recipe("gemma3_1b", student=Student("gemma3_1b", bits=16, max_length=4096, checkpointing=False)), 8),
    (recipe("qwen3_4b", sft=SFT(batch_size=24, accumulate=1), student=Student("qwen3_4b", max_length=2048)), 8),
    (recipe("qwen3_4b", grpo=GRPO(group=16, prompts_per_step=8), student=Student("qwen3_4b", max_length=2048)), 8),
    (recipe("qwen3_4b", grpo=GRPO(reward="guided", group=12, prompts_per_step=1, max_completion=2048)), 8),
    (recipe("qwen2_5_7b", sft=SFT(batch_size=8, accumulate=3), student=Student("qwen2_5_7b", bits=16)), 12),
    (recipe("qwen2_5_7b", evaluate=Evaluate(samples=64, temperature=0.7, max_tokens=4096)), 12),
    (recipe("qwen2_5_7b", distill=Distill("self"), student=Student("qwen2_5_7b", bits=32)), 16),
]


@pytest.mark.parametrize("one, gigabytes", TOO_MUCH)
def test_what_does_not_fit_is_told_the_settings_that_do(one, gigabytes):
    free = devices.gpu_sold_as(gigabytes).free
    found = fit.fit_to_gpu(one, free)
    assert not found.fits and found.overrides and " ".join(found.overrides) in found.sentence
    smaller = override(one, found.overrides)
    assert fit.fit_to_gpu(smaller, free).fits
    if one.sft:  # as many rows a step as before
        assert smaller.sft.batch_size * smaller.sft.accumulate == one.sft.batch_size * one.sft.accumulate


def test_what_hurts_least_is_named_first_and_alone_where_it_is_enough():
    one = recipe(sft=SFT(batch_size=4, accumulate=2), student=Student("qwen3_4b", bits=16))
    all_it_needs = need_of("sft", one).memory
    assert fit.fit_to_gpu(one, all_it_needs).fits
    assert fit.fit_to_gpu(one, all_it_needs - 1).overrides == ("sft.accumulate=4", "sft.batch_size=2")
    alone = override(one, ["sft.batch_size=1", "sft.accumulate=8"])
    assert fit.fit_to_gpu(alone, need_of("sft", alone).memory - 1).overrides == ("student.bits=4",)
    small = override(alone, ["student.bits=4"])
    assert fit.fit_to_gpu(small, need_of("sft", small).memory - 1).overrides == ("student.max_length=768",)


def test_what_fits_nowhere_is_refused_with_advice():
    found = fit.fit_to_gpu(recipe("qwen2_5_7b"), devices.gpu_sold_as(4).free)
    assert (found.fits, found.overrides) == (False, ())
    assert "choose a smaller student.model" in found.sentence and "weights" in found.sentence
