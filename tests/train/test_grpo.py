import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from grpo_child import asked, load, low_ids, make_base, many_low_ids, start_of
from safetensors.torch import load_file
from small_disk import small_disk
from tiny import FAMILIES

from plantune_lite.files import read_jsonl
from plantune_lite.pipeline import child
from plantune_lite.recipe.schema import GRPO
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.train import callbacks, grpo, prompt_selection, reward_log, trl_args
from plantune_lite.train.callbacks import TrainingError
from plantune_lite.train.data import LessonError
from plantune_lite.train.reward_log import Rewarded, Signs
from plantune_lite.train.rollouts import Sampled
from plantune_lite.types import MissingError, RecipeError, Reply

SUPPORT = Path(__file__).parents[1] / "support"
SMALL = {"steps": 3, "group": 4, "prompts_per_step": 2, "max_completion": 16, "save_steps": 50}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def start(base, tmp_path_factory):
    """An adapter that has learned to say short things and end."""
    return start_of(base, tmp_path_factory.mktemp("start") / "sft", ["Add.", "\\boxed{7}", "Add them. \\boxed{36}"])


def ended(prompts, completions, *, completion_ids, **_):
    """1 for an answer that ends its turn."""
    return [float(ids[-1] == 2) for ids in completion_ids]


def train(learns, part, out, rewards=(("low_ids", low_ids, 1.0),), rows=None, **settings):
    """What a reinforcement leaves: its summary, its figures by step, what it said."""
    figures, said, passed = {}, [], settings.pop("passed", many_low_ids)
    show = settings.pop("show", lambda line, last: None)
    metric = lambda step, **named: figures.setdefault(step, {}).update(named)  # noqa: E731
    training = Training(reporter=Reporter(say=said.append, show=show, metric=metric), **settings)
    weighed = rewards if callable(rewards) else lambda most: rewards
    summary = grpo.train(learns, rows or asked(8), grpo.Rewards(weighed, passed), part, out, training)
    return SimpleNamespace(summary=summary, figures=figures, said=said, student=learns, out=out)


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def of(done, name):
    return [named[name] for _, named in sorted(done.figures.items())]


# --- it learns --------------------------------------------------------------------------------------------------------


ALL_AT_ONCE = {"per_device_train_batch_size": 32}


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    """A random model, rewarded for ending its turn within 16 tokens."""
    part = GRPO(steps=18, group=16, prompts_per_step=2, learning_rate=3e-2, max_completion=16, extra=ALL_AT_ONCE)
    out = tmp_path_factory.mktemp("learned") / "grpo"
    return train(load(base), part, out, [("ended", ended, 1.0)], asked(16), passed=ended)


def test_a_random_model_learns_what_is_rewarded(learned):
    rewards = of(learned, "reward")
    assert rewards[0] < 0.2 and sum(rewards[-3:]) / 3 > 0.7
    assert learned.summary["line"].startswith("18 steps on ")


def test_the_figures_of_every_step_are_kept(learned):
    assert sorted(learned.figures) == list(range(1, 19))
    for named in learned.figures.values():
        assert {"reward", "ended", "spread", "clipped", "entropy", "length", "loss"} <= named.keys()
        assert named["clipped"] == pytest.approx(1 - named["ended"])


def test_some_completions_of_every_step_are_kept_with_their_rewards(learned):
    samples = list(read_jsonl(learned.out / "samples.jsonl"))
    assert [row["step"] for row in samples] == [step for step in range(1, 19) for _ in range(reward_log.KEPT)]
    assert all(row["reward"] == row["rewards"]["ended"] for row in samples)
    assert {row["reward"] for row in samples} == {0.0, 1.0}
    assert len({row["problem_id"] for row in samples[:4]}) == 1


def test_only_prompts_that_are_solved_at_times_are_trained_on(learned):
    rates = list(read_jsonl(learned.out / "pass_rates.jsonl"))
    kept = {row["problem_id"] for row in rates if 0 < row["passed"] < 16}
    assert 0 < len(kept) < len(rates) == 16 and f" on {len(kept)} prompts" in learned.summary["line"]
    assert {row["problem_id"] for row in read_jsonl(learned.out / "samples.jsonl")} <= kept
    assert learned.said[-1].startswith(f"{len(kept)} prompts are solved sometimes and trained on: of 16 prompts")


def test_an_adapter_with_its_tokenizer_is_left_and_no_reference(learned):
    left = {file.name for file in learned.out.iterdir()}
    assert left == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
        "samples.jsonl",
        "pass_rates.jsonl",
    }


# --- by hand ----------------------------------------------------------------------------------------------------------


def logps(model, prompt, completion):
    """The log-probability of each token of a completion."""
    said = model(torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
    return said[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])[:, 0]


