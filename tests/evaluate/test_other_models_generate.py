"""What is served or lies in a folder under an old name is not taken for what was there before."""

import os

from fake_openai import FakeOpenAI
from fake_teacher import Mind

from plantune_lite.evaluate import other_models
from plantune_lite.plan import chat
from plantune_lite.student.weights import Source
from plantune_lite.teacher.ledger import Ledger
from plantune_lite.types import Sampling

QUESTION = "Solve: What is 2 plus 3?"


def test_what_is_asked_apart_is_asked_anew_and_then_kept_too(tmp_path):
    def answered(apart):
        with (
            Ledger(tmp_path / "calls.sqlite", run="r") as ledger,
            other_models.of_server(server.url, "m", ledger) as ask,
        ):
            [[reply]] = ask([chat(QUESTION)], Sampling(max_tokens=100), **({"apart": apart} if apart else {}))
        return reply.text[-7:], len(server.requests)

    with FakeOpenAI(models=("m",), mind=Mind([{"question": QUESTION, "answer": "999"}])) as server:
        assert answered("monday") == ("d{999}.", 1)
        server.mind = Mind([{"question": QUESTION, "answer": "777"}])
        assert answered("monday") == ("d{999}.", 1) and answered("tuesday") == ("d{777}.", 2)
        assert answered("") == ("d{777}.", 3) and answered("tuesday")[1] == 3


def test_a_folder_whose_files_changed_holds_other_weights(tmp_path):
    def weights():
        return Source(repo=str(tmp_path), revision=None, place=str(tmp_path), backend="plain").weights

    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    first = weights()
    assert first == weights() != ""
    file.write_bytes(b"two")
    os.utime(file, ns=(0, 7))
    assert weights() != first
    hub = Source(repo="a/b", revision="dcc83e", place=str(tmp_path), backend="plain")
    assert hub.weights == "dcc83e" and Source(repo="a/b", revision=None, place="a/b", backend="unsloth").weights == ""
