from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from sft_child import learner, make_base

from plantune_lite import plan
from plantune_lite.lab.cpl import preference, step_apo
from plantune_lite.lab.cpl.pairs import StepPair
from plantune_lite.lab.cpl.preference import Batches
from plantune_lite.recipe.schema import CPL
from plantune_lite.runs.job import Reporter, Training
from plantune_lite.types import RecipeError

ASK = {"hens": plan.chat("How many legs have 3 hens?"), "cows": plan.chat("How many legs have 2 cows, and 1 hen?")}


def pair(better, worse, gap=1.5, problem="hens", prompt="<plan>\n"):
    q = {"q_better": gap / 3, "q_worse": -2 * gap / 3}
    return StepPair(problem_id=problem, prompt=prompt, better=better, worse=worse, **q)


PAIRS = [
    pair("1. Multiply the hens by two.\n", "1. Guess.\n"),
    pair("2. Add.\n", "2. Take the hens from the cows.\n", 0.4, "cows", "<plan>\n1. Count the legs of each.\n"),
    pair("\\boxed{6}", "That makes \\boxed{9}", 0.6, "hens", "<plan>\n1. Multiply.\n</plan>\n"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"), "llama")


def student_of(base):
    """A student whose adapter is not nothing: the reference is what it says, not what its base does."""
    student = learner(base)
    with torch.no_grad():
        for number, one in enumerate(one for one in student.model.parameters() if one.requires_grad):
            one += 0.1 * torch.randn(one.shape, generator=torch.Generator().manual_seed(number))
    return student


def logp(student, row, name):
    ids = torch.tensor([row["prompt_tokens"] + row[name]])
    logps = student.model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])
    return logps[-len(row[name]) :].sum()


def log_ratio(student, row):
    return logp(student, row, "better_tokens") - logp(student, row, "worse_tokens")


def settings(student, part, out):
    return preference.config(student.model, part, out, Training(max_length=512), 2, Batches(2, 1, 50))


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.3), (0.0, 0.1), (2.5, 1.0)])
def test_the_loss_and_its_gradient_are_the_formulas_to_the_last_digits(base, tmp_path, double, alpha, beta):
    student = student_of(base)
    student.model.double()
    part = CPL(alpha=alpha, beta=beta)
    rows, dropped = preference.encoded(student, PAIRS, ASK, 512)
    assert len(rows) == 3 and not dropped
    with torch.no_grad():
        reference = torch.stack([log_ratio(student, row) for row in rows])
    built = preference.trainer(student, rows, part, settings(student, part, tmp_path))
    learned = [one for one in student.model.parameters() if one.requires_grad]
    with torch.no_grad():
        for number, one in enumerate(learned):
            one += 0.05 * torch.randn(one.shape, generator=torch.Generator().manual_seed(100 + number))

    loss = built.compute_loss(student.model, built.data_collator(list(built.train_dataset)))
    theirs = torch.autograd.grad(loss, learned)
    moved = torch.stack([log_ratio(student, row) for row in rows]) - reference
    gaps = torch.tensor([one.q_better - one.q_worse for one in PAIRS])
    direct = -torch.nn.functional.logsigmoid(beta * moved - alpha * gaps).mean()
    ours = torch.autograd.grad(direct, learned)

    assert moved.abs().min() > 1e-3  # else the reference would not show
    torch.testing.assert_close(loss, direct, rtol=1e-10, atol=0)
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_before_the_first_step_all_that_is_lost_is_the_margin(base, tmp_path):
    figures = []
    train(
        base, tmp_path, PAIRS[:1], CPL(learning_rate=1e-9), epochs=1, metric=lambda step, **some: figures.append(some)
    )
    assert figures[0]["loss"] == pytest.approx(torch.nn.functional.softplus(torch.tensor(1.5)).item(), abs=1e-4)
    assert figures[0]["preference"] == pytest.approx(0, abs=1e-4) and figures[0]["asked"] == pytest.approx(1.5)


# --- training ---------------------------------------------------------------------------------------------------------


def train(base, out, pairs, part, student=None, **more):
    student = student or student_of(base)
    told = {name: more.pop(name) for name in ("metric", "say") if name in more}
    training = Training(max_length=512, reporter=Reporter(**told))
    more = {"epochs": 60, "batches": Batches(2, 1, 50), **more}
    return student, step_apo.train(student, pairs, ASK, part, out, training, **more)