def by_hand(learns, seen, part, rates):
    """Plain gradient descent on the losses of these steps, written down anew: losses, KLs, and the adapter."""
    weights = [one for one in learns.model.parameters() if one.requires_grad]
    paper, first = part.settings == "paper", [one.detach().clone() for one in weights]
    losses, kls = [], []
    for (asked_for, said, worth), rate in zip(seen, rates, strict=True):
        prompt = [learns.encode_chat(tuple(one)) for one in asked_for]
        groups = torch.tensor(worth).view(-1, part.group)
        advantages = groups - groups.mean(1, keepdim=True)
        if paper:
            advantages = advantages / (groups.std(1, keepdim=True) + 1e-4)
        now = [one.detach().clone() for one in weights]
        for one, was in zip(weights, first, strict=True):
            one.data = was
        with torch.no_grad():
            before = [logps(learns.model, *pair) for pair in zip(prompt, said, strict=True)]
        for one, was in zip(weights, now, strict=True):
            one.data = was
        total, divergence, tokens = 0.0, 0.0, 0
        for place, advantage in enumerate(advantages.flatten()):
            if not paper and said[place][-1] != 2:
                continue  # cut off
            log = logps(learns.model, prompt[place], said[place])
            apart = before[place] - log
            kl = apart.exp() - apart - 1
            total = total - (advantage * (log - log.detach()).exp()).sum() + (0.04 * kl.sum() if paper else 0)
            divergence, tokens = divergence + kl.sum().item(), tokens + len(said[place])
        loss = total / (tokens if paper else len(said) * part.max_completion)
        for one, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            one.data = one.data - rate * slope
        losses.append(loss.item())
        kls.append(divergence / tokens)
    return losses, kls, weights


def seen_by(reward, seen):
    """The reward, with a note of every batch."""

    def noted(prompts, completions, **columns):
        worth = reward(prompts, completions, **columns)
        seen.append((prompts, columns["completion_ids"], worth))
        return worth

    return noted


def assert_as_by_hand(model, folder, part, out, **settings):
    seen = []
    rewards = [("low_ids", seen_by(settings.pop("reward", low_ids), seen), 1.0)]
    done = train(load(model, folder), part, out, rewards, **settings)
    schedule = callbacks.Schedule(part.steps, warmup=round(grpo.WARMUP * part.steps))
    rates = [part.learning_rate * schedule(step) for step in range(part.steps)]
    untrained = load(model, folder)
    before = [one.detach().clone() for one in untrained.model.parameters() if one.requires_grad]
    losses, kls, weights = by_hand(untrained, seen, part, rates)
    assert of(done, "loss") == pytest.approx(losses, abs=1e-5)
    assert of(done, "reward") == pytest.approx([sum(worth) / len(worth) for _, _, worth in seen])
    if part.settings == "paper":
        assert of(done, "kl") == pytest.approx(kls, abs=1e-5)
    moved = 0.0
    for ours, theirs, was in zip(
        [one for one in done.student.model.parameters() if one.requires_grad], weights, before, strict=True
    ):
        torch.testing.assert_close(ours.data, theirs.data, atol=2e-5, rtol=0)
        moved = max(moved, (ours.data - was).abs().max().item())
    assert moved > 2e-3
    return done


PLAIN = {"optim": "sgd", "max_grad_norm": 0.0, "per_device_train_batch_size": 8}


def test_the_settings_of_pta_grpo_are_the_papers(base, tmp_path):
    part = GRPO(settings="pta", reward="guided", group=12)
    made = trl_args.grpo_config(load(base).model, part, tmp_path, Training(), steps=3)
    assert (made.loss_type, made.scale_rewards, made.num_generations) == ("grpo", "group", 12)
    assert made.beta > 0 and made.epsilon == made.epsilon_high == 0.2 and not made.mask_truncated_completions
    assert (made.weight_decay, made.temperature, made.top_p) == (0.01, 1.0, 1.0)


@pytest.mark.parametrize("settings", ["paper", "stable"])
def test_three_steps_are_as_by_hand(base, start, tmp_path, settings):
    part = GRPO(settings=settings, learning_rate=0.3, extra=PLAIN, **SMALL)
    done = assert_as_by_hand(base, start, part, tmp_path / "grpo")
    assert any(0 < clipped < 1 for clipped in of(done, "clipped"))  # some were cut off, some not


