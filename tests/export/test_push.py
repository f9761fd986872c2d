"""What reaches the Hub, in which order, what stays here; and what a person reads when it goes wrong."""

import base64
import hashlib
import json
import random
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
from finished_run import finished_run
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from loopback_hub import BOBS_TOKEN, GITATTRIBUTES, READ_TOKEN, TOKEN, Lfs, LoopbackHub, card_errors

from plantune_lite.export.push import Push, bring
from plantune_lite.export.push_run import push_corpus, push_model
from plantune_lite.runs.folder import changed_outputs, outputs_of
from plantune_lite.runs.manifest import Entry, Manifest, read_manifest, write_manifest
from plantune_lite.types import PlantuneError

CARD = "---\nlicense: mit\n---\n# x\n"
WEIGHTS = random.Random(0).randbytes(100_000)
MINE = {"run": "mine", "what": "merged"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub, and the library set up for it as HF_HUB_DISABLE_XET=1 and no HF_HUB_OFFLINE would, had they been early."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with LoopbackHub() as server:
        constants, template = huggingface_hub.constants, "{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{template}")
        yield server


@pytest.fixture
def impatient(monkeypatch):
    """The library waits half a minute for a large file before it gives up; these tests do not."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def folder(tmp_path):
    """A merged model as a run might leave it."""
    return written(tmp_path / "model", {"model.safetensors": WEIGHTS, "config.json": "{}", "README.md": CARD})


def written(folder: Path, files: dict) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def pushed(hub, folder, repo="alice/mine", public=False, **named):
    lines = []
    [done] = bring([Push(folder, repo, say=lines.append, **{"about": MINE, **named})], public)
    return SimpleNamespace(**done, said="\n".join(lines))


def refused(hub, folder, repo="alice/mine", **named) -> str:
    with pytest.raises(PlantuneError) as caught:
        pushed(hub, folder, repo, **named)
    assert TOKEN not in str(caught.value) and caught.value.__cause__ is None
    return str(caught.value)


def asked(hub, start: str) -> list[int]:
    return [number for number, request in enumerate(hub.requests) if request.startswith(start)]


# --- what goes well ---------------------------------------------------------------------------------------------------


def test_a_push_brings_every_file_to_a_private_repository(hub, folder):
    done = pushed(hub, folder)
    there = hub.files("alice/mine")
    assert {name: there[name] for name in ("model.safetensors", "config.json", "README.md")} == {
        "model.safetensors": WEIGHTS,
        "config.json": b"{}",
        "README.md": CARD.encode(),
    }
    assert hub.repositories["models/alice/mine"].private and not asked(hub, "PUT /api/models/alice/mine/settings")
    assert done.line == f"alice/mine: 4 files, 100.2 kB, private: {hub.url}/alice/mine"


def test_it_is_public_only_after_the_listing_was_compared(hub, folder):
    pushed(hub, folder, public=True)
    [created], [committed] = asked(hub, "POST /api/repos/create"), asked(hub, "POST /api/models/alice/mine/commit")
    [opened], *listed = (
        asked(hub, "PUT /api/models/alice/mine/settings"),
        *asked(hub, "GET /api/models/alice/mine/tree"),
    )
    assert created < committed < listed[-1] < opened and not hub.repositories["models/alice/mine"].private


def test_a_second_push_sends_nothing(hub, folder):
    first = pushed(hub, folder, public=True)
    before = len(hub.requests)
    again = pushed(hub, folder, public=True)
    assert (again.sent, again.removed, again.commit) == (0, [], first.commit) and "already" in again.said
    assert all(request.startswith(("GET", "HEAD")) for request in hub.requests[before:])


def test_a_later_push_replaces_what_an_earlier_one_brought_and_nothing_else(hub, folder):
    pushed(hub, written(folder, {"old.json": "[]"}))
    users = HfApi(hub.url, TOKEN).create_commit("alice/mine", [adding("notes.md", b"hi")], commit_message="mine")
    (folder / "old.json").unlink()
    again = pushed(hub, written(folder, {"config.json": '{"new": 1}'}))
    assert (again.sent, again.removed) == (2, ["old.json"]) and again.commit != users.oid  # config and plantune.json
    assert set(hub.files("alice/mine")) == {"notes.md", ".gitattributes", "plantune.json", *names_in(folder)}


def test_a_data_set_goes_to_a_data_set(hub, tmp_path):
    rows = {"train.jsonl": "{}\n", "rejected.jsonl": "{}\n", "validation.jsonl": "", "README.md": CARD}
    done = pushed(hub, written(tmp_path / "corpus", rows), kind="dataset")
    assert set(hub.files("alice/mine", "dataset")) == {".gitattributes", "README.md", "plantune.json", "train.jsonl"}
    assert done.url == f"{hub.url}/datasets/alice/mine" and done.left_out == ["rejected.jsonl", "validation.jsonl"]


@pytest.mark.parametrize(
    "name",
    [
        *("checkpoint-50/model.safetensors", "checkpoint-50/config.json", "optimizer.pt", "training_args.bin", "x.pkl"),
        *("log.txt", "manifest.json", "trainer_state.json", "calls.sqlite", "metrics.jsonl", "train.py", ".merge.json"),
        *("base.json", "calibration.json"),
        *("section.json", "preference.svg", "round1/sft/adapter_model.safetensors", "round1/trees.html"),
    ],
)
def test_what_is_no_part_of_a_model_stays_here_and_is_named(hub, folder, name):
    done = pushed(hub, written(folder, {name: "x"}))
    assert done.left_out == [name] and name in done.said and name not in hub.files("alice/mine")


def test_a_link_to_somewhere_else_stays_here(hub, folder, tmp_path):
    (folder / "linked.json").symlink_to(written(tmp_path, {"secret.json": "{}"}) / "secret.json")
    assert pushed(hub, folder).left_out == ["linked.json"]


def test_a_dry_run_writes_exactly_what_a_push_would_push_and_asks_nobody(hub, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    dry = pushed(hub, folder, dry_run=tmp_path / "dry", also={"plot.svg": b"<svg/>", "config.json": b"[]"})
    assert not hub.requests and "not pushed" in dry.line
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pushed(hub, folder, also={"plot.svg": b"<svg/>", "config.json": b"[]"})
    there = {name: data for name, data in hub.files("alice/mine").items() if name != ".gitattributes"}
    assert {name: (tmp_path / "dry" / name).read_bytes() for name in names_in(tmp_path / "dry")} == there
    assert there["config.json"] == b"[]" and "is not empty" in refused(hub, folder, dry_run=tmp_path / "dry")


def names_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def adding(path: str, data: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


# --- what is refused before anything is there -------------------------------------------------------------------------


@pytest.mark.parametrize("repo", ["mine", "a/b/c", "alice/-mine", "alice/mi--ne", "alice/mine.git", "alice/ä", "", "/"])
def test_a_wrong_name_is_a_sentence(hub, folder, repo):
    assert "write USER/NAME" in refused(hub, folder, repo) and not hub.requests


def test_without_a_token_it_says_where_to_get_one(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    said = refused(hub, folder)
    assert "Access Tokens" in said and "HF_TOKEN" in said and not hub.requests


@pytest.mark.parametrize(
    ("token", "repo", "said"),
    [
        ("hf_unknown", "alice/mine", "Invalid username or password"),
        (READ_TOKEN, "alice/mine", "you must use a write token"),
        (TOKEN, "bob/mine", 'You don\'t have the rights to create a model under the namespace "bob"'),
    ],
)
def test_a_token_that_cannot_write_there_creates_nothing(hub, folder, token, repo, said, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    assert said in refused(hub, folder, repo) and not hub.repositories


def test_an_organisation_that_one_belongs_to_is_written_to(hub, folder):
    assert "private" in pushed(hub, folder, "planners/mine").line


@pytest.mark.parametrize("marker", [None, "not JSON", "[]", '{"made_by": "another", "what": "merged", "files": {}}'])
def test_a_repository_with_something_else_in_it_is_left_alone(hub, folder, marker):
    files = {"model.safetensors": b"other", "README.md": CARD, **({"plantune.json": marker} if marker else {})}
    hub.commit("alice/mine", files, kind="model")
    assert "was not pushed by plantune (it holds README.md, model.safetensors" in refused(hub, folder)
    assert hub.files("alice/mine")["model.safetensors"] == b"other"


def test_a_repository_of_another_form_is_left_alone(hub, folder):
    pushed(hub, folder, about={"run": "mine", "what": "adapter"})
    assert "holds 'adapter', but this is 'merged'" in refused(hub, folder)


def test_an_empty_repository_that_was_public_is_filled_in_private(hub, folder):
    hub.commit("alice/mine", {".gitattributes": GITATTRIBUTES}, kind="model")
    pushed(hub, folder)
    [closed], [committed] = (
        asked(hub, "PUT /api/models/alice/mine/settings"),
        asked(hub, "POST /api/models/alice/mine/c"),
    )
    assert closed < committed and hub.repositories["models/alice/mine"].private


def test_a_public_model_is_replaced_only_when_public_is_said(hub, folder):
    pushed(hub, folder, public=True)
    before = hub.files("alice/mine")
    assert "give --public" in refused(hub, written(folder, {"config.json": "[]"}))
    assert hub.files("alice/mine") is before
    assert pushed(hub, folder, public=True).sent == 1 and not hub.repositories["models/alice/mine"].private


@pytest.mark.parametrize("key", [f"hf_{'A1' * 17}", f"AIza{'b' * 35}", "a-key-of-this-machine", TOKEN])
def test_a_key_in_a_text_stops_everything_and_is_not_shown(hub, folder, key, monkeypatch):
    monkeypatch.setenv("MY_SERVER_API_KEY", "a-key-of-this-machine")
    said = refused(hub, written(folder, {"recipe.json": f'{{\n"key": "{key}"}}'}))
    assert "recipe.json line 2 holds a key" in said and key not in said and not hub.requests


def test_wrong_metadata_stops_it_before_any_file_is_sent(hub, folder):
    said = refused(hub, written(folder, {"README.md": CARD.replace("mit", "my own")}))
    assert "Invalid metadata" in said and '"license" must be one of' in said
    assert not hub.received and set(hub.files("alice/mine")) == {".gitattributes"}


def test_a_folder_with_nothing_to_push_is_a_sentence(hub, tmp_path):
    assert "nothing that may be pushed" in refused(hub, written(tmp_path / "x", {"a.pt": "x"}))


# --- what goes wrong on the way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["500", "503", "429", "lost"])
@pytest.mark.parametrize("where", ["POST /api/repos/create", "POST /api/models/alice/mine/commit", "PUT /api/models"])
def test_after_what_passes_the_same_push_goes_on_and_nothing_is_done_twice(hub, folder, where, fault):
    hub.fail(where, fault)
    assert "rerun the command" in refused(hub, folder, public=True)
    pushed(hub, folder, public=True)
    repository = hub.repositories["models/alice/mine"]
    assert len(repository.commits) == 2 and not repository.private and len(hub.received) == 1


def test_an_upload_that_breaks_off_once_is_begun_again(hub, folder, impatient):
    hub.fail("PUT /lfs/", "cut")
    assert pushed(hub, folder).sent == 4 and len(asked(hub, "PUT /lfs/")) == 2


def test_after_a_lost_connection_the_same_push_goes_on_and_sends_nothing_twice(hub, folder, impatient):
    other = random.Random(1).randbytes(50_000)
    second = hashlib.sha256(other).hexdigest()
    hub.fail(f"PUT /lfs/models/alice/mine/{second}", "cut", times=6)  # as often as the library tries
    said = refused(hub, written(folder, {"other.safetensors": other}), public=True)
    assert "has all of this push or none of it; once that is fixed, rerun the command" in said
    assert set(hub.files("alice/mine")) == {".gitattributes"} and hub.repositories["models/alice/mine"].private
    pushed(hub, folder, public=True)
    assert [size for _, size in hub.received] == [len(WEIGHTS), len(other)]


def test_a_hub_out_of_reach_is_a_sentence(hub, folder, monkeypatch):
    with LoopbackHub() as gone:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", gone.url)
    assert "Connection refused" in refused(gone, folder)


def test_offline_mode_is_named(hub, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "unset the `HF_HUB_OFFLINE` environment variable" in refused(hub, folder)


def test_no_room_on_the_hub_is_a_sentence(hub, folder):
    hub.quota = 1000
    said = refused(hub, folder, public=True)
    assert "the push to alice/mine failed" in said and "storage limit reached" in said
    assert hub.repositories["models/alice/mine"].private and not hub.received


def test_what_the_hub_lists_otherwise_is_not_made_public(hub, folder):
    hub.fail("POST /api/models/alice/mine/commit", "damage")
    said = refused(hub, folder, public=True)
    assert "README.md" in said and "model.safetensors" in said  # one that git holds, one that LFS holds
    assert hub.repositories["models/alice/mine"].private


def test_somebody_elses_commit_in_between_is_never_written_over(hub, folder):
    hub.fail("POST /api/models/alice/mine/commit", "overtaken")
    assert "A commit has happened since" in refused(hub, folder)
    assert hub.files("alice/mine") == {"model.safetensors": b"somebody else's"}


def test_a_refusal_nobody_foresaw_is_still_a_sentence(hub, folder):
    hub.fail("POST /api/models/alice/mine/preupload", "418")
    assert "the push to alice/mine failed: Something went wrong with ***" in refused(hub, folder)


def in_a_child(hub, folder, home, **environment) -> subprocess.Popen:
    code = "from pathlib import Path; from plantune_lite.export.push import Push, bring; "
    code += f"bring([Push(Path({str(folder)!r}), 'alice/mine')], public=False)"
    environment = hub.environment(home, HF_TOKEN=TOKEN, HF_HUB_DISABLE_PROGRESS_BARS="1", **environment)
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def test_a_killed_push_goes_on(folder, tmp_path):
    with LoopbackHub() as hub:
        hub.fail("POST /api/models/alice/mine/commit", "stall")  # all is sent, and nothing of it to be seen yet
        child = in_a_child(hub, folder, tmp_path)
        assert hub.stalled.wait(60)
        child.kill()
        child.wait()
        assert set(hub.files("alice/mine")) == {".gitattributes"}
        assert in_a_child(hub, folder, tmp_path).wait() == 0
        assert hub.received == [(hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))]
        assert hub.files("alice/mine")["model.safetensors"] == WEIGHTS


def test_the_way_of_hf_xet_which_users_have_brings_the_same_files(folder, tmp_path):
    pytest.importorskip("hf_xet")
    with LoopbackHub() as hub:
        assert in_a_child(hub, folder, tmp_path, HF_HUB_DISABLE_XET="0").wait() == 0
        assert hub.files("alice/mine")["model.safetensors"] == WEIGHTS and asked(hub, "POST /v1/xorbs")
        assert not asked(hub, "PUT /lfs/") and hub.repositories["models/alice/mine"].private


@pytest.mark.slow
def test_a_killed_push_by_hf_xet_sends_no_block_twice(tmp_path):
    pytest.importorskip("hf_xet")
    large = written(tmp_path / "large", {"model.safetensors": random.Random(2).randbytes(140_000_000)})
    with LoopbackHub() as hub:
        usual, seen = hub.next_fault, []
        hub.next_fault = lambda request: (
            (seen.append(request), "stall" if len(seen) == 2 else "")[1]
            if request.startswith("POST /v1/xorbs")
            else usual(request)
        )
        child = in_a_child(hub, large, tmp_path, HF_HUB_DISABLE_XET="0")
        assert hub.stalled.wait(60)
        while not hub.received:
            time.sleep(0.05)
        child.kill()
        child.wait()
        assert in_a_child(hub, large, tmp_path, HF_HUB_DISABLE_XET="0").wait() == 0
        assert len({key for key, _ in hub.received}) == len(hub.received) == 3
        assert len(hub.files("alice/mine")["model.safetensors"]) == 140_000_000


# --- what of a run goes where -----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "runs" / "mine")


def run_pushed(hub, run, **named):
    push = push_corpus if named.pop("data", False) else push_model
    return push(run, "alice/mine", **named)


def run_refused(hub, run, **named) -> str:
    with pytest.raises(PlantuneError) as caught:
        run_pushed(hub, run, **named)
    assert not hub.requests  # not even those forms that would have been fit
    return str(caught.value)


def test_a_run_goes_in_every_form_to_a_repository_of_its_own(hub, run):
    run_pushed(hub, run)
    common = {".gitattributes", "README.md", "plantune.json"}
    assert set(hub.files("alice/mine")) == common | {"adapter_model.safetensors", "adapter_config.json"}
    assert set(hub.files("alice/mine-merged")) == common | {"model.safetensors", "config.json"}
    assert set(hub.files("alice/mine-GGUF")) == common | {"mine-q8_0.gguf", "Modelfile"}
    assert b"[alice/mine-GGUF](/alice/mine-GGUF)" in hub.files("alice/mine-merged")["README.md"]
    assert all(repository.private for repository in hub.repositories.values())


def test_no_form_is_public_before_all_are_there(hub, run):
    hub.quota = 10_000
    (run / "gguf" / "mine-q8_0.gguf").write_bytes(WEIGHTS)
    write_manifest(run, exported_anew(run))
    with pytest.raises(PlantuneError, match="the push to alice/mine-GGUF failed: .*storage limit reached"):
        run_pushed(hub, run, public=True)
    assert [repository.private for repository in hub.repositories.values()] == [True, True, True]
    hub.quota = 1 << 40
    run_pushed(hub, run, public=True)
    assert not any(repository.private for repository in hub.repositories.values())


def exported_anew(run: Path) -> Manifest:
    manifest = read_manifest(run)
    manifest.stages["export"].outputs = outputs_of(run, ("merged", "gguf"))
    return manifest


def test_one_form_alone_goes_where_it_would_have_gone_with_the_others(hub, run):
    [done] = run_pushed(hub, run, what="gguf", public=True)
    assert done["repo"] == "alice/mine-GGUF" and list(hub.repositories) == ["models/alice/mine-GGUF"]
    assert json.loads(hub.files("alice/mine-GGUF")["plantune.json"])["what"] == "gguf"


@pytest.mark.parametrize(
    ("verified", "said"), [(False, "was found to differ from its adapter"), (None, "was not compared with its adapter")]
)
def test_a_merged_model_that_is_not_known_to_be_its_adapters_equal_is_never_pushed(hub, tmp_path, verified, said):
    run = finished_run(tmp_path / "mine", verified=verified)
    for what in (None, "merged", "gguf"):
        assert said in run_refused(hub, run, what=what)
    assert [done["repo"] for done in run_pushed(hub, run, what="adapter")] == ["alice/mine"]


def test_a_merged_model_that_was_changed_after_its_check_is_not_pushed(hub, run):
    (run / "merged" / "config.json").write_text("[]")
    assert "merged/config.json is not what export wrote" in run_refused(hub, run)


def test_an_adapter_that_is_not_what_training_wrote_is_not_pushed(hub, run):
    manifest = read_manifest(run)
    manifest.stages["sft"] = Entry(status="done", outputs=outputs_of(run, ("sft",)))
    write_manifest(run, manifest)
    (run / "sft" / "adapter_model.safetensors").write_text("adapte")
    assert "sft/adapter_model.safetensors is not what sft wrote" in run_refused(hub, run, what="adapter")


def test_one_flipped_byte_of_a_large_file_keeps_it_here(hub, run, monkeypatch):
    monkeypatch.setattr("plantune_lite.runs.folder._HASHED_BELOW", 4)
    write_manifest(run, exported_anew(run))
    (run / "merged" / "model.safetensors").write_text("merqed")
    assert changed_outputs(run, read_manifest(run).stages["export"].outputs) == ([], [])  # what every command looks at
    assert "merged/model.safetensors is not what export wrote" in run_refused(hub, run)


@pytest.mark.parametrize("base", ["/home/ada/models/tiny", "unsloth/gemma-3-1b-it-bnb-4bit", None])
def test_an_adapter_of_a_base_that_others_cannot_load_is_not_pushed(hub, run, base):
    (run / "sft" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    said = run_refused(hub, run, what="adapter")
    assert "--what merged" in said and "/home" not in said


def test_gemmas_notice_goes_along(hub, tmp_path):
    run_pushed(hub, finished_run(tmp_path / "mine", "student.model=gemma3_1b"), what="merged")
    there = hub.files("alice/mine-merged")
    assert b"Gemma Terms of Use" in there["NOTICE"] and b"license: gemma" in there["README.md"]


def test_the_corpus_goes_with_its_card_and_without_what_was_rejected(hub, run):
    [done] = run_pushed(hub, run, data=True, public=True)
    there = hub.files("alice/mine", "dataset")
    rows = {"train.jsonl", "validation.jsonl", "prompts.jsonl", "stats.json"}
    assert set(there) == {".gitattributes", "README.md", "plantune.json", *rows} and done["kind"] == "dataset"
    assert not card_errors(there["README.md"].decode(), "dataset")[0]


def test_the_corpuss_card_does_not_say_where_its_author_keeps_files(hub, run):
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["problems"]["path"] = "/home/ada/tests of 2026/mine.csv"
    (run / "recipe.json").write_text(json.dumps(recipe))
    card = run / "corpus" / "README.md"
    card.write_text(card.read_text() + json.dumps(recipe))
    run_pushed(hub, run, data=True)
    assert b"mine.csv" in (text := hub.files("alice/mine", "dataset")["README.md"]) and b"/home" not in text


def test_a_dry_run_of_a_run_writes_a_folder_for_each_repository(hub, run, tmp_path):
    run_pushed(hub, run, dry_run=tmp_path / "dry")
    assert {path.name for path in (tmp_path / "dry").iterdir()} == {"mine", "mine-merged", "mine-GGUF"}
    assert not hub.requests and (tmp_path / "dry" / "mine" / "README.md").read_text().startswith("---\nbase_model")


def test_a_run_with_nothing_to_push_says_what_makes_it(hub, run):
    for name in ("sft/adapter_config.json", "merged/model.safetensors", "gguf/mine-q8_0.gguf", "corpus/README.md"):
        (run / name).unlink()
    assert "has no model to push yet: `plantune run" in run_refused(hub, run)
    assert "has no corpus yet" in run_refused(hub, run, data=True)


# --- the loopback Hub says no -----------------------------------------------------------------------------------------


def said_no(hub, do) -> tuple[int, str]:
    with pytest.raises(HfHubHTTPError) as caught:
        do(HfApi(hub.url, token=TOKEN))
    return caught.value.response.status_code, str(caught.value)


@pytest.fixture
def filled(hub):
    HfApi(hub.url, token=TOKEN).create_repo("alice/mine", private=True)
    return hub


def committing(hub, *lines, parent=None) -> httpx.Response:
    header = {"key": "header", "value": {"summary": "x", "parentCommit": parent} if parent else {"summary": "x"}}
    body = "".join(json.dumps(line) + "\n" for line in (header, *lines))
    url, headers = f"{hub.url}/api/models/alice/mine/commit/main", {"Authorization": f"Bearer {TOKEN}"}
    return httpx.post(url, content=body, headers=headers)


def pointing_at(data: bytes, size: int | None = None) -> dict:
    value = {"path": "m.safetensors", "algo": "sha256", "oid": hashlib.sha256(data).hexdigest()}
    return {"key": "lfsFile", "value": {**value, "size": len(data) if size is None else size}}


def test_the_loopback_hub_refuses_an_object_that_was_never_uploaded_or_has_another_size(filled):
    assert committing(filled, pointing_at(WEIGHTS)).status_code == 400
    filled.repositories["models/alice/mine"].objects[hashlib.sha256(WEIGHTS).hexdigest()] = Lfs(WEIGHTS)
    assert committing(filled, pointing_at(WEIGHTS, size=7)).status_code == 400
    assert committing(filled, pointing_at(WEIGHTS)).status_code == 200


def test_the_loopback_hubs_storage_refuses_what_is_not_what_its_name_says(filled):
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    asked = {"objects": [{"oid": oid, "size": len(WEIGHTS)}]}
    batch = f"{filled.url}/alice/mine.git/info/lfs/objects/batch"
    reply = httpx.post(batch, json=asked, headers={"Authorization": f"Bearer {TOKEN}"}).json()
    url = reply["objects"][0]["actions"]["upload"]["href"]
    assert httpx.put(url, content=WEIGHTS[:-1]).status_code == 400
    assert httpx.put(url, content=WEIGHTS[::-1]).status_code == 400
    assert httpx.put(url.split("?")[0], content=WEIGHTS).status_code == 403
    assert httpx.post(reply["objects"][0]["actions"]["verify"]["href"], json=asked["objects"][0]).status_code == 404
    assert httpx.put(url, content=WEIGHTS).status_code == 200


def test_the_loopback_hub_refuses_a_commit_after_somebody_elses_a_binary_file_and_an_unknown_key(filled):
    old = HfApi(filled.url, TOKEN).repo_info("alice/mine").sha
    content = {"path": "x.txt", "encoding": "base64", "content": "eA=="}
    assert committing(filled, {"key": "file", "value": content}, parent=old).status_code == 200
    assert committing(filled, {"key": "file", "value": content}, parent=old).status_code == 412
    assert committing(filled, {"key": "file", "value": {**content, "content": "AAAA"}}).status_code == 400
    assert committing(filled, {"key": "renamedFile", "value": content}).status_code == 400


def test_the_loopback_hub_refuses_names_and_tokens(filled):
    assert said_no(filled, lambda api: api.create_repo("alice/mine"))[0] == 409
    status, why = said_no(filled, lambda api: api.create_repo("bob/theirs"))
    assert status == 403 and "You don't have the rights to create a model under the namespace" in why
    assert said_no(filled, lambda api: api.create_repo("alice/x", token=READ_TOKEN))[0] == 403
    assert said_no(filled, lambda api: api.whoami(token="hf_unknown"))[0] == 401
    assert said_no(filled, lambda api: api.repo_info("alice/mine", token=BOBS_TOKEN))[0] == 404  # it is private
    assert (
        said_no(filled, lambda api: api.update_repo_settings("alice/mine", private=False, token=READ_TOKEN))[0] == 403
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("license: gpl-of-mine", '"license" must be one of'),
        ("license: other", '"license_name" and "license_link" are required'),
        ("language: english", '"language" with value "english"'),
        ("base_model: /home/ada/tiny", '"base_model" with value "/home/ada/tiny"'),
        ("base_model_relation: child", '"base_model_relation" must be one of'),
        ("tags: planning", '"tags" must be an array'),
        ("model-index: [{results: []}]", '"model-index[0].name" is required'),
        ("model-index: [{name: x, results: [{task: {type: y}, dataset: {type: z}}]}]", 'dataset.name" is required'),
        ("pipeline_tag: [a]", '"pipeline_tag" must be a string'),
        ("a: b: c", "not YAML"),
    ],
)
def test_the_loopback_hub_refuses_a_card_with_wrong_metadata_asked_or_committed(filled, change, error):
    card = f"---\n{change}\n---\n# x\n"
    asked = httpx.post(f"{filled.url}/api/validate-yaml", json={"content": card, "repoType": "model"})
    assert asked.status_code == 400 and error in asked.json()["errors"][0]["message"]
    with pytest.raises(ValueError, match="Invalid metadata"):
        HfApi(filled.url, TOKEN).create_commit("alice/mine", [adding("README.md", card.encode())], commit_message="x")
    content = {"path": "README.md", "encoding": "base64", "content": base64.b64encode(card.encode()).decode()}
    assert committing(filled, {"key": "file", "value": content}).status_code == 400


def test_the_loopback_hub_refuses_a_shard_of_xet_whose_xorb_it_does_not_have(filled):
    shard = b"\0" * 48 + b"a" * 32 + struct.pack("<IIQ", 0, 1, 0) + b"x" * 32 + struct.pack("<4I", 0, 5, 0, 1)
    reply = httpx.post(
        f"{filled.url}/v1/shards",
        content=shard + b"\xff" * 48,
        headers={"Authorization": "Bearer xet models/alice/mine"},
    )
    assert reply.status_code == 400 and "never uploaded" in reply.json()["error"]
    assert httpx.post(f"{filled.url}/v1/shards", content=shard).status_code == 401
