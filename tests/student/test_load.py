"""A student in memory: loaded in 4, 16 and 32 bits, with an adapter that trains, is saved, and is found again."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import FAMILIES, tiny_student
from transformers import AutoTokenizer

from plantune_lite.plan import chat
from plantune_lite.recipe.schema import Student
from plantune_lite.student import load as loading
from plantune_lite.student import presets, smollm2
from plantune_lite.student.load import StudentError, backend_here, compute_dtype, load_student
from plantune_lite.student.weights import Source
from plantune_lite.types import MissingError, PlantuneError, Sampling

PRESETS = {preset.family: preset for preset in presets.PRESETS}
ASKED = chat("A pen costs 3 dollars. What do 4 pens cost?")
SMALL = {"lora_rank": 4, "lora_alpha": 8, "checkpointing": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: folder_of(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def folder_of(family, folder, **how):
    tiny_student(folder, family, **how)
    (folder / "chat_template.jinja").write_text(PRESETS[family].chat_template, encoding="utf-8")
    return folder


def load(folder, *, bits=32, training=True, adapter=None, seed=0, **part):
    part = Student(str(folder), bits=bits, **{**SMALL, **part})
    return load_student(part, training=training, adapter=adapter, seed=seed, say=lambda line: None)


def scores(loaded):
    """What the model thinks of a conversation, with nothing left to chance."""
    was = loaded.model.training
    loaded.model.eval()
    with torch.no_grad():
        thought = loaded.model(torch.tensor([loaded.encode_chat(ASKED)])).logits
    loaded.model.train(was)
    return thought


def weights_of(loaded):
    return {name: one for name, one in loaded.model.named_parameters() if "lora_" in name}


def stir(loaded):
    """An adapter that does something: a new one is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for weights in weights_of(loaded).values():
            weights.data += 0.1 * torch.randn_like(weights)
    return loaded


def train(loaded, steps=3):
    """The losses of a few steps on one row."""
    ids = torch.tensor([loaded.encode_chat((*ASKED, {"role": "assistant", "content": "12"}), for_reply=False)])
    optimiser = torch.optim.AdamW([one for one in loaded.model.parameters() if one.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = loaded.model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [4, 16, 32])
def test_every_family_trains_answers_and_trains_on(folders, family, bits):
    loaded = load(folders[family], bits=bits)
    before = train(loaded)
    [[reply]] = loaded.generate([ASKED], Sampling(max_tokens=3, stop=("never",)))
    after = train(loaded)
    assert before[0] > before[-1] > after[-1] and 0 < reply.tokens_out <= 3
    assert loaded.model.training


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_ones_own_is_spoken_to_by_its_own_template(folders, family):
    loaded, preset = load(folders[family], training=False), PRESETS[family]
    assert loaded.preset.turn_end == preset.turn_end and loaded.preset.bos == preset.bos
    assert loaded.tokenizer.pad_token_id != loaded.tokenizer.eos_token_id
    ends = loaded.tokenizer.convert_tokens_to_ids([loaded.preset.turn_end, *loaded.preset.stops])
    assert loaded.model.generation_config.eos_token_id == ends
    assert loaded.model.generation_config.pad_token_id == loaded.tokenizer.pad_token_id


def test_four_bits_are_nf4_and_stay_as_they_are_when_answering(folders, monkeypatch):
    import bitsandbytes

    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)  # a CPU on which it would repack
    loaded = load(folders["llama"], bits=4)
    layers = [module for module in loaded.model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert layers and {layer.weight.quant_type for layer in layers} == {"nf4"}
    before = [layer.weight.data.clone() for layer in layers]
    loaded.generate([ASKED], Sampling(max_tokens=2))
    assert all(torch.equal(one, layer.weight.data) for one, layer in zip(before, layers, strict=True))


def test_bits_are_what_is_computed_in(folders):
    assert load(folders["qwen3"], bits=32, training=False).model.dtype == torch.float32
    assert load(folders["qwen3"], bits=16, training=False).model.dtype == compute_dtype(16)
    has_bf16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512") or torch.cuda.is_available()
    assert compute_dtype(16) == (torch.bfloat16 if has_bf16 else torch.float32)
    assert compute_dtype(32) == torch.float32


def test_only_the_adapter_learns_and_only_it_changes(folders):
    loaded = load(folders["qwen2"])
    trained = {name for name, weights in loaded.model.named_parameters() if weights.requires_grad}
    assert trained and all(".lora_A." in name or ".lora_B." in name for name in trained)
    before = {name: weights.detach().clone() for name, weights in loaded.model.named_parameters()}
    train(loaded)
    changed = {name for name, weights in loaded.model.named_parameters() if not torch.equal(weights, before[name])}
    assert changed == trained


def test_rank_alpha_dropout_and_layers_are_the_recipes(folders):
    loaded = load(folders["llama"], lora_rank=8, lora_alpha=4, lora_dropout=0.25, lora_targets=("q_proj", "up_proj"))
    layers = {name: one for name, one in loaded.model.named_modules() if hasattr(one, "lora_A")}
    assert {name.rpartition(".")[2] for name in layers} == {"q_proj", "up_proj"} and len(layers) == 4
    for layer in layers.values():
        assert layer.lora_A["default"].weight.shape[0] == 8 and layer.scaling["default"] == 0.5
        assert layer.lora_dropout["default"].p == 0.25
    stable = load(folders["llama"], lora_rank=16, lora_alpha=4, rslora=True)
    assert {one.scaling["default"] for one in stable.model.modules() if hasattr(one, "lora_A")} == {4 / math.sqrt(16)}


def test_a_new_adapter_changes_nothing_and_comes_from_the_seed(folders):
    one, same, other = (load(folders["gemma3_text"], seed=seed) for seed in (0, 0, 1))
    base = load(folders["gemma3_text"], training=False)
    assert torch.equal(scores(one), scores(base)) and not hasattr(base.model, "peft_config")
    first, again, different = (weights_of(loaded) for loaded in (one, same, other))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], different[name]) for name in first)