def test_kl_to_the_reference_is_zero_at_step_0_adapter_included(base, start, tmp_path):
    part = GRPO(settings="paper", learning_rate=1e-2, **SMALL)
    done = train(load(base, start), part, tmp_path / "grpo")
    assert of(done, "kl")[0] == pytest.approx(0, abs=1e-6) and of(done, "kl")[-1] > 1e-4
    assert not (tmp_path / "grpo/ref").exists()
    ids = torch.tensor([done.student.encode_chat(tuple(asked(1)[0]["prompt"]))])
    with torch.no_grad(), load(base, start).untuned() as bare:  # which is not what it began with
        assert (bare.model(ids).logits - load(base, start).model(ids).logits).abs().max() > 0.5


def test_a_reference_is_kept_where_the_trainer_keeps_none(base, start):
    learns = load(base, start)
    grpo._keep_reference(learns.model)  # as under Unsloth, which would take the bare base
    trained = {name for name, one in learns.model.named_parameters() if one.requires_grad}
    assert trained and all(".default." in name for name in trained)
    ids = torch.tensor([learns.encode_chat(tuple(asked(1)[0]["prompt"]))])
    with torch.no_grad():
        before = learns.model(ids).logits
        for one in learns.model.parameters():
            if one.requires_grad:
                one.data += 1.0
        learns.model.set_adapter("ref")
        torch.testing.assert_close(learns.model(ids).logits, before, atol=0, rtol=0)


def test_a_reference_that_is_another_model_is_noticed():
    state = SimpleNamespace(log_history=[{"spread": 1.0}], global_step=1)
    with pytest.raises(TrainingError, match=r"the reference is not the model this training began with \(KL 0.5 at"):
        Signs(print, 64).on_log(None, state, None, {"kl": 0.5})


def test_small_batches_and_recomputed_activations_give_the_same_steps(base, start, tmp_path):
    part = {"learning_rate": 1.0, **SMALL, "steps": 2}
    large = train(load(base, start), GRPO(extra=PLAIN, **part), tmp_path / "large")
    small = {**PLAIN, "per_device_train_batch_size": 2}
    again = train(load(base, start), GRPO(extra=small, **part), tmp_path / "small", checkpointing=True)
    assert of(large, "loss") == pytest.approx(of(again, "loss"), abs=1e-5)
    for name, values in adapter(tmp_path / "large").items():
        torch.testing.assert_close(values, adapter(tmp_path / "small")[name], atol=1e-5, rtol=0)


def test_three_steps_sampled_by_trl_are_as_by_hand(base, start, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo, "_rollout", lambda *_: None)  # as under Unsloth
    part = GRPO(settings="paper", learning_rate=0.3, extra=PLAIN, **SMALL)
    assert_as_by_hand(base, start, part, tmp_path / "grpo")


def test_an_adapter_over_4_bit_weights_is_trained_and_kept_near_in_float32(base, start, tmp_path):
    learns = load(base, start, bits=4)
    before = {name: one.clone() for name, one in learns.model.named_parameters() if one.requires_grad}
    part = GRPO(settings="paper", **{**SMALL, "learning_rate": 0.0, "steps": 2})
    done = train(learns, part, tmp_path / "grpo")
    assert of(done, "kl") == pytest.approx([0, 0], abs=1e-6)
    after = {name: one for name, one in learns.model.named_parameters() if one.requires_grad}
    assert after.keys() == before.keys() and all(torch.equal(one, before[name]) for name, one in after.items())
    assert {one.dtype for one in adapter(tmp_path / "grpo").values()} == {torch.float32}


@pytest.mark.slow
def test_three_steps_of_the_embedded_student_are_as_by_hand(tmp_path):
    part = GRPO(settings="paper", learning_rate=0.05, extra=PLAIN, **{**SMALL, "max_completion": 24})

    def digits(prompts, completions, **_):
        texts = [completion[0]["content"] for completion in completions]
        return [sum(one.isdigit() for one in text) / max(1, len(text)) for text in texts]

    def some(prompts, completions, **columns):
        return [float(share > 0.1) for share in digits(prompts, completions)]

    done = assert_as_by_hand("smollm2_135m", None, part, tmp_path / "grpo", reward=digits, passed=some)
    assert of(done, "kl")[0] == pytest.approx(0, abs=1e-6)


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_asked_with_one_bos_where_it_has_one_and_ends_its_turns(tmp_path, family):
    learns = load(make_base(tmp_path / "base", family))
    seen = []
    train(learns, GRPO(**{**SMALL, "steps": 1}), tmp_path / "grpo", [("low_ids", seen_by(low_ids, seen), 1.0)])
    rows, bos = asked(8), learns.tokenizer.bos_token_id
    kept, _ = prompt_selection.askable(learns, rows, 256, print)  # which compares with what TRL would ask
    assert len(kept) == 8
    for row in rows:
        ids = learns.encode_chat(tuple(row["prompt"]))
        assert ids.count(bos) == (family == "gemma3_text") if bos is not None else ids[0] != bos
    end = learns.tokenizer.convert_tokens_to_ids(learns.preset.turn_end)
    [(_, completions, _)] = seen
    assert all(end not in ids[:-1] and (ids[-1] == end or len(ids) == 16) for ids in completions)


