"""Where a student's weights come from, asked of a Hub on this machine: commits, what is refused, and what is kept."""

import socket
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from loopback_hub import TOKEN, LoopbackHub, point_at
from tiny import tiny_student

from plantune_lite.plan import chat
from plantune_lite.recipe.schema import Student
from plantune_lite.student import presets, weights
from plantune_lite.student.load import load_student
from plantune_lite.student.weights import StudentError
from plantune_lite.types import Sampling

REPO = "somebody/tiny"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_student(tmp_path_factory.mktemp("model"), "gemma3_text")
    (folder / "chat_template.jinja").write_text(presets.find("gemma3_1b").chat_template, encoding="utf-8")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with LoopbackHub() as hub:
        point_at(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


def found(model=REPO, *, bits=16, backend="plain", pinned=None, said=None, **part):
    say = [].append if said is None else said.append
    return weights.resolve_source(Student(model, bits=bits, **part), presets.find(model), backend, pinned, say)


def refused(text, model=REPO, **how):
    with pytest.raises(StudentError, match=text):
        found(model, **how)


# --- a Hub that answers -----------------------------------------------------------------------------------------------


def test_a_hub_id_becomes_a_folder_at_its_newest_commit(hub, files):
    said = []
    hub.commit(REPO, {"config.json": "{}", "old.safetensors": b""}, kind="model")
    newest = hub.commit(REPO, {**files, "onnx/model.bin": b"large", "pytorch_model.bin": b"large"}, kind="model")
    source = found(said=said)
    assert (source.repo, source.revision, source.backend) == (REPO, newest, "plain")
    assert {path.name for path in weights.base_folder(source).iterdir()} == set(files)
    assert found(said=said) == source and said == [f"fetching {REPO} from the Hub"]


def test_a_pinned_commit_is_loaded_though_the_branch_has_moved(hub, files):
    first = hub.commit(REPO, files, kind="model")
    newest = hub.commit(REPO, {**files, "new.txt": b""}, kind="model")
    assert found(pinned=first).revision == found(revision=first).revision == first
    assert found(pinned=first, revision="main").revision == first
    assert found().revision == newest


def test_it_loads_answers_and_names_its_repository_and_commit_in_the_adapter(hub, files, tmp_path):
    commit = hub.commit(REPO, files, kind="model")
    part = Student(REPO, bits=32, lora_rank=4)
    loaded = load_student(part, training=True, say=lambda line: None)
    [[reply]] = loaded.generate([chat("Two?")], Sampling(max_tokens=2))
    config = loaded.model.active_peft_config
    assert reply.tokens_out and loaded.encode_chat(chat("Two?"))[0] == loaded.tokenizer.convert_tokens_to_ids("<bos>")
    assert (config.base_model_name_or_path, config.revision) == (REPO, commit)


@pytest.mark.parametrize(
    ("model", "repo"),
    [
        ("gemma3_1b", "google/gemma-3-1b-it"),
        ("unsloth/gemma-3-1b-it", "unsloth/gemma-3-1b-it"),  # the same weights without a gate: a merge needs none too
        ("unsloth/gemma-3-1b-it-bnb-4bit", "google/gemma-3-1b-it"),  # nothing can be merged onto these
    ],
)
def test_a_preset_is_its_16_bit_repository_by_whatever_name(hub, files, model, repo):
    commit = hub.commit(repo, files, kind="model")
    source = found(model)
    assert (source.repo, source.revision) == (repo, commit)


def test_unsloth_finds_a_presets_4_bit_copy_by_name_and_a_merge_the_original(hub, files):
    repo = presets.find("qwen3_4b").repo
    commit = hub.commit(repo, files, kind="model")
    small = found("qwen3_4b", backend="unsloth", bits=4)
    assert (small.place, small.revision) == (repo, commit)
    assert not any("safetensors" in request for request in hub.requests)
    assert (weights.base_folder(small, print) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("model", "bits", "pinned"), [("qwen3_4b", 16, False), ("qwen3_4b", 4, True), (REPO, 4, False)]
)
def test_where_unsloth_has_no_copy_of_just_that_it_is_given_the_folder(hub, files, model, bits, pinned):
    commit = hub.commit(REPO if model == REPO else presets.find(model).repo, files, kind="model")
    source = found(model, backend="unsloth", bits=bits, revision=commit if pinned else None)
    assert source.revision == commit and (Path(source.place) / "model.safetensors").is_file()


def test_what_the_hub_does_not_have_or_show_is_one_sentence_without_waiting(hub, files):
    hub.commit(REPO, files, kind="model")
    hub.commit("somebody/gated", files, kind="model", gated=True)
    hub.commit("somebody/secret", files, kind="model", private=True)
    began = time.monotonic()
    refused("student.model is 'nobody/nothing' .* which the Hub does not show you", "nobody/nothing")
    refused("set HF_TOKEN where it is private", "somebody/secret")
    refused("'somebody/tiny' and student.revision 'v9', which the Hub does not show", revision="v9")
    refused(f"gated is gated: accept its terms on {hub.url}/somebody/gated and set HF_TOKEN to", "somebody/gated")
    assert time.monotonic() - began < 3


def test_with_a_token_a_gate_is_open(hub, files, monkeypatch):
    commit = hub.commit("somebody/gated", files, kind="model", gated=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert found("somebody/gated").revision == commit


def test_a_gate_that_only_a_merge_would_meet_is_met_first_and_nothing_is_fetched(hub, files, monkeypatch):
    """Unsloth trains Gemma in 4 bits from a copy of its own without a gate, and the Hub shows everybody the names."""
    hub.commit("google/gemma-3-1b-it", files, kind="model", gated=True)
    hub.commit("unsloth/gemma-3-1b-it", files, kind="model")
    refused("gemma-3-1b-it is gated: .* student.model=unsloth/gemma", "gemma3_1b", backend="unsloth", bits=4)
    with pytest.raises(StudentError, match="google/gemma-3-1b-it is gated"):
        weights.check_access(Student("gemma3_1b"), presets.find("gemma3_1b"))
    weights.check_access(Student("unsloth/gemma-3-1b-it"), presets.find("gemma3_1b"))
    assert not any("safetensors" in request for request in hub.requests)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    weights.check_access(Student("gemma3_1b"), presets.find("gemma3_1b"))


def test_what_was_fetched_through_a_gate_needs_no_token_again(hub, files, monkeypatch):
    hub.commit("somebody/gated", files, kind="model", gated=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetched = found("somebody/gated")
    monkeypatch.delenv("HF_TOKEN")
    assert found("somebody/gated") == fetched


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (("config.json", "pytorch_model.bin"), "has no config.json or no safetensors files: nothing else is loaded"),
        (("model.Q4_K_M.gguf",), "has no config.json or no safetensors files"),
        (("adapter_config.json", "adapter_model.safetensors"), "an adapter: set its base"),
        (("config.json", "model.safetensors", "adapter_config.json"), "an adapter: set its base"),
    ],
)
def test_what_is_no_model_in_safetensors_is_refused_before_it_is_fetched(hub, tmp_path, content, text):
    hub.commit(REPO, dict.fromkeys(content, b"{}"), kind="model")
    refused(text)
    assert not any("resolve" in request for request in hub.requests)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in content:
        (folder / name).write_text("{}")
    refused(text, str(folder))


def test_a_name_that_can_be_nothing_is_refused_with_the_nearest_preset(hub):
    refused("'qwen3_4', which is not a preset, a folder or a Hub id; did you mean 'qwen3_4b'", "qwen3_4")
    refused("neither a folder here nor a Hub id", "./model s")
    assert hub.requests == []


# --- a Hub that does not ----------------------------------------------------------------------------------------------


def test_what_was_fetched_is_there_without_a_network_at_the_same_commit(hub, files, monkeypatch):
    commit = hub.commit(REPO, files, kind="model")
    online = found()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert found() == found(pinned=commit) == online


@pytest.fixture
def silent():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("how", ["offline", "nobody there", "silent", "down", "busy"])
def test_a_hub_out_of_reach_is_one_sentence_and_no_waiting(hub, silent, how, files, monkeypatch):
    hub.commit(REPO, files, kind="model")
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "nobody there":
        point_at("http://127.0.0.1:9", monkeypatch)
    elif how == "silent":
        monkeypatch.setattr(weights, "PATIENCE_SECONDS", 0.5)
        point_at(silent, monkeypatch)
    else:
        hub.fail("GET /api/models/", {"down": "503", "busy": "429"}[how], times=100)
    began = time.monotonic()
    refused("the Hub cannot be reached, and somebody/tiny is not in the cache: go online once")
    assert time.monotonic() - began < 3


def test_a_download_that_breaks_off_goes_on(hub, files):
    commit = hub.commit(REPO, files, kind="model")
    hub.fail(f"GET /{REPO}/resolve/{commit}/model.safetensors", "403", times=100)
    refused("somebody/tiny cannot be fetched: .* Rerun the command to resume")
    hub._faults.clear()
    assert (weights.base_folder(found()) / "model.safetensors").read_bytes() == files["model.safetensors"]
