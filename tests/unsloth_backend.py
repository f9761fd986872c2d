"""The Unsloth branch driven for real: `pytest tests/unsloth_backend.py`, in an environment that has unsloth.

Not collected with the other tests, whose environment has no unsloth: it changes TRL for the whole process. Where there
is no GPU, Unsloth's own backend for the CPU takes the arguments that CUDA gets; and the trainer that it writes for CUDA
is tried too, with a plain model, in a process that it takes for one with a card. This file is the program of that
process, and of the one without Unsloth that the losses are compared with.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from plantune_lite import embedded, lessons, presets, sft, student
from plantune_lite.plans import SYSTEM
from plantune_lite.recipe import SFT, Student
from plantune_lite.records import Sampling

TURNS_OF = {"llama": "smollm2_135m", "qwen2": "qwen2_5_7b", "qwen3": "qwen3_4b", "gemma3_text": "gemma3_1b"}
NAMES = (*TURNS_OF, "smollm2")
PENS = [(price, "A pen costs {} dollars." + " It is red." * (price % 3)) for price in range(3, 11)]
ROWS = [
    {
        "prompt": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{text.format(price)} How much do 4 pens cost?"},
        ],
        "completion": f"<plan>\n1. Multiply.\n</plan>\n\\boxed{{{4 * price}}}",
    }
    for price, text in PENS
]
LENGTH = 256
PART = SFT(batch_size=2, accumulate=2, max_steps=4, learning_rate=5e-3, save_steps=2)
PART_OF_SMOLLM2 = replace(PART, accumulate=1, max_steps=2, learning_rate=1e-3, save_steps=1)


def load(folder, bits=32, backend="unsloth", **how):
    part = Student(str(folder), bits=bits, max_length=LENGTH, lora_rank=4, lora_alpha=8)
    return student.load(part, seed=1, environ={"PLANTUNE_BACKEND": backend}, **how)


def learn(loaded, out, metric=lambda step, **figures: None):
    """The loss of every step."""
    losses = []

    def kept(step, **figures):
        losses.extend([figures["loss"]] if "loss" in figures else [])
        metric(step, **figures)

    sft.train(
        loaded,
        ROWS,
        PART_OF_SMOLLM2 if loaded.model.config.num_hidden_layers > 2 else PART,
        out,
        validation=ROWS[:2],
        max_length=LENGTH,
        checkpointing=True,
        seed=1,
        metric=kept,
        say=lambda line: None,
    )
    return losses


def answers(loaded):
    """Greedy replies to prompts of different lengths, so that most are padded."""
    replies = loaded.generate([tuple(row["prompt"]) for row in ROWS[:3]], Sampling(max_tokens=6))
    return [list(reply.token_ids) for [reply] in replies]


def scores(loaded):
    """Of every token behind a conversation."""
    ids = torch.tensor([loaded.encode_chat(tuple(ROWS[0]["prompt"]))], device=loaded.model.device)
    with torch.no_grad():
        return loaded.model(input_ids=ids).logits[0, -1].float().tolist()


sft.SAMPLED = 2  # a training ends with replies twice as long as the longest row


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    student.unsloth()  # before transformers, as in a stage
    from tiny import tiny_student, tiny_tokenizer

    folders = {"smollm2": embedded.folder()}
    for family, preset in TURNS_OF.items():
        folders[family] = tiny_student(tmp_path_factory.mktemp("base"), family, max_position_embeddings=512)
        tokenizer = tiny_tokenizer(family)
        tokenizer.chat_template = presets.find(preset).chat_template
        tokenizer.save_pretrained(folders[family])
    return folders


@pytest.fixture(scope="session")
def tuned(folders, tmp_path_factory):
    """Every student after a training in 32 bits: its losses, what it says then, and where its adapter is."""
    made = {}
    for name in NAMES:
        loaded, adapter = load(folders[name], training=True), tmp_path_factory.mktemp("tuned")
        losses = learn(loaded, adapter)
        made[name] = {"losses": losses, "answers": answers(loaded), "scores": scores(loaded), "adapter": adapter}
    return made


@pytest.fixture(scope="session")
def plain(folders, tuned, tmp_path_factory):
    """The same without Unsloth: the losses of the same training, and what it says with Unsloth's adapter."""
    return elsewhere("plain", {name: (folders[name], tuned[name]["adapter"]) for name in NAMES}, tmp_path_factory)


@pytest.fixture(scope="session")
def cuda(folders, tmp_path_factory):
    """The same with the trainer that Unsloth writes for CUDA."""
    return elsewhere("cuda", {name: (folders[name], None) for name in ("llama", "gemma3_text")}, tmp_path_factory)


def elsewhere(kind, folders, tmp_path_factory):
    work = tmp_path_factory.mktemp(kind)
    asked = {name: [str(path) if path else None for path in paths] for name, paths in folders.items()}
    command = [sys.executable, str(Path(__file__)), kind, json.dumps(asked), str(work)]
    cwd = tmp_path_factory.mktemp("cwd")
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return {**json.loads((work / "made.json").read_text()), "left behind": os.listdir(cwd)}


# --- what a student does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bits"), [(name, bits) for name in TURNS_OF for bits in (4, 16, 32)] + [("smollm2", 4)]
)
def test_a_student_learns_and_still_knows_what_it_said_before(name, bits, folders, tmp_path):
    loaded = load(folders[name], bits, training=True)
    assert any(type(module).__name__ == "Linear4bit" for module in loaded.model.modules()) == (bits == 4)
    said, scored = answers(loaded), scores(loaded)
    losses = learn(loaded, tmp_path / "sft")
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert scores(loaded) != pytest.approx(scored, abs=0.1)
    with loaded.untuned():
        assert answers(loaded) == said
        assert scores(loaded) == pytest.approx(scored, abs=1e-3)