def rollout(learns, step, group=4):
    trainer = SimpleNamespace(
        num_generations=group, temperature=1.0, max_completion_length=24, state=SimpleNamespace(global_step=step)
    )
    prompts = [row["prompt"] for row in asked(3) for _ in range(group)]
    return Sampled(learns, group, seed=7)(prompts, trainer)


def test_what_is_drawn_follows_from_the_seed_and_the_step(base, start):
    learns = load(base, start)
    ends = list(learns.model.generation_config.eos_token_id)
    found = rollout(learns, 3)
    torch.rand(5)  # what else has thrown dice does not matter
    assert rollout(load(base, start), 3) == found != rollout(learns, 4)
    assert len({tuple(ids) for ids in found["completion_ids"]}) > 8
    assert learns.model.generation_config.eos_token_id == ends


def test_an_answer_is_ended_by_the_end_of_a_turn_alone(base, start):
    learns = load(base, start)
    learns.model.generation_config.eos_token_id = list(range(320))  # all of them, were they asked
    found = rollout(learns, 0)["completion_ids"]
    assert max(map(len, found)) > 1 and all(ids[-1] == 2 or len(ids) == 24 for ids in found)


# --- several rewards --------------------------------------------------------------------------------------------------


def test_weights_count_and_every_part_is_shown(base, start, tmp_path):
    lines = []
    rewards = [("low_ids", low_ids, 1.0), ("ended", ended, 0.5)]
    part = GRPO(**SMALL)
    done = train(load(base, start), part, tmp_path / "grpo", rewards, show=lambda line, last: lines.append(line))
    for named in done.figures.values():
        assert named["reward"] == pytest.approx(named["low_ids"] + 0.5 * named["ended"])
    assert "low ids" in lines[-1] and "ended" in lines[-1] and "loss" not in lines[-1]
    assert " (low_ids 0." in done.summary["line"]


def test_normalise_then_sum_is_one_extra_setting(base, start, tmp_path):
    extra = {"multi_objective_aggregation": "normalize_then_sum", "beta": 0.01, "loss_type": "dapo"}
    rewards = [("low_ids", low_ids, 1.0), ("ended", ended, 0.5)]
    done = train(load(base, start), GRPO(extra=extra, **SMALL), tmp_path / "grpo", rewards)
    assert done.summary["steps"] == 3 and "kl" in done.figures[1]


def test_rewards_may_be_made_once_the_length_is_known(base, start, tmp_path):
    known = []
    train(load(base, start), GRPO(**SMALL), tmp_path / "grpo", lambda most: known.append(most) or [("a", low_ids, 1.0)])
    assert known == [16]


@pytest.mark.parametrize("names", [("a", "a"), ("loss",), ()])
def test_rewards_need_names_of_their_own(base, tmp_path, names):
    with pytest.raises(RecipeError, match="each needs a unique name"):
        train(load(base), GRPO(**SMALL), tmp_path / "grpo", [(name, low_ids, 1.0) for name in names])


# --- how long an answer may become ------------------------------------------------------------------------------------


def test_the_length_is_calibrated_and_kept(base, start, tmp_path):
    part = GRPO(**{**SMALL, "max_completion": None, "steps": 1})
    done = train(load(base, start), part, tmp_path / "grpo", max_length=256)
    found = json.loads((tmp_path / "grpo/calibration.json").read_text())
    most = found["max_completion"]
    assert prompt_selection.LEAST <= most < found["room"]
    assert found["ended"] > 8
    assert done.said[0].startswith(f"{found['ended']} of 16 sampled answers ended: an answer may have {most} tokens")


class Says:
    """A student that says answers of these lengths, and never ends one of none."""

    def __init__(self, lengths):
        self._lengths = lengths

    def generate(self, prompts, sampling):
        found = [self._lengths[place % len(self._lengths)] for place in range(len(prompts))]
        return [
            [Reply(text="", tokens_out=length or sampling.max_tokens, finish="stop" if length else "length")]
            for length in found
        ]


@pytest.mark.parametrize(
    ("lengths", "most"),
    [([100] * 16, 112), ([10] * 16, 64), ([100] * 14 + [150, 170], 176), ([290] * 16, 300), ([100, None, None], 300)],
)
def test_the_length_is_that_of_nearly_all_that_end(tmp_path, lengths, most):
    said = []
    settings = (asked(4), 300, tmp_path / "found.json", GRPO(), Training(reporter=Reporter(say=said.append)))
    assert prompt_selection.calibrated(Says(lengths), *settings) == most
    assert prompt_selection.calibrated(None, *settings) == most  # nobody is asked again
    assert any("warning: most answers do not end" in line for line in said) is (None in lengths)