def preferences(before, after, pairs, beta):
    rows, _ = preference.encoded(after, pairs, ASK, 512)
    with torch.no_grad():
        return [beta * (log_ratio(after, row) - log_ratio(before, row)).item() for row in rows]


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, 0.5), (0.0, 0.0), (2.0, 1.0)])
def test_a_pair_and_its_reverse_move_the_preference_to_half_the_difference_of_their_gaps(
    base, tmp_path, alpha, expected
):
    # The sum of -log sigma(d - a) and -log sigma(-d - b) is least at d = (a - b) / 2, and nowhere else.
    better, worse = PAIRS[0].better, PAIRS[0].worse
    both = [pair(better, worse, 1.5), pair(worse, better, 0.5)]
    part = CPL(alpha=alpha, beta=0.3, learning_rate=1e-2)
    student, _ = train(base, tmp_path, both, part, epochs=40)
    assert preferences(student_of(base), student, both, 0.3)[0] == pytest.approx(expected, abs=0.02)


def test_every_pair_is_preferred_by_at_least_the_margin_that_is_asked(base, tmp_path):
    part = CPL(alpha=1.0, beta=0.3, learning_rate=1e-2)
    student, summary = train(base, tmp_path, PAIRS, part, epochs=30)
    moved = preferences(student_of(base), student, PAIRS, 0.3)
    gaps = [one.q_better - one.q_worse for one in PAIRS]
    assert all(one > gap for one, gap in zip(moved, gaps, strict=True))
    assert summary["margin_kept"] == 1 and summary["loss_last"] < 0.5 * summary["loss_first"]
    assert summary["preference_last"] > summary["asked"] and "3 pairs" in summary["line"]
    assert sorted(student.model.peft_config) == ["default"]
    left = {file.name for file in tmp_path.iterdir()}
    assert "adapter_model.safetensors" in left and not [name for name in left if name.startswith(("checkpoint", "ref"))]


def test_whole_replies_are_preferred_by_the_same_code(base, tmp_path):
    whole = [
        pair("<plan>\n1. Multiply.\n</plan>\n\\boxed{6}", "<plan>\n1. Guess.\n</plan>\n\\boxed{9}", 2.0, prompt=""),
    ]
    student, summary = train(base, tmp_path, whole, CPL(alpha=0.0, learning_rate=1e-2), epochs=20)
    assert preferences(student_of(base), student, whole, 0.3)[0] > 0.5
    assert summary["asked"] == 0 and summary["margin_kept"] == 1


def test_killed_it_goes_on_to_the_same_adapter(base, tmp_path):
    class Killed(Exception):
        pass

    def dies(step, **figures):
        if step == 5:
            raise Killed

    part = CPL(learning_rate=1e-2)
    train(base, tmp_path / "whole", PAIRS, part, epochs=6, batches=Batches(2, 1, 3))
    with pytest.raises(Killed):
        train(base, tmp_path / "killed", PAIRS, part, epochs=6, batches=Batches(2, 1, 3), metric=dies)
    assert (tmp_path / "killed" / "checkpoint-3").is_dir()
    said = []
    train(base, tmp_path / "killed", PAIRS, part, epochs=6, batches=Batches(2, 1, 3), say=said.append)
    assert said == ["resumes from step 3 of 9"]
    whole, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed"))
    for name in whole:
        torch.testing.assert_close(again[name], whole[name], rtol=1e-5, atol=1e-7)


# --- pairs in token ids -----------------------------------------------------------------------------------------------


def test_pairs_are_encoded_as_the_student_generated_them_and_no_turn_is_closed(base):
    student = learner(base)
    [row], _ = preference.encoded(student, PAIRS[1:2], ASK, 512)
    begun = {"role": "assistant", "content": PAIRS[1].prompt}
    assert row["prompt_tokens"] == student.encode_chat((*ASK["cows"], begun), for_reply=True)
    assert student.tokenizer.decode(row["better_tokens"]) == "2. Add.\n"
    assert row["gap"] == pytest.approx(0.4)


def test_pairs_that_teach_nothing_are_left_out_and_counted(base, tmp_path):
    student = SimpleNamespace(**vars(learner(base)), encode_chat=lambda messages, for_reply: [1] * 9)
    pairs = [pair("1. a\n", "1. a\n"), pair("", "1. a\n"), pair("1. " + "a" * 500, "1. b\n"), pair("1. a\n", "1. b\n")]
    rows, dropped = preference.encoded(student, pairs, ASK, 64)
    assert len(rows) == 1 and dropped == {"identical or empty": 2, "longer than 64 tokens": 1}
    with pytest.raises(step_apo.PairError, match="none of the 1 pairs can be learned from: 1 identical or empty"):
        step_apo.train(student, pairs[:1], ASK, CPL(), tmp_path, Training(), batches=Batches())


def test_a_beta_of_nothing_is_refused(base, tmp_path):
    with pytest.raises(RecipeError, match=r"cpl\.beta=0\.3"):
        train(base, tmp_path, PAIRS, CPL(beta=0.0))