@pytest.mark.parametrize("bits", [4, 32])
def test_another_adapter_is_worn_for_a_while(bits, folders, tuned, tmp_path):
    made = tuned["qwen2"]
    loaded = load(folders["qwen2"], bits, training=True)
    scored = scores(loaded)
    with loaded.wearing(made["adapter"]):
        assert scores(loaded) != pytest.approx(scored, abs=0.1)
        if bits == 32:
            assert answers(loaded) == made["answers"] and scores(loaded) == pytest.approx(made["scores"], abs=1e-3)
    assert scores(loaded) == pytest.approx(scored, abs=1e-6)


@pytest.mark.parametrize("bits", [4, 32])
def test_a_student_goes_on_learning_after_it_has_answered(bits, folders, tmp_path):
    loaded = load(folders["qwen2"], bits, training=True)
    answers(loaded)
    assert loaded.model.training and loaded.model.is_gradient_checkpointing
    first = learn(loaded, tmp_path / "first")
    answers(loaded)
    assert learn(loaded, tmp_path / "second")[-1] < first[-1]


def test_the_first_loss_is_of_the_completions_alone(folders, tuned):
    loaded = load(folders["llama"], training=True)
    taught = lessons.lessons(loaded, ROWS, LENGTH).kept
    places = lessons.order([len(one.ids) for one in taught], PART.batch_size, 16, seed=1)[:4]
    losses = []
    for one in (taught[place] for place in places):
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([one.ids], device=loaded.model.device)).logits[0]
        learned = torch.tensor(one.ids[-one.learned :], device=logits.device)
        losses.append(cross_entropy(logits[-one.learned - 1 : -1], learned, reduction="none"))
    assert tuned["llama"]["losses"][0] == pytest.approx(torch.cat(losses).mean().item(), abs=1e-3)


def test_a_training_that_was_cut_off_ends_where_it_would_have(folders, tuned, tmp_path):
    def cut(step, **figures):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(load(folders["qwen3"], training=True), tmp_path, metric=cut)
    assert (tmp_path / "checkpoint-2").is_dir()
    again = load(folders["qwen3"], training=True)
    assert learn(again, tmp_path) == pytest.approx(tuned["qwen3"]["losses"][2:], abs=1e-5)
    assert scores(again) == pytest.approx(tuned["qwen3"]["scores"], abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_adapter_is_the_same_student_again(name, folders, tuned):
    again = load(folders[name], adapter=tuned[name]["adapter"])
    assert answers(again) == tuned[name]["answers"]
    assert scores(again) == pytest.approx(tuned[name]["scores"], abs=1e-3)


# --- beside the plain branch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_is_the_plain_branchs(name, tuned, plain):
    assert tuned[name]["losses"] == pytest.approx(plain[name]["losses"], abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_branch_says_the_same_with_the_adapter(name, tuned, plain):
    assert plain[name]["answers"] == tuned[name]["answers"]
    assert plain[name]["scores"] == pytest.approx(tuned[name]["scores"], abs=1e-3)


# --- what CUDA alone changes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_the_trainer_for_cuda_learns_the_same(name, plain, cuda):
    assert cuda["trainer"] == "UnslothSFTTrainer"
    assert cuda[name]["losses"] == pytest.approx(plain[name]["losses"], abs=1e-3)


def test_the_config_for_cuda_keeps_what_we_set(cuda):
    # Unsloth checkpoints in its own way, which works with this one alone.
    assert cuda["changed"] == {"gradient_checkpointing_kwargs": [{"use_reentrant": False}, {"use_reentrant": True}]}


def test_nothing_is_left_where_the_user_works(cuda):
    assert cuda["left behind"] == []


# --- the other processes ----------------------------------------------------------------------------------------------


def as_if_on_cuda():
    """Unsloth as it is with a card, whose kernels nothing here calls; what it does to a config that we make."""
    os.environ |= {"UNSLOTH_ALLOW_CPU": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "TORCHDYNAMO_DISABLE": "1"}
    student.unsloth()
    from unsloth.models import _utils, rl
    from unsloth.trainer import _patch_trl_trainer

    os.environ["UNSLOTH_ALLOW_CPU"] = "0"  # with it TRL is left alone
    rl._patch_trl_rl_trainers("sft_trainer")
    _patch_trl_trainer()
    from transformers import Trainer

    _utils.patch_gradient_accumulation_fix(Trainer)
    return changed_settings()


def changed_settings():
    from copy import deepcopy

    from plantune_lite import trl_config

    given, config = {}, trl_config.config

    def noted(kind, settings, *rest):
        given.update(deepcopy(settings))
        return config(kind, settings, *rest)

    trl_config.config = noted
    model = torch.nn.Linear(1, 1)
    model.dtype = torch.float32
    made = sft._settings(model, PART, Path("x") / "sft", LENGTH, True, 0, 4, True)
    trl_config.config = config
    now = {name: getattr(made, name, "gone") for name in given}
    return {name: [was, now[name]] for name, was in given.items() if getattr(now[name], "value", now[name]) != was}


def main(kind, asked, work):
    made = {"changed": as_if_on_cuda()} if kind == "cuda" else {}
    for name, (folder, adapter) in json.loads(asked).items():
        losses = learn(load(folder, backend="plain", training=True), work / name)
        made[name] = {"losses": losses}
        if adapter:
            again = load(folder, backend="plain", adapter=Path(adapter))
            made[name] |= {"answers": answers(again), "scores": scores(again)}
    from trl import SFTTrainer

    made["trainer"] = SFTTrainer.__name__
    (work / "made.json").write_text(json.dumps(made))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