# --- the untuned model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 32])
@pytest.mark.parametrize("family", FAMILIES)
def test_untuned_is_the_base_to_the_last_bit_and_the_adapter_is_back_afterwards(folders, family, bits):
    base, loaded = load(folders[family], bits=bits, training=False), stir(load(folders[family], bits=bits))
    tuned = scores(loaded)
    with loaded.untuned() as untuned:
        assert torch.equal(scores(untuned), scores(base))
    assert torch.equal(scores(loaded), tuned) and not torch.equal(tuned, scores(base))
    assert all(weights.requires_grad for weights in weights_of(loaded).values())
    asked, sampling = [ASKED], Sampling(max_tokens=6)
    assert loaded.generate_untuned(asked, sampling) == base.generate(asked, sampling)
    assert loaded.generate(asked, sampling) != base.generate(asked, sampling)


# --- saving and loading -----------------------------------------------------------------------------------------------

PLAIN = """
import json, sys
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer.apply_chat_template(json.loads(sys.argv[2]), add_generation_prompt=True)["input_ids"]
torch.save((ids, model(torch.tensor([ids])).logits), sys.argv[3])
print([name for name in sys.modules if name.startswith("plantune")])
"""


def test_a_saved_adapter_thinks_the_same_in_plain_peft_in_a_process_of_its_own(folders, tmp_path):
    loaded = stir(load(folders["gemma3_text"]))
    loaded.save(tmp_path / "adapter")
    asked = [sys.executable, "-c", PLAIN, tmp_path / "adapter", json.dumps(ASKED), tmp_path / "thought"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    ids, thought = torch.load(tmp_path / "thought")
    assert ids == loaded.encode_chat(ASKED)
    assert torch.equal(thought, scores(loaded))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_is_loaded_to_the_same_thoughts(folders, family, training, tmp_path):
    loaded = stir(load(folders[family]))
    loaded.save(tmp_path)
    again = load(folders[family], adapter=tmp_path, training=training, seed=7)
    assert torch.equal(scores(again), scores(loaded)) and again.model.training is training
    if training:
        assert train(again, steps=1) == train(loaded, steps=1)


def test_another_adapter_is_worn_and_taken_off_to_the_last_bit(folders, tmp_path):
    stir(load(folders["llama"])).save(tmp_path)
    loaded = load(folders["llama"])
    own = scores(loaded)
    with loaded.wearing(tmp_path):
        assert torch.equal(scores(loaded), scores(load(folders["llama"], adapter=tmp_path)))
    assert torch.equal(scores(loaded), own)


def test_a_trainer_that_pads_elsewhere_leaves_the_tokenizer_as_it_came(folders, tmp_path):
    loaded = load(folders["llama"])
    side = loaded.tokenizer.padding_side
    loaded.tokenizer.padding_side = {"left": "right", "right": "left"}[side]
    loaded.save(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).padding_side == side


def test_what_is_saved_is_the_adapter_and_the_tokenizer_and_no_empty_card(folders, tmp_path):
    loaded = load(folders["llama"])
    loaded.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors"),
        *("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"),
    }
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == PRESETS["llama"].chat_template
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast", "transformers 4 knows no other"
    assert all("lora_" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    assert loaded.model.training and all(weights.requires_grad for weights in weights_of(loaded).values())


def test_an_adapter_of_a_preset_names_the_public_original(tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTUNE_CACHE", str(tmp_path))  # where a tiny model lies in the embedded one's place
    place = folder_of("llama", tmp_path / "smollm2" / f"{smollm2.NAME}-{smollm2._fingerprint()}")
    loaded = load("smollm2_135m")
    loaded.save(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert config["inference_mode"] is True and config["task_type"] == "CAUSAL_LM"
    assert str(tmp_path) not in json.dumps(config) and loaded.source.place == str(place)


def test_an_adapter_of_a_folder_names_the_folder_so_that_it_is_found_again_here(folders, tmp_path):
    load(folders["llama"]).save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["revision"]) == (str(folders["llama"]), None)


# --- what cannot be loaded --------------------------------------------------------------------------------------------


def refused(text, folder, **how):
    with pytest.raises(PlantuneError, match=text):
        load(folder, **how)


@pytest.mark.parametrize(
    ("trained", "text"),
    [
        ({"lora_rank": 8}, "was trained with student.lora_rank=8, but the recipe has 4"),
        ({"lora_alpha": 16}, "was trained with student.lora_alpha=16, but the recipe has 8"),
        ({"rslora": True}, "was trained with student.rslora=True, but the recipe has False"),
        (
            {"lora_targets": ("q_proj",)},
            "belongs to another model or other layers: set student.model and student.lora_targets",
        ),
    ],
)
def test_an_adapter_trained_otherwise_is_refused_with_both_values(folders, tmp_path, trained, text):
    load(folders["llama"], **trained).save(tmp_path)
    refused(text, folders["llama"], adapter=tmp_path)


def test_an_adapter_of_another_model_is_refused(folders, tmp_path):
    load(folders["llama"]).save(tmp_path / "adapter")
    wider = folder_of("llama", tmp_path / "wider", intermediate_size=192)
    refused("belongs to another model or other layers", wider, adapter=tmp_path / "adapter")


def test_a_folder_without_an_adapter_and_half_a_one_are_refused(folders, tmp_path):
    refused("has no whole adapter", folders["llama"], adapter=tmp_path)
    load(folders["llama"]).save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused("has no whole adapter", folders["llama"], adapter=tmp_path)


def test_layers_that_are_not_there_are_named_with_those_that_are(folders):
    refused(
        "student.lora_targets has qkv, but this model's layers are down_proj, gate_proj, k_proj, o_proj, q_proj",
        folders["llama"],
        lora_targets=("q_proj", "qkv"),
    )


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    refused("has no chat template: use an instruct model", tiny_student(tmp_path, "llama"))


def test_what_is_no_whole_16_bit_model_of_transformers_is_refused(folders, tmp_path):
    config = json.loads((folders["llama"] / "config.json").read_text(encoding="utf-8"))

    def altered(name, **changes):
        folder = folder_of("llama", tmp_path / name)
        (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
        return folder

    refused("already quantised: use the 16-bit original", altered("4bit", quantization_config={"bits": 4}))
    code = {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    own = altered("code", **code)
    (own / "own.py").write_text("raise SystemExit('it ran')")
    refused("its own code is never run", own)
    torn = altered("torn")
    torn.joinpath("model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-64])
    refused("cannot be loaded", torn)
    mute = altered("mute")
    for file in mute.glob("token*"):
        file.unlink()
    refused("cannot be loaded", mute)
    refused("cannot be loaded", altered("stranger", model_type="never_heard_of"))


# --- which backend ----------------------------------------------------------------------------------------------------


def test_the_backend_is_plain_without_an_accelerator_and_may_be_said(monkeypatch):
    monkeypatch.delenv("PLANTUNE_BACKEND", raising=False)
    if not torch.cuda.is_available():
        assert backend_here() == "plain"
    monkeypatch.setenv("PLANTUNE_BACKEND", "plain")
    assert backend_here() == "plain"
    monkeypatch.setenv("PLANTUNE_BACKEND", "fast")
    with pytest.raises(StudentError, match="PLANTUNE_BACKEND is 'fast', but must be 'unsloth' or 'plain'"):
        backend_here()


def test_unsloth_shares_its_weights_with_vllm_where_grpo_samples_by_it(tmp_path, monkeypatch):
    asked = {}
    unsloth = SimpleNamespace(
        FastLanguageModel=SimpleNamespace(from_pretrained=lambda **settings: (asked.update(settings), None))
    )
    monkeypatch.setitem(sys.modules, "unsloth", unsloth)
    folder = tiny_student(tmp_path / "base", "llama")
    part = Student(str(folder), bits=16, lora_rank=8)
    source = Source(repo="mine", revision=None, place=str(folder), backend="unsloth")
    loading._by_unsloth(part, source, 512, vllm=True)
    assert asked["fast_inference"] is True and asked["max_lora_rank"] == 8
    asked.clear()
    loading._by_unsloth(part, source, 512, vllm=False)
    assert "fast_inference" not in asked and asked["max_seq_length"] == 512


def test_unsloth_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", None)
    monkeypatch.setenv("PLANTUNE_BACKEND", "unsloth")
    with pytest.raises(MissingError, match=r"pip install 'plantune-lite\[train\]'"):
        backend_here()