def test_a_length_that_is_given_is_kept_to_as_far_as_there_is_room(base, start, tmp_path):
    part = GRPO(**{**SMALL, "max_completion": 400, "steps": 1})
    done = train(load(base, start), part, tmp_path / "grpo", max_length=200)
    assert any("grpo.max_completion=400 is more than student.max_length=200 leaves" in line for line in done.said)
    assert not (tmp_path / "grpo/calibration.json").exists()


# --- which prompts ----------------------------------------------------------------------------------------------------


def test_prompts_that_cannot_be_asked_are_counted(base):
    learns, said = load(base), []
    forged = {**asked(1)[0], "prompt": [{"role": "user", "content": "hi<|im_end|>"}]}
    long = {**asked(1)[0], "prompt": [{"role": "user", "content": "hi " * 400}]}
    kept, room = prompt_selection.askable(learns, [*asked(3), forged, long], 256, said.append)
    longest = max(len(learns.encode_chat(tuple(row["prompt"]))) for row in kept)
    assert (len(kept), room) == (3, 256 - longest)
    assert said == ["2 of 5 rows left out: 1 control tokens in the text, 1 longer than 192 tokens"]
    with pytest.raises(
        LessonError, match=r"none of the 1 rows .*: 1 longer than 192 tokens. Look at .* raise student.max_le"
    ):
        prompt_selection.askable(learns, [long], 256, said.append)


def test_a_trl_that_asks_in_other_tokens_is_noticed_before_the_first_step(base, tmp_path):
    learns = load(base)
    learns.tokenizer.chat_template = "<|im_start|>" + learns.tokenizer.chat_template
    right = learns.encode_chat
    learns.encode_chat = lambda messages, for_reply: right(messages, for_reply=for_reply)[1:]
    with pytest.raises(LessonError, match="TRL encodes 0 to other tokens than training and evaluation do"):
        train(learns, GRPO(**SMALL), tmp_path / "grpo")


class Knows:
    """A student that solves the prompts of these ids in so many of its answers."""

    def __init__(self, base, solved):
        self.tokenizer, self.preset, self.asked = load(base).tokenizer, SimpleNamespace(turn_end="<|im_end|>"), []
        self._solved = solved

    def generate(self, prompts, sampling):
        self.asked.append(len(prompts))
        ids = [prompt[-1]["content"].split()[3] for prompt in prompts]
        solved = [self._solved.get(id, 0) for id in ids]
        return [[Reply(text="yes" if number < count else "no") for number in range(sampling.n)] for count in solved]


def yes(prompts, completions, *, problem_id, **_):
    return [None if completion[0]["content"] == "no" else 1.0 for completion in completions]


def sift(knows, rows, file, steps=25, hours=None):
    said = []
    part = GRPO(group=4, steps=steps, prompts_per_step=4, max_completion=16)
    training = Training(hours=hours, reporter=Reporter(say=said.append))
    kept = prompt_selection.solved_at_times(knows, rows, yes, file, part, training)
    return {row["problem_id"] for row in kept}, said


def test_what_is_solved_always_or_never_is_left_out_and_nobody_is_asked_twice(base, tmp_path):
    knows = Knows(base, {"1": 4, "2": 1, "3": 3})
    kept, said = sift(knows, asked(12), tmp_path / "rates.jsonl")
    assert (kept, knows.asked) == ({"2", "3"}, [8, 4])
    assert said == [
        "2 prompts are solved sometimes and trained on: of 12 prompts the student solves 9 never and 1 always"
    ]
    lines = (tmp_path / "rates.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rates.jsonl").write_text("".join(lines[:8]) + lines[8][:9])  # killed in the second look
    assert sift(knows, asked(12), tmp_path / "rates.jsonl") == (kept, said) and knows.asked == [8, 4, 4]


def test_no_more_is_looked_at_than_a_share_of_the_run(base, tmp_path):
    knows = Knows(base, {str(number): 2 for number in range(100)})
    sift(knows, asked(100), tmp_path / "a.jsonl", steps=50)
    assert sum(knows.asked) == prompt_selection.SHARE * 200
    knows.asked.clear()
    some, _ = sift(knows, asked(100), tmp_path / "b.jsonl", hours=0.0)
    assert knows.asked == [8]  # one look there is always
    assert sift(knows, asked(100), tmp_path / "b.jsonl", hours=0.0)[0] == some
    assert knows.asked == [8]  # and no other where there was one


