import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import LoHaConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small_disk import small_disk
from tiny import FAMILIES, VOCABULARY, tiny_student, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from plantune_lite.export.adapter import open_adapter
from plantune_lite.export.check_merge import compare
from plantune_lite.export.merge import merge_adapter
from plantune_lite.export.safetensors_io import ExportError, tensors_in
from plantune_lite.student import presets
from plantune_lite.types import PlantuneError

SOME = ["q_proj", "v_proj", "down_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = {
    "plain": {"target_modules": ALL, "r": 8, "lora_alpha": 16},
    "rslora": {"target_modules": SOME, "use_rslora": True},
    "dora": {"target_modules": ALL, "use_dora": True},
    "patterns": {"target_modules": SOME, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp": 32}},
    "one layer": {"target_modules": SOME, "layers_to_transform": [1]},
    "norms saved": {"target_modules": SOME, "modules_to_save": ["norm", "input_layernorm"]},
}
ENDS = {  # one of the two ends of a model is changed: where they were one tensor, they are two now
    "embedding": {"target_modules": [*SOME, "embed_tokens"]},
    "output": {"target_modules": [*SOME, "lm_head"]},
    "embedding, dora": {"target_modules": ["embed_tokens"], "use_dora": True},
    "embedding saved": {"target_modules": SOME, "modules_to_save": ["embed_tokens"]},
    "output saved": {"target_modules": SOME, "modules_to_save": ["lm_head"]},
}
IDS = torch.arange(40).reshape(2, 20) + 8
PROMPTS = [[(7 * row + place * place) % VOCABULARY for place in range(24 + row % 5)] for row in range(32)]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT about tied tensors
        yield


def trained(base, adapter, *, seed=1, kind=LoraConfig, **config):
    """An adapter of that base whose every number moved; PEFT's own model of it in float32."""
    tuned = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = get_peft_model(tuned, kind(**{"r": 4, "task_type": "CAUSAL_LM", **config}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in tuned.parameters():
            if values.requires_grad:
                values += 0.05 * torch.randn(values.shape, generator=generator)
    tuned.save_pretrained(adapter)
    return tuned.eval()


def loaded(folder, dtype=torch.float32):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def weights(folder):
    files = sorted(folder.glob("*.safetensors"))
    return {name: values for file in files for name, values in load_file(file).items()}


def same(given, wanted):
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=2e-6)


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    """A base in bf16, an adapter of all its projections, and what PEFT makes of them."""
    root = tmp_path_factory.mktemp("qwen2")
    base = tiny_student(root / "base", "qwen2")
    return base, root / "adapter", trained(base, root / "adapter", **KINDS["plain"])


# --- what is merged is what PEFT merges -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_equals_peft_s_own(family, kind, tmp_path):
    base = tiny_student(tmp_path / "base", family, dtype=torch.float32)
    tuned = trained(base, tmp_path / "adapter", **KINDS[kind])
    merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")
    merged = loaded(tmp_path / "merged")
    same(logits(merged), logits(tuned))
    peft = dict(tuned.merge_and_unload().named_parameters())
    for name, values in merged.named_parameters():
        same(values, peft[name])


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_changing_one_end_of_a_tied_model_leaves_the_other_as_it_was(family, kind, tmp_path):
    """PEFT's own merge changes both, so that its merged model is not its adapter: ours is."""
    base = tiny_student(tmp_path / "base", family, dtype=torch.float32)
    tuned = trained(base, tmp_path / "adapter", **ENDS[kind])
    summary = merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")
    same(logits(loaded(tmp_path / "merged")), logits(tuned))
    assert summary["untied"] == tuned.config.tie_word_embeddings


def test_tied_ends_that_nothing_changes_stay_one_tensor(tmp_path):
    base = tiny_student(tmp_path / "base", "gemma3_text")
    trained(base, tmp_path / "adapter", target_modules=SOME)
    assert not merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")["untied"]
    assert "lm_head.weight" not in weights(tmp_path / "merged")


def test_a_vocabulary_that_transformers_does_not_save_comes_from_the_base(tmp_path):
    """Without tokenizer.model llama.cpp's converter writes Gemma's vocabulary as GPT-2's."""
    base = tiny_student(tmp_path / "base", "gemma3_text")
    (base / "tokenizer.model").write_bytes(b"sentencepiece")
    trained(base, tmp_path / "adapter", target_modules=SOME)
    tiny_tokenizer("gemma3_text").save_pretrained(tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")
    assert (tmp_path / "merged" / "tokenizer.model").read_bytes() == b"sentencepiece"


@pytest.mark.parametrize("dora", [False, True])
def test_layers_stored_by_input_are_merged_too(dora, tmp_path):
    """GPT-2's Conv1D is stored transposed, its c_proj is square: no shape says so."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=64, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tuned = trained(tmp_path / "base", tmp_path / "adapter", target_modules=["c_attn", "c_proj"], use_dora=dora)
    merge_adapter(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")
    same(logits(loaded(tmp_path / "merged")), logits(tuned))


def test_biases_that_were_trained_come_along(tmp_path):
    base = tiny_student(tmp_path / "base", "qwen2", dtype=torch.float32)
    tuned = trained(base, tmp_path / "adapter", target_modules=SOME, bias="all")
    merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")
    same(logits(loaded(tmp_path / "merged")), logits(tuned))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_a_16_bit_base_is_added_to_in_float32_and_rounded_once(stored, tmp_path):
    base = tiny_student(tmp_path / "base", "qwen3", dtype=stored)
    tuned = trained(base, tmp_path / "adapter", **KINDS["plain"])
    merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")
    peft = dict(tuned.merge_and_unload().named_parameters())
    for name, values in weights(tmp_path / "merged").items():
        assert values.dtype == stored
        rounded = peft[name].to(stored)
        # The sums may differ in float32's last bit, which now and then lies on the edge between two 16-bit numbers.
        assert (values == rounded).double().mean() > 0.999
        torch.testing.assert_close(values, rounded)


def test_what_float16_cannot_hold_is_named(tmp_path):
    base = tiny_student(tmp_path / "base", "qwen2", dtype=torch.float16)
    trained(base, tmp_path / "adapter", target_modules=["k_proj"], lora_alpha=10_000_000)
    with pytest.raises(ExportError, match=r"k_proj.weight does not hold finite numbers once merged.*float16"):
        merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")


def test_a_layer_keeps_no_numbers_once_it_is_merged(qwen2):
    """What each of a model's layers kept would add up to the whole model."""
    base, adapter, _ = qwen2
    part = open_adapter(adapter, base).parts["model.layers.1.mlp.up_proj.weight"]
    merged, weight = part.read(), part.source.read()
    down, up = (part.inside[f"lora_{role}.default.weight"].read() for role in "AB")
    torch.testing.assert_close(merged, (weight.float() + 2 * up @ down).to(weight.dtype))
    assert all(kept.is_meta for kept in part.layer.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_stays_as_it_was(family, tmp_path):
    base = tiny_student(tmp_path / "base", family, dtype=torch.float32)
    before = (base / "model.safetensors").read_bytes()
    trained(base, tmp_path / "adapter", target_modules=[*SOME, "embed_tokens"], use_dora=True)
    merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")
    assert (base / "model.safetensors").read_bytes() == before


# --- files ------------------------------------------------------------------------------------------------------------


def test_sharded_and_single_bases_give_the_same_tensors(qwen2, tmp_path):
    base, adapter, _ = qwen2
    sharded = tiny_student(tmp_path / "base", "qwen2", shard_size="40KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    merge_adapter(adapter, base, tmp_path / "one")
    merge_adapter(adapter, sharded, tmp_path / "many", shard_bytes=60_000)
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)
    assert [path.name for path in (tmp_path / "one").glob("*.safetensors*")] == ["model.safetensors"]
    sizes = sorted(path.stat().st_size for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(sizes) > 3 and all(size < 60_000 + 1_000 for size in sizes[:-1])  # the largest holds the embedding
    loaded(tmp_path / "many")


# --- interrupted ------------------------------------------------------------------------------------------------------


def fail_after(monkeypatch, files, error):
    """Have the writing of a later file fail in its middle."""
    save, begun = safetensors.torch.save_file, []

    def failing(tensors, path, metadata):
        begun.append(path)
        if len(begun) > files:
            path.write_bytes(b"half of one")
            raise error
        save(tensors, path, metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", failing)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_interrupted_merge_starts_again_to_the_same_bytes(qwen2, tmp_path, monkeypatch):
    base, adapter, _ = qwen2
    merge_adapter(adapter, base, tmp_path / "calm", shard_bytes=40_000)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        fail_after(patched, 2, KeyboardInterrupt())
        merge_adapter(adapter, base, tmp_path / "cut", shard_bytes=40_000)
    assert not (tmp_path / "cut" / "config.json").exists()  # nobody takes it for a model
    merge_adapter(adapter, base, tmp_path / "cut", shard_bytes=40_000)
    assert contents(tmp_path / "cut") == contents(tmp_path / "calm")


def test_of_another_merge_nothing_stays_and_of_somebody_else_everything(qwen2, tmp_path):
    base, adapter, _ = qwen2
    merge_adapter(adapter, base, tmp_path / "merged", shard_bytes=40_000)
    (tmp_path / "merged" / "thesis.md").write_text("mine")
    merge_adapter(adapter, base, tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").glob("*.safetensors*")] == ["model.safetensors"]
    assert (tmp_path / "merged" / "thesis.md").read_text() == "mine"


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_needed_and_free_bytes_are_said_and_too_few_are_a_sentence(qwen2, tmp_path, monkeypatch):
    base, adapter, _ = qwen2
    said = []
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ExportError, match=r"has 1.0 MB free and merging needs 64.2 MB: free 63.2 MB"):
        merge_adapter(adapter, base, tmp_path / "merged", say=said.append)
    assert said == [f"merging needs 64.2 MB in {tmp_path / 'merged'}, where 1.0 MB are free"]


def test_a_disk_that_becomes_full_is_a_sentence_and_the_same_call_ends_well_later(qwen2, tmp_path, monkeypatch):
    base, adapter, _ = qwen2
    merge_adapter(adapter, base, tmp_path / "calm", shard_bytes=40_000)
    with small_disk(tmp_path / "disk", 66 * 1024) as disk:
        out = (disk or tmp_path) / "merged"

        def fill(line):
            """Somebody else fills the disk while we merge."""
            if disk:
                (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 110_000))

        with monkeypatch.context() as patched, pytest.raises(ExportError) as error:
            if not disk:
                fail_after(patched, 2, OSError(28, os.strerror(28)))
            merge_adapter(adapter, base, out, shard_bytes=40_000, say=fill)
        assert "cannot be written" in str(error.value) and "free some space" in str(error.value)
        assert len(list(out.glob("*.safetensors"))) == 2  # none that is half of one
        if disk:
            (disk / "ballast").unlink()
        merge_adapter(adapter, base, out, shard_bytes=40_000)
        assert contents(out) == contents(tmp_path / "calm")


# --- what cannot be merged --------------------------------------------------------------------------------------------


def edited(adapter, folder, **config):
    """A copy of an adapter with other words in its config."""
    shutil.copytree(adapter, folder)
    known = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**known, **config}))
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trainable_token_indices", [3, 4]),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("lora_bias", True),
        ("use_qalora", True),
        ("alora_invocation_tokens", [1, 2]),
        ("kasa_config", {"beta": 0.1}),
        ("a_kind_of_the_year_2030", {"rank": 3}),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "loftq"),
    ],
)
def test_a_kind_that_cannot_be_merged_is_refused_by_name(field, value, qwen2, tmp_path):
    base, adapter, _ = qwen2
    with pytest.raises(ExportError) as error:
        open_adapter(edited(adapter, tmp_path / "kind", **{field: value}), base)
    assert f"{field}={value!r}" in str(error.value)


