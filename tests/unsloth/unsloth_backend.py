"""The Unsloth branch driven for real: `pytest tests/unsloth/unsloth_backend.py`, in an environment that has unsloth.

Not collected with the other tests, whose environment has no unsloth: it changes TRL for the whole process. Where there
is no GPU, Unsloth's own backend for the CPU takes the arguments that CUDA gets; and the trainer that it writes for CUDA
is tried too, with a plain model, in a process that it takes for one with a card. This file is the program of that
process, and of the one without Unsloth that the losses are compared with.
"""

import ast
import importlib.util
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

from plantune_lite.export import merge
from plantune_lite.lab.cpl import preference, step_apo, value_head
from plantune_lite.lab.cpl.pairs import StepPair
from plantune_lite.lab.probes import residuals
from plantune_lite.plan import SYSTEM
from plantune_lite.recipe.schema import CPL, GRPO, SFT, Student
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.student import presets, smollm2
from plantune_lite.student.load import load_student, unsloth
from plantune_lite.train import data, grpo, rollouts, sft
from plantune_lite.train.trl_args import grpo_config
from plantune_lite.types import Sampling

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
ASK = {str(price): tuple(row["prompt"]) for (price, _), row in zip(PENS, ROWS, strict=True)}
PAIRS = [
    StepPair(
        problem_id=str(price),
        prompt="<plan>\n",
        better=f"1. Multiply {price} by 4.\n",
        worse="1. Guess." + " Guess again." * (price % 3) + "\n",
        q_better=0.5,
        q_worse=0.5 - price / 10,
    )
    for price, _ in PENS
]
LOW = 160  # ids below it are rewarded
GROUPS = GRPO(
    settings="paper",  # it looks at the reference
    steps=3,
    group=4,
    prompts_per_step=2,
    learning_rate=5e-3,
    max_completion=16,
    save_steps=2,
    extra={"per_device_train_batch_size": 4},
)
SCALED = GRPO(group=4, prompts_per_step=2, max_completion=16, extra={"scale_rewards": "group"})
REINFORCED = {
    "paper": GROUPS,
    "stable": replace(GROUPS, settings="stable"),
    "guided": replace(GROUPS, reward="guided", plans=2, continuations=2),
}


def load(folder, bits=32, backend="unsloth", **how):
    part = Student(str(folder), bits=bits, max_length=LENGTH, lora_rank=4, lora_alpha=8)
    os.environ["PLANTUNE_BACKEND"] = backend
    return load_student(part, seed=1, **how)


def training(seed, metric=lambda step, **figures: None):
    reporter = Reporter(say=lambda line: None, metric=metric)
    return Training(seed=seed, max_length=LENGTH, checkpointing=True, reporter=reporter)


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
        training(1, kept),
        validation=ROWS[:2],
    )
    return losses


def prefer(loaded, out, metric=lambda step, **figures: None):
    """The loss of every step of Step-APO."""
    losses, large = [], loaded.model.config.num_hidden_layers > 2

    def kept(step, **figures):
        losses.append(figures["loss"])
        metric(step, **figures)

    step_apo.train(
        loaded,
        PAIRS[:4] if large else PAIRS,
        ASK,
        CPL(learning_rate=1e-3 if large else 5e-3),
        out,
        training(1, kept),
        epochs=1 if large else 2,
        batches=preference.Batches(2, 1 if large else 2, 2),
    )
    return losses


def logprobs(loaded):
    """The log-probability of each better and each worse step, by the student's own logits."""
    rows, _ = preference.encoded(loaded, PAIRS[:4], ASK, LENGTH)
    found = []
    for row, name in [(row, name) for name in ("better_tokens", "worse_tokens") for row in rows]:
        ids = torch.tensor(row["prompt_tokens"] + row[name], device=loaded.model.device)
        with torch.no_grad():
            said = loaded.model(input_ids=ids[None]).logits[0, :-1].float().log_softmax(-1)
        found.append(said.gather(-1, ids[1:, None])[-len(row[name]) :].sum().item())
    return found