def test_prompts_that_nobody_looked_at_keep_those_that_were_from_coming_again(base, tmp_path):
    knows = Knows(base, {str(number): number % 2 for number in range(100)})  # half of them at times, half never
    kept, said = sift(knows, asked(100), tmp_path / "a.jsonl", steps=20)  # 80 draws, 20 looked at
    looked = {row["problem_id"] for row in read_jsonl(tmp_path / "a.jsonl")}
    assert len(kept) == 80 and all(int(id) % 2 for id in kept & looked)
    assert said[1] == f"{80 - len(kept & looked)} unsampled prompts are added, so that none repeats more than necessary"


def test_nothing_that_is_solved_at_times_is_an_error_that_says_which_way(base, tmp_path):
    with pytest.raises(
        LessonError, match=r"of 12 prompts the student solves 12 never and 0 always. Where it solves none"
    ):
        sift(Knows(base, {}), asked(12), tmp_path / "a.jsonl")
    with pytest.raises(LessonError, match=r"solves 0 never and 12 always. .* where all, use harder problems"):
        sift(Knows(base, {str(number): 4 for number in range(12)}), asked(12), tmp_path / "b.jsonl")


def test_every_prompt_comes_once_before_any_comes_again():
    placed = grpo.order(5, 12, seed=0)
    assert sorted(placed[:5]) == sorted(placed[5:10]) == list(range(5)) and len(placed) == 12
    assert placed[:5] != placed[5:10] and grpo.order(5, 12, seed=0) == placed != grpo.order(5, 12, seed=1)


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"extra": {"bete": 0.1}}, "grpo.extra has 'bete', .* did you mean 'beta'"),
        ({"extra": {"num_generations": 5}}, "grpo.extra has 'num_generations', which the recipe's own fields decide"),
        ({"extra": {"per_device_train_batch_size": 3}}, "=3, but a step has .* = 8 completions: set a number that"),
        ({"extra": {"loss_type": 5, "optim": "sgdd"}}, "which TRL refuses"),
    ],
)
def test_settings_that_cannot_be_are_a_sentence(base, start, tmp_path, part, sentence):
    with pytest.raises(RecipeError, match=sentence):
        train(load(base, start), GRPO(**{**SMALL, **part}), tmp_path / "grpo")
    assert not (tmp_path / "grpo").exists()  # before anything was sampled


def test_vllm_samples_where_the_recipe_sets_it_and_it_is_installed(base, tmp_path, monkeypatch):
    part, student = GRPO(**{**SMALL, "extra": {"use_vllm": True}}), load(base)
    settings = trl_args.grpo_config(student.model, part, tmp_path, Training(max_length=200), steps=3)
    assert (settings.use_vllm, settings.vllm_mode, settings.vllm_enable_sleep_mode) == (True, "colocate", True)
    assert settings.vllm_max_model_length == 200 and settings.generation_kwargs == {}
    assert grpo._rollout(student, part, seed=0) is None
    assert isinstance(grpo._rollout(student, GRPO(**SMALL), seed=0), Sampled)
    monkeypatch.setattr(trl_args, "find_spec", lambda name: None if name == "vllm" else name)
    with pytest.raises(MissingError, match=r"grpo.extra.use_vllm needs vLLM: pip install 'plantune-lite\[vllm\]'"):
        trl_args.refuse_extra(part, "grpo")


def test_memory_that_runs_out_gives_advice(base, start, tmp_path):
    learns = load(base, start)
    layer = learns.model.get_base_model().model.layers[1]
    forward = layer.forward

    def full(*some, **named):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(*some, **named)

    layer.forward = full
    with pytest.raises(TrainingError) as caught:
        train(learns, GRPO(**{**SMALL, "max_completion": 96}), tmp_path / "grpo")
    assert str(caught.value) == (
        "memory ran out at step 0. To use less: set grpo.extra.per_device_train_batch_size=1, or a smaller "
        "grpo.max_completion or grpo.prompts_per_step, together with --again grpo; or student.checkpointing=true with "
        "--again on the first training stage. plantune estimate says what fits."
    )


def test_a_loss_that_is_no_number_ends_the_training(base, start, tmp_path):
    def spoil(prompts, completions, **columns):
        for one in learns.model.parameters():
            if one.requires_grad and columns["trainer_state"].global_step == 1:
                one.data.fill_(float("nan"))
        return low_ids(prompts, completions, **columns)

    learns = load(base, start)
    with pytest.raises(TrainingError, match=r"is nan at step 2: .* Try a lower grpo.learning_rate"):
        train(learns, GRPO(settings="paper", **SMALL), tmp_path / "grpo", [("spoil", spoil, 1.0)])


def test_time_that_is_up_ends_the_training_with_an_adapter(base, start, tmp_path):
    done = train(load(base, start), GRPO(**{**SMALL, "steps": 40}), tmp_path / "grpo", hours=0.0)
    assert (done.summary["steps"], done.summary["planned_steps"]) == (2, 2)
    assert (tmp_path / "grpo/adapter_model.safetensors").is_file()


