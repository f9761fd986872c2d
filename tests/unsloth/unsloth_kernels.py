"""Unsloth's own models and kernels, as on a card, on the CPU, where triton is too.

    pytest tests/unsloth/unsloth_kernels.py

unsloth_backend.py has what Unsloth writes around a model (its trainers) and its backend for CPUs. Here the model itself
is Unsloth's, of the branch that CUDA takes: FastLlamaModel and its kin, with their attention and their decoding, and
Triton's kernels under Triton's interpreter. This file is the program of the process that takes itself for an H200, and
of the one without Unsloth that it is compared with. Minutes, for two layers: what it shows is that they agree.
"""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import unsloth_backend as backend
from unsloth_backend import TURNS_OF

FAMILIES = ("llama", "qwen3")
GIB = 2**30


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What both processes found, of each family."""
    from tiny import tiny_student, tiny_tokenizer

    from plantune_lite.student import presets

    found = {}
    for family in FAMILIES:
        folder = tiny_student(tmp_path_factory.mktemp("base"), family, max_position_embeddings=512)
        tokenizer = tiny_tokenizer(family)
        tokenizer.chat_template = presets.find(TURNS_OF[family]).chat_template
        tokenizer.save_pretrained(folder)
        found[family] = {kind: elsewhere(kind, folder, tmp_path_factory.mktemp(kind)) for kind in ("plain", "card")}
    return found


def elsewhere(kind, folder, work):
    command = [sys.executable, str(Path(__file__)), kind, str(folder), str(work)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=work)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((work / "made.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_unsloths_own_model_was_asked(family, made):
    assert "fast_forward" in made[family]["card"]["forward"]
    assert "fast" not in made[family]["plain"]["forward"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("what", ["untrained", "losses", "validation", "scores"])
def test_it_learns_the_same(family, what, made):
    assert made[family]["card"][what] == pytest.approx(made[family]["plain"][what], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_the_same_whichever_adapter_is_on(family, made):
    card, plain = made[family]["card"], made[family]["plain"]
    assert card["said"] == plain["said"]
    assert card["said"]["itself"] == card["said"]["itself again"] == card["said"]["loaded again"]
    assert card["said"]["itself"] != card["said"]["untuned"]


# --- the other processes ----------------------------------------------------------------------------------------------


def as_if_on_an_h200():
    """Before anything of Unsloth's is asked: its branch for CUDA, with a card that the CPU plays."""
    os.environ |= {"TRITON_INTERPRET": "1", "UNSLOTH_COMPILE_DISABLE": "1"}
    backend.as_if_on_cuda()
    import torch
    from unsloth import FastLanguageModel
    from unsloth.models import llama

    card = SimpleNamespace(
        name="H200",
        total_memory=139 * GIB,
        major=9,
        minor=0,
        multi_processor_count=132,
        warp_size=32,
        max_threads_per_multi_processor=2048,
        shared_memory_per_block_optin=232_448,
    )
    torch.cuda.get_device_properties = lambda device=None: card
    torch.cuda.get_device_capability = lambda device=None: (card.major, card.minor)
    torch.cuda.mem_get_info = lambda device=None: (120 * GIB, card.total_memory)
    torch.cuda.current_device = lambda: 0
    torch.cuda.current_stream = lambda *of: SimpleNamespace(cuda_stream=0)
    torch.cuda.device = lambda *of: nullcontext()
    torch.cuda.empty_cache = torch.cuda.synchronize = lambda *of: None
    llama.get_device_stats = lambda *of, **how: ("", "", 139.0)
    for name, module in list(sys.modules.items()):
        if name.startswith("unsloth") and "DEVICE_TYPE_TORCH" in vars(module):
            module.DEVICE_TYPE_TORCH, module.DEVICE_COUNT = "cpu", 1
    loading = FastLanguageModel.from_pretrained
    FastLanguageModel.from_pretrained = lambda **how: loading(**{**how, "device_map": {"": "cpu"}})
    _there_is_no_cuda(torch).__enter__()


def _there_is_no_cuda(torch):
    """What is asked for on the card is made on the CPU."""
    from torch.overrides import TorchFunctionMode

    def here(value):
        on_card = str(value).startswith("cuda") if isinstance(value, str | torch.device) else False
        return "cpu" if on_card else value

    class OnTheCpu(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            name, given = getattr(function, "__name__", ""), dict(kwargs or {})
            if "device" in given:  # a card's number, or its name
                given["device"] = "cpu" if type(given["device"]) is int else here(given["device"])
            if function is torch.device and type(args[0]) is int:
                return torch.device("cpu", args[0])  # what is kept for each card is found by its number
            if name == "cuda":
                return args[0]
            if name == "to":
                args = (args[0], *map(here, args[1:]))
            return function(*args, **given)

    return OnTheCpu()


def main(kind, folder, work):
    if kind == "card":
        as_if_on_an_h200()

    # Short rows and few: the interpreter takes its time.
    backend.ROWS = [
        {
            "prompt": [{"role": "system", "content": "P"}, {"role": "user", "content": f"{price}?" * (1 + price % 3)}],
            "completion": f"{4 * price}",
        }
        for price in range(3, 7)
    ]
    backend.PART = replace(backend.PART, accumulate=1, max_steps=2, save_steps=1, learning_rate=2e-2)

    def load(**how):
        return backend.load(folder, backend="unsloth" if kind == "card" else "plain", **how)

    loaded, validation = load(training=True), []
    found = {"forward": loaded.model.get_base_model().forward.__qualname__, "untrained": backend.scores(loaded)}
    # Another training, whose adapter the student wears for a while.
    other = Path(work) / "other"
    backend.learn(loaded, other)
    loaded = load(training=True)
    found["losses"] = backend.learn(
        loaded, Path(work) / "own", lambda step, **named: validation.append(named.get("validation_loss"))
    )
    found["validation"] = [loss for loss in validation if loss is not None]
    found["scores"] = backend.scores(loaded)
    said = {"itself": backend.answers(loaded)}
    with loaded.untuned():
        said["untuned"] = backend.answers(loaded)
    with loaded.wearing(other):
        said["another"] = backend.answers(loaded)
    said["itself again"] = backend.answers(loaded)
    said["loaded again"] = backend.answers(load(adapter=Path(work) / "own"))
    (Path(work) / "made.json").write_text(json.dumps({**found, "said": said}))


if __name__ == "__main__":
    main(*sys.argv[1:])