def begun(loaded, out):
    """The trainer of Step-APO, which has reckoned the reference."""
    rows, _ = preference.encoded(loaded, PAIRS[:4], ASK, LENGTH)
    settings = preference.config(loaded.model, CPL(), out, training(1), 1, preference.Batches(2, 1, 1))
    return preference.trainer(loaded, rows, CPL(), settings)


def references(built):
    """The log-probability of each better and each worse step, as the trainer has reckoned them."""
    return [*built.train_dataset["ref_chosen_logps"], *built.train_dataset["ref_rejected_logps"]]


def gone_on(fresh, out):
    """The losses behind the checkpoint of a Step-APO that was cut off."""

    def cut(step, **figures):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prefer(fresh(), out, metric=cut)
    assert (out / "checkpoint-2").is_dir()
    return prefer(fresh(), out)


def low_ids(prompts, completions, *, completion_ids, **_):
    """The share of tokens with a low id."""
    return [sum(id < LOW for id in ids) / len(ids) for ids in completion_ids]


def seeded(rollout):
    """A rollout that also throws the trainer's dice anew: those of two libraries have been used otherwise before."""

    def made(student, part, seed):
        sample = rollout(student, part, seed)

        def call(prompts, trainer):
            torch.manual_seed(trainer.state.global_step)
            return sample(prompts, trainer)

        return call

    return made


def reinforce(loaded, part, out):
    """The figures of every step."""
    figures = {}

    def passed(prompts, completions, **more):
        return [share > 0.6 for share in low_ids(prompts, completions, **more)]

    grpo.train(
        loaded,
        [{"problem_id": id, "prompt": list(prompt)} for id, prompt in ASK.items()],
        grpo.Rewards(lambda most: [("low_ids", low_ids, 1.0)], passed),
        part,
        out,
        # Seed 7: no answer has the padding token in it, which Unsloth takes for padding wherever it stands.
        training(7, lambda step, **named: figures.setdefault(step, {}).update(named)),
    )
    return [named for _, named in sorted(figures.items())]


def held(loaded, file):
    """What the student holds at the last token of prompts of different lengths: all layers, and what a head reads."""
    asked = [tuple(row["prompt"]) for row in ROWS[:3]]
    read = residuals.read(loaded, [loaded.encode_chat(one) for one in asked], file, learned=[5, 0, 3])
    return {
        "layers": [read.layer(number).tolist() for number in range(read.layers)],
        "logprobs": [list(one) for one in read.logprobs],
        "last": value_head.outputs(loaded, asked).tolist(),
    }


def answers(loaded):
    """Greedy replies to prompts of different lengths, so that most are padded."""
    replies = loaded.generate([tuple(row["prompt"]) for row in ROWS[:3]], Sampling(max_tokens=6))
    return [list(reply.token_ids) for [reply] in replies]


def scores(loaded):
    """Of every token behind a conversation."""
    ids = torch.tensor([loaded.encode_chat(tuple(ROWS[0]["prompt"]))], device=loaded.model.device)
    with torch.no_grad():
        return loaded.model(input_ids=ids).logits[0, -1].float().tolist()


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    unsloth()  # before transformers, as in a stage
    from tiny import tiny_student, tiny_tokenizer

    folders = {"smollm2": smollm2.folder()}
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


def load_tuned(name, folders, tuned):
    return load(folders[name], adapter=tuned[name]["adapter"], training=True)


@pytest.fixture(scope="session")
def preferred(folders, tuned, tmp_path_factory):
    """Every student after Step-APO from there: what its trainer began with, its losses, and what it says then."""
    made = {}
    for name in NAMES:
        loaded, out = load_tuned(name, folders, tuned), tmp_path_factory.mktemp("apo")
        made[name] = held(loaded, out / "residuals") | {"references": references(begun(loaded, out))}
        made[name] |= {"preferring": prefer(loaded, out), "preferred": scores(loaded), "out": out}
    return made


@pytest.fixture(scope="session")
def plain(folders, tuned, tmp_path_factory):
    """The same without Unsloth: the losses of the same training, and what it says with Unsloth's adapter."""
    return elsewhere("plain", {name: (folders[name], tuned[name]["adapter"]) for name in NAMES}, tmp_path_factory)