# --- when to stop -----------------------------------------------------------------------------------------------------


def signs(*steps):
    """What comes of steps with these shares of clipped completions and of groups with spread."""
    said, control = [], SimpleNamespace(should_training_stop=False, should_save=False)
    watcher = Signs(said.append, 64)
    state = SimpleNamespace(log_history=[], global_step=0)
    for clipped, spread in steps:
        state.global_step += 1
        state.log_history.append({"completions/clipped_ratio": clipped, "spread": spread, "reward": 2.0, "kl": 0.0})
        watcher.on_log(None, state, control, state.log_history[-1])
        state.log_history.append({"eval_loss": 1.0})
    return SimpleNamespace(said=said, stopped=watcher.stopped, control=control)


def test_plans_are_looked_for_in_the_first_steps_alone_and_only_where_they_are_rewarded():
    def after(planned, rewards):
        watcher = Signs(print, 64, rewards=rewards)
        rows = [{"completions/clipped_ratio": 0.0, "spread": 1.0, "reward": 2.0, **one} for one in planned]
        for step in range(1, len(rows) + 1):
            state = SimpleNamespace(log_history=rows[:step], global_step=step)
            watcher.on_log(None, state, None, rows[step - 1])

    none = {"planned": 0.0}
    with pytest.raises(TrainingError, match="of the first 3 steps has a plan .* the reward guided needs"):
        after([none] * 3, ["guided"])
    after([{"planned": 0.1}, *[none] * 9], ["right_answer", "plan_similarity"])
    after([none] * 9, ["right_answer"])


def test_twenty_steps_of_cut_off_completions_stop_with_what_to_do():
    with pytest.raises(TrainingError, match=r"more than 50% .* cut off at 64 tokens .*\(to step 20\)"):
        signs(*[(0.6, 1.0)] * 20)
    with pytest.raises(TrainingError, match=r"Allow longer ones \(grpo.max_completion"):
        signs((0.1, 1.0), *[(1.0, 1.0)] * 20)
    assert signs(*([(0.9, 1.0)] * 19 + [(0.4, 1.0)]) * 3).stopped is None


def test_groups_that_never_had_spread_stop_with_what_to_do():
    with pytest.raises(TrainingError, match=r"nothing to prefer: each earned 2. Sample more"):
        signs(*[(0.0, 0.0)] * 20)


def test_groups_that_have_lost_their_spread_end_the_training_with_what_was_learned():
    done = signs(*[(0.0, 1.0)] * 5, *[(0.0, 0.0)] * 20)
    assert done.control.should_training_stop and done.control.should_save
    assert done.stopped.endswith("(to step 25): there is nothing left to learn from these prompts")
    assert signs(*([(0.0, 0.0)] * 19 + [(0.0, 0.5)]) * 3).stopped is None


def test_a_reinforcement_that_is_done_ends_early_with_its_adapter(base, start, tmp_path):
    def flat_from_step_4(prompts, completions, *, trainer_state, **columns):
        learning = trainer_state.global_step < 3
        return low_ids(prompts, completions, **columns) if learning else [1.0] * len(completions)

    part = GRPO(steps=60, group=2, prompts_per_step=1, max_completion=16)
    done = train(load(base, start), part, tmp_path / "grpo", [("flat", flat_from_step_4, 1.0)])
    assert done.summary["steps"] == 23 and "; stopped early: all answers of a group earned" in done.summary["line"]
    assert of(done, "spread") == [1.0] * 3 + [0.0] * 20
    assert (tmp_path / "grpo/adapter_model.safetensors").is_file()
    assert not list((tmp_path / "grpo").glob("checkpoint-*"))


def test_spread_is_that_of_the_weighted_sum_group_by_group(tmp_path):
    noted = {}
    one, other = (lambda values: lambda prompts, completions, **_: values)([1.0, 0.0, 1.0, None]), None
    other = lambda prompts, completions, **_: [0.0, 2.0, 0.0, 0.0]  # noqa: E731
    watched = Rewarded([("one", one, 1.0), ("other", other, 0.5)], 2, tmp_path / "samples.jsonl")
    columns = {
        "problem_id": ["a", "a", "b", "b"],
        "completion_ids": [[1], [1, 2], [1], [1]],
        "trainer_state": SimpleNamespace(global_step=6),
        "log_metric": lambda name, value: noted.update({name: value}),
    }
    texts = [[{"role": "assistant", "content": text}] for text in "wxyz"]
    assert [function([], texts, **columns) for function in watched.functions] == [one([], []), other([], [])]
    assert noted == {"spread": 0.5, "planned": 0.0}  # 1 + 0 and 0 + 1 are the same, 1 and nothing are not
    assert [function.__name__ for function in watched.functions] == ["one", "other"]
    [first, second] = read_jsonl(tmp_path / "samples.jsonl")
    assert first == {
        "step": 7,
        "problem_id": "a",
        "text": "w",
        "tokens": 1,
        "reward": 1.0,
        "rewards": {"one": 1.0, "other": 0.0},
    }
    Rewarded([("one", one, 1.0)], 2, tmp_path / "samples.jsonl", after_step=6)
    assert list(read_jsonl(tmp_path / "samples.jsonl")) == [] and second["step"] == 7