def test_real_adapters_of_other_kinds_are_refused(qwen2, tmp_path):
    base, _, _ = qwen2
    trained(base, tmp_path / "loha", kind=LoHaConfig, target_modules=SOME)
    with pytest.raises(ExportError, match="has peft_type='LOHA', which a merge layer by layer cannot carry over"):
        open_adapter(tmp_path / "loha", base)
    trained(base, tmp_path / "tokens", target_modules=SOME, trainable_token_indices=[3])
    with pytest.raises(ExportError, match=r"trainable_token_indices=.*merge_and_unload"):
        open_adapter(tmp_path / "tokens", base)


def test_an_adapter_of_another_model_is_refused_by_its_first_wrong_layer(qwen2, tmp_path):
    base, adapter, _ = qwen2
    wider = tiny_student(tmp_path / "wider", "qwen2", intermediate_size=256)
    with pytest.raises(ExportError, match=r"has \(128, 8\) as .*mlp.gate_proj.lora_B.weight, .* need \(256, 8\)"):
        open_adapter(adapter, wider)
    with pytest.raises(ExportError, match=r"need \(16, 64\): it is cut off, or belongs to another model"):
        open_adapter(edited(adapter, tmp_path / "rank", r=16), base)
    deeper = tiny_student(tmp_path / "deeper", "qwen2", num_hidden_layers=3)
    with pytest.raises(ExportError, match=r"has nothing as model.layers.2.self_attn.q_proj.lora_A.weight"):
        open_adapter(adapter, deeper)
    flatter = tiny_student(tmp_path / "flatter", "qwen2", num_hidden_layers=1)
    with pytest.raises(ExportError, match=r"has model.layers.1.*which the base does not have"):
        open_adapter(adapter, flatter)