@pytest.fixture(scope="session")
def cuda(folders, tuned, tmp_path_factory):
    """The same with the trainer that Unsloth writes for CUDA."""
    made = {name: (folders[name], tuned[name]["adapter"]) for name in ("llama", "gemma3_text")}
    return elsewhere("cuda", made, tmp_path_factory)


def elsewhere(kind, folders, tmp_path_factory):
    work = tmp_path_factory.mktemp(kind)
    asked = {name: [str(path) for path in paths] for name, paths in folders.items()}
    command = [sys.executable, str(Path(__file__)), kind, json.dumps(asked), str(work)]
    cwd = tmp_path_factory.mktemp("cwd")
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
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


def test_the_loader_for_cuda_takes_the_word_for_the_text_part():
    """Read, not imported: its kernels want Triton."""
    [folder] = importlib.util.find_spec("unsloth").submodule_search_locations
    tree = ast.parse((Path(folder) / "models" / "loader.py").read_text(encoding="utf-8"))
    loaders = {one.name: one for one in tree.body if isinstance(one, ast.ClassDef)}
    for name in ("FastLanguageModel", "FastModel"):
        [load] = (one for one in loaders[name].body if getattr(one, "name", "") == "from_pretrained")
        assert "text_only" in [argument.arg for argument in (*load.args.args, *load.args.kwonlyargs)]


def test_of_qwen3_5_the_text_part_learns_under_a_text_models_names(tmp_path):
    unsloth()
    from tiny import tiny_seer

    template = presets.find("qwen3_5_2b").chat_template
    base = tiny_seer(tmp_path / "base", "qwen3_5", dtype=torch.float32, chat_template=template)
    loaded = load(base, training=True)
    assert not any("visual" in name or "vision" in name for name, _ in loaded.model.named_parameters())
    losses = learn(loaded, tmp_path / "sft")
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0] and all(answers(loaded))
    merged = merge.merge_adapter(tmp_path / "sft", base, tmp_path / "merged")
    assert merged["line"].startswith("merged ")  # each name of the adapter was found in the base


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
    taught = data.lessons(loaded, ROWS, LENGTH).kept
    places = data.order([len(one.ids) for one in taught], PART.batch_size, 16, seed=1)[:4]
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


# --- Step-APO, and what reads a student's layers ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_step_apo_learns_as_the_plain_branch_does(name, preferred, plain):
    assert preferred[name]["references"] == pytest.approx(plain[name]["references"], abs=1e-3)
    assert preferred[name]["preferring"] == pytest.approx(plain[name]["preferring"], abs=1e-3)
    assert preferred[name]["preferred"] == pytest.approx(plain[name]["preferred"], abs=1e-3)


@pytest.mark.parametrize("bits", [4, 32])
def test_step_apo_begins_at_the_adapter_and_trains_it_alone(bits, folders, tuned, tmp_path):
    loaded = load(folders["qwen2"], bits, adapter=tuned["qwen2"]["adapter"], training=True)
    own = logprobs(loaded)
    with loaded.untuned():
        assert logprobs(loaded) != pytest.approx(own, abs=0.1)
    # In 4 bits it is computed in bf16, which has steps of a half there.
    assert references(begun(loaded, tmp_path)) == pytest.approx(own, abs=1e-3 if bits == 32 else 1)
    before = {name: values.detach().clone() for name, values in loaded.model.named_parameters()}
    losses = prefer(loaded, tmp_path)
    assert losses[-1] < losses[0] and logprobs(loaded) != pytest.approx(own, abs=0.1)
    learned = {name: values for name, values in loaded.model.named_parameters() if values.requires_grad}
    assert list(loaded.model.peft_config) == ["default"]
    assert learned and all("lora" in name and values.dtype == torch.float32 for name, values in learned.items())
    assert {name for name, values in loaded.model.named_parameters() if not torch.equal(values, before[name])} == set(
        learned
    )