# --- killed and gone on with ------------------------------------------------------------------------------------------


def killed_and_whole(model, out, settings, kills):
    """What is left of an undisturbed reinforcement and of one killed at each of these points."""
    command = [sys.executable, str(SUPPORT / "grpo_child.py"), str(model), str(out), json.dumps(settings), *kills]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ends: {'9 ' * len(kills)}0" in done.stdout
    for name in ("whole", "killed"):
        figures = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        yield SimpleNamespace(
            rewards={row["step"]: row["reward"] for row in figures if "reward" in row},
            losses={row["step"]: row["loss"] for row in figures if "loss" in row},
            adapter=adapter(out / name / "grpo"),
            samples=list(read_jsonl(out / name / "grpo/samples.jsonl")),
            summary=json.loads((out / name / "summary.json").read_text()),
        )


def assert_the_same_end(whole, killed):
    assert whole.rewards == pytest.approx(killed.rewards, abs=1e-6)
    assert whole.losses == pytest.approx(killed.losses, abs=1e-5)
    for name, values in whole.adapter.items():
        torch.testing.assert_close(values, killed.adapter[name], atol=1e-5, rtol=0)
    assert (whole.samples, whole.summary) == (killed.samples, killed.summary)


KILLS = ["2", "checkpoint-2/trainer_state.json", "checkpoint-4/optimizer.pt", "6", "adapter_model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["answer", "guided", "trl"])
def test_a_reinforcement_killed_anywhere_ends_as_an_undisturbed_one(base, start, tmp_path, reward):
    part = {**SMALL, "steps": 6, "save_steps": 2, "learning_rate": 1e-2, "settings": "paper"}
    part |= {"max_completion": None, "reward": "guided" if reward == "guided" else "answer"}
    part |= {"plans": 2, "continuations": 2}
    settings = {"grpo": part, "by_trl": reward == "trl", "start": str(start), "student": {"lora_dropout": 0.2}}
    whole, killed = killed_and_whole(base, tmp_path, settings, ["pass_rates.jsonl", *KILLS])
    assert_the_same_end(whole, killed)
    assert sorted(whole.rewards) == list(range(1, 7)) and len(set(whole.rewards.values())) > 3


@pytest.mark.parametrize("kilobytes", [200, 420])  # full in the first checkpoint, in a later one
def test_a_disk_that_becomes_full_is_told_as_that_and_the_reinforcement_goes_on(base, start, tmp_path, kilobytes):
    part = GRPO(settings="paper", learning_rate=1e-2, **{**SMALL, "save_steps": 1})
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        if disk is None:
            pytest.skip("no disk can be mounted here")
        with pytest.raises((OSError, RuntimeError)) as error:
            train(load(base, start), part, disk / "grpo")
        assert any(words in str(error.value).lower() for words in child._DISK_FULL)
        subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
        train(load(base, start), part, disk / "grpo")
        train(load(base, start), part, tmp_path / "calm")
        for name, values in adapter(disk / "grpo").items():
            torch.testing.assert_close(values, adapter(tmp_path / "calm")[name], atol=1e-5, rtol=0)


def test_a_training_that_goes_on_starts_from_its_checkpoint(base, start, tmp_path):
    """The part of the above that is quick: killed between the last checkpoint and the adapter."""
    part = GRPO(settings="paper", learning_rate=1e-2, **SMALL)

    def killed(folder):
        raise KeyboardInterrupt

    learns = load(base, start)
    learns.save = killed
    with pytest.raises(KeyboardInterrupt):
        train(learns, part, tmp_path / "grpo")
    kept = adapter(tmp_path / "grpo/checkpoint-3")
    done = train(load(base, start), part, tmp_path / "grpo")
    assert "resumes from step 3 of 3" in done.said and done.summary["steps"] == 3
    for name, values in adapter(tmp_path / "grpo").items():
        torch.testing.assert_close(values, kept[name], atol=0, rtol=0)
    assert any((values - adapter(start)[name]).abs().max() > 1e-3 for name, values in kept.items())