def test_an_adapter_whose_training_went_wrong_is_refused(qwen2, tmp_path):
    base, adapter, _ = qwen2
    broken = edited(adapter, tmp_path / "broken")
    tensors = load_file(broken / "adapter_model.safetensors")
    tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"][3, 1] = float("nan")
    save_file(tensors, broken / "adapter_model.safetensors")
    with pytest.raises(ExportError, match=r"layers.1.mlp.up_proj.weight does not hold finite numbers once merged"):
        merge_adapter(broken, base, tmp_path / "merged")


def test_a_quantised_base_is_refused(qwen2, tmp_path):
    base, adapter, _ = qwen2
    four = Path(shutil.copytree(base, tmp_path / "four"))
    tensors = load_file(four / "model.safetensors")
    packed = tensors["model.layers.0.mlp.up_proj.weight"]
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(packed.numel() // 2, 1, dtype=torch.uint8)
    save_file(tensors, four / "model.safetensors")
    with pytest.raises(ExportError, match=r"up_proj.weight as U8 .*: it is quantised.*16-bit original"):
        merge_adapter(adapter, four, tmp_path / "merged")


def test_pickles_and_torn_files_are_refused(qwen2, tmp_path):
    base, adapter, _ = qwen2
    for folder, keep in ((base, "config.json"), (adapter, "adapter_config.json")):
        (tmp_path / folder.name).mkdir()
        shutil.copy(folder / keep, tmp_path / folder.name)
    with pytest.raises(ExportError, match=r"model.safetensors is missing.*Pickles .* are not read"):
        open_adapter(adapter, tmp_path / "base")
    with pytest.raises(ExportError, match=r"adapter_model.safetensors is missing.*Pickles .* are not read"):
        open_adapter(tmp_path / "adapter", base)
    with pytest.raises(PlantuneError, match=r"adapter_config.json is missing or not JSON"):
        open_adapter(base, base)
    file = shutil.copy(base / "model.safetensors", tmp_path / "base")
    os.truncate(file, 100_000)
    with pytest.raises(ExportError, match="is not a whole safetensors file"):
        tensors_in(tmp_path / "base")
    Path(file).write_bytes(b"<html>404</html>")
    with pytest.raises(ExportError, match="is not a whole safetensors file"):
        tensors_in(tmp_path / "base")


# --- beside its adapter -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_agrees_with_its_adapter(family, tmp_path):
    base = tiny_student(tmp_path / "base", family)
    tuned = trained(base, tmp_path / "adapter", **KINDS["dora"])
    merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")
    found = compare(tmp_path / "adapter", base, tmp_path / "merged", PROMPTS)
    assert found["verified"] and found["top1"] > 0.95 and found["positions"] == 32 * 16
    assert found["rounded_top1"] == 1.0 and found["rounded_largest"] < 0.1 * found["largest"]
    assert found["line"].startswith(f"merged against its adapter in float32: {found['agreement']}; against the adapter")
    ids = torch.tensor([[prompt[0], *prompt[-23:]] for prompt in PROMPTS])
    with torch.no_grad():
        by_hand = tuned(ids).logits - loaded(tmp_path / "merged")(ids).logits
    assert found["largest"] == pytest.approx(by_hand[:, -16:].abs().max().item(), rel=0.01)


@pytest.mark.parametrize("kind", ENDS)
def test_it_agrees_where_tied_ends_came_apart_and_the_base_was_in_float32(kind, tmp_path):
    base = tiny_student(tmp_path / "base", "gemma3_text", dtype=torch.float32)
    trained(base, tmp_path / "adapter", **ENDS[kind])
    merge_adapter(tmp_path / "adapter", base, tmp_path / "merged")
    assert compare(tmp_path / "adapter", base, tmp_path / "merged", PROMPTS)["verified"]


def test_a_model_that_is_not_its_adapter_is_not_verified(qwen2, tmp_path):
    base, adapter, _ = qwen2
    merge_adapter(edited(adapter, tmp_path / "half", lora_alpha=8), base, tmp_path / "half scale")
    merge_adapter(
        edited(adapter, tmp_path / "lost", alpha_pattern={"layers.1.self_attn.v_proj": 0}), base, tmp_path / "v lost"
    )
    merge_adapter(adapter, base, tmp_path / "merged")
    for wrong in (base, tmp_path / "half scale", tmp_path / "v lost"):
        found = compare(adapter, base, wrong, PROMPTS)
        assert not found["verified"], found
    tensors = weights(tmp_path / "merged")
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, tmp_path / "merged" / "model.safetensors", metadata={"format": "pt"})
    assert not compare(adapter, base, tmp_path / "merged", PROMPTS)["verified"]