def test_a_step_apo_that_was_cut_off_ends_where_it_would_have(folders, tuned, preferred, tmp_path):
    made, losses = preferred["llama"], gone_on(lambda: load_tuned("llama", folders, tuned), tmp_path)
    assert losses == pytest.approx(made["preferring"][2:], abs=1e-5)
    assert scores(load(folders["llama"], adapter=tmp_path)) == pytest.approx(made["preferred"], abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_holds_what_it_holds_in_the_plain_branch(name, preferred, plain):
    for of in ("layers", "last"):
        torch.testing.assert_close(
            torch.tensor(preferred[name][of]), torch.tensor(plain[name][of]), rtol=1e-4, atol=1e-4
        )
    assert sum(preferred[name]["logprobs"], []) == pytest.approx(sum(plain[name]["logprobs"], []), abs=1e-3)


# --- GRPO -------------------------------------------------------------------------------------------------------------


def same_figures(now, then):
    for one, other in zip(now, then, strict=True):
        # Unsloth reckons no entropy, and means its KL over answers where TRL does over tokens.
        expected = {name: value for name, value in other.items() if name != "entropy"}
        assert {name: one[name] for name in expected} == pytest.approx(expected, abs=1e-4, rel=1e-3)
    assert len({row["reward"] for row in then}) > 1 and any(abs(row["loss"]) > 1e-3 for row in then)


def test_a_student_is_reinforced_as_the_plain_branch_does_it(folders, tuned, plain, monkeypatch, tmp_path):
    as_plain = seeded(lambda student, part, seed: rollouts.Sampled(student, part.group, seed))
    monkeypatch.setattr(grpo, "_rollout", as_plain)
    loaded = load_tuned("llama", folders, tuned)
    same_figures(reinforce(loaded, GROUPS, tmp_path), plain["paper"]["figures"])
    assert scores(loaded) == pytest.approx(plain["paper"]["scores"], abs=1e-3)


@pytest.mark.parametrize("bits", [4, 32])
def test_a_student_that_the_trainer_asks_itself_is_reinforced(bits, folders, tuned, tmp_path):
    loaded = load(folders["qwen2"], bits, adapter=tuned["qwen2"]["adapter"], training=True)
    scored, figures = scores(loaded), reinforce(loaded, GROUPS, tmp_path)
    assert len(figures) == 3 and all(math.isfinite(row["loss"]) and row["kl"] < 0.5 for row in figures)
    assert figures[0]["kl"] == pytest.approx(0, abs=1e-3)  # the reference is the adapter as it came in
    assert scores(loaded) != pytest.approx(scored, abs=1e-3) and list(loaded.model.peft_config) == ["default"]
    learned = [values for values in loaded.model.parameters() if values.requires_grad]
    assert learned and all(values.dtype == torch.float32 for values in learned)


# --- what CUDA alone changes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_the_trainer_for_cuda_learns_the_same(name, plain, cuda):
    assert cuda["trainers"] == ["UnslothSFTTrainer", "UnslothDPOTrainer", "UnslothGRPOTrainer"]
    assert cuda[name]["losses"] == pytest.approx(plain[name]["losses"], abs=1e-3)


def test_the_config_for_cuda_keeps_what_we_set(cuda):
    # Unsloth checkpoints in its own way, which works with this one alone.
    own = {"gradient_checkpointing_kwargs": [{"use_reentrant": False}, {"use_reentrant": True}]}
    scaled = {**own, "scale_rewards": ["none", "group"]}  # as grpo.extra wants it, which Unsloth would set back
    assert cuda["changed"] == {"sft": own, "cpl": own, "grpo": own, "grpo stable": own, "grpo scaled": scaled}


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_the_trainer_for_cuda_prefers_the_same(name, plain, cuda):
    assert cuda[name]["fused"] > 0  # by its own kernel, from hidden states
    for what in ("references", "preferring", "preferred"):
        assert cuda[name][what] == pytest.approx(plain[name][what], abs=1e-3)
    assert cuda[name]["gone on"] == pytest.approx(plain[name]["preferring"][2:], abs=1e-3)


@pytest.mark.parametrize("way", REINFORCED)
def test_the_trainer_for_cuda_reinforces_the_same(way, plain, cuda):
    same_figures(cuda[way]["figures"], plain[way]["figures"])
    assert cuda[way]["scores"] == pytest.approx(plain[way]["scores"], abs=1e-3)


def test_nothing_is_left_where_the_user_works(cuda):
    assert cuda["left behind"] == []


# --- the other processes ----------------------------------------------------------------------------------------------


def as_if_on_cuda():
    """Unsloth as it is with a card, whose kernels nothing here calls; what it does to a config that we make."""
    os.environ |= {"UNSLOTH_ALLOW_CPU": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "TORCHDYNAMO_DISABLE": "1"}
    # Several texts in a row, which a plain model's attention does not keep apart.
    os.environ |= {"UNSLOTH_GRPO_SEQ_PACKING": "0", "UNSLOTH_GRPO_PREFIX_GROUPER": "0"}
    unsloth()
    from unsloth.models import _utils, rl
    from unsloth.trainer import _patch_trl_trainer

    os.environ["UNSLOTH_ALLOW_CPU"] = "0"  # with it TRL is left alone
    for trainer in ("sft_trainer", "dpo_trainer", "grpo_trainer"):
        rl._patch_trl_rl_trainers(trainer)
    _patch_trl_trainer()
    from transformers import Trainer

    _utils.patch_gradient_accumulation_fix(Trainer)
    return changed_settings()


def changed_settings():
    """Of every training, what Unsloth does not leave as we set it."""
    from copy import deepcopy

    from plantune_lite.train import trl_args

    given, config = {}, trl_args.config

    def noted(kind, settings, *rest):
        given.clear()
        given.update(deepcopy(settings))
        return config(kind, settings, *rest)

    trl_args.config = noted
    model, out = torch.nn.Linear(1, 1), Path("x") / "out"
    model.dtype = torch.float32
    made = {
        "sft": lambda: sft._settings(model, PART, out, training(0), 4, True),
        "cpl": lambda: preference.config(model, CPL(), out, training(0), 4, preference.Batches(2, 2, 2)),
        "grpo": lambda: grpo_config(model, GROUPS, out, training(0), 4),
        "grpo stable": lambda: grpo_config(model, REINFORCED["stable"], out, training(0), 4),
        "grpo scaled": lambda: grpo_config(model, SCALED, out, training(0), 4),
    }
    changed = {}
    for name, make in made.items():
        now = vars(make())
        now = {setting: getattr(now.get(setting), "value", now.get(setting, "gone")) for setting in given}
        changed[name] = {setting: [was, now[setting]] for setting, was in given.items() if now[setting] != was}
    trl_args.config = config
    return changed


def as_it_loads(loaded):
    """What Unsloth's own loader leaves on a model: the modes it calls, the type that was asked for, hidden states."""
    from unsloth.models import rl

    loaded.model.for_training = loaded.model.for_inference = lambda **how: None
    loaded.model._unsloth_user_float32 = True
    rl._install_grpo_hidden_states_forward_wrapper(loaded.model)
    return loaded


def main(kind, asked, work):
    made = {"changed": as_if_on_cuda()} if kind == "cuda" else {}
    grpo._rollout = seeded(grpo._rollout)
    ready = as_it_loads if kind == "cuda" else lambda loaded: loaded
    for name, (folder, adapter) in json.loads(asked).items():

        def tuned(folder=folder, adapter=Path(adapter)):
            return ready(load(folder, backend="plain", adapter=adapter, training=True))

        made[name] = {"losses": learn(ready(load(folder, backend="plain", training=True)), work / name)}
        again = tuned()
        made[name] |= {"answers": answers(again), "scores": scores(again)} | held(again, work / f"{name}.residuals")
        built = begun(again, work)
        made[name] |= {"references": references(built), "fused": getattr(built, "_unsloth_dpo_chunked_calls", 0)}
        made[name] |= {"preferring": prefer(again, work / f"{name}.apo"), "preferred": scores(again)}
        if kind == "cuda":
            made[name] |= {"gone on": gone_on(tuned, work / f"{name}.cut")}
        for way, part in REINFORCED.items() if name == "llama" else ():
            again = tuned()
            made[way] = {"figures": reinforce(again, part, work / way), "scores": scores(again)}
    from trl import DPOTrainer, GRPOTrainer, SFTTrainer

    made["trainers"] = [one.__name__ for one in (SFTTrainer, DPOTrainer, GRPOTrainer)]
    (work / "made.json").write_text(json.dumps(made))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