# --- the files beside the weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "name"), [("qwen2", "qwen2_5_7b"), ("gemma3_text", "gemma3_1b")])
def test_a_merged_model_plans_without_being_told(family, name, tmp_path):
    preset = presets.find(name)
    base = tiny_student(tmp_path / "base", family)
    (base / "generation_config.json").write_text('{"repetition_penalty": 1.05, "eos_token_id": [4], "do_sample": true}')
    (base / "special_tokens_map.json").write_text('{"eos_token": "<eos>", "pad_token": "<eos>"}')
    trained(base, tmp_path / "adapter", target_modules=SOME)
    merge_adapter(tmp_path / "adapter", base, tmp_path / "merged", preset=preset)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    question = [{"role": "user", "content": "What is 2+3?"}]
    reference = tiny_tokenizer(family)
    reference.chat_template = preset.chat_template
    for turns in (question, [{"role": "system", "content": "Be brief."}, *question]):
        rendered = [one.apply_chat_template(turns, tokenize=False) for one in (tokenizer, reference)]
        assert rendered[0] == rendered[1]
    assert presets.SYSTEM in tokenizer.apply_chat_template(question, tokenize=False)
    assert (tokenizer.eos_token, tokenizer.pad_token) == (preset.turn_end, preset.pad)
    settings = loaded(tmp_path / "merged").generation_config
    ends = tokenizer.convert_tokens_to_ids([preset.turn_end, *preset.stops])
    assert settings.eos_token_id == ends and settings.pad_token_id == tokenizer.pad_token_id
    assert not settings.do_sample and settings.repetition_penalty in (None, 1.0)


def test_the_config_is_the_base_s_without_what_no_longer_holds(qwen2, tmp_path):
    base, adapter, _ = qwen2
    odd = Path(shutil.copytree(base, tmp_path / "base"))
    config = json.loads((odd / "config.json").read_text())
    config |= {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (odd / "config.json").write_text(json.dumps(config))
    merge_adapter(adapter, odd, tmp_path / "merged")
    written = json.loads((tmp_path / "merged" / "config.json").read_text())
    del config["quantization_config"]
    assert written == config


def test_the_tokenizer_is_the_adapter_s_where_it_has_one_and_older_programs_read_it(qwen2, tmp_path):
    base, adapter, _ = qwen2
    own = edited(adapter, tmp_path / "own")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>"]})
    tokenizer.chat_template = "mine"
    tokenizer.save_pretrained(own)
    merge_adapter(own, base, tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == "mine"
    config = json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["<start_of_turn>"] and "extra_special_tokens" not in config
