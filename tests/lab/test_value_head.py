import pytest
import torch
from safetensors.torch import load_file
from sft_child import learner, make_base

from plantune_lite import plan
from plantune_lite.lab.cpl import value_head
from plantune_lite.types import PlantuneError


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return learner(make_base(tmp_path_factory.mktemp("base"), "llama"))


def state(number, word):
    begun = {"role": "assistant", "content": f"<plan>\n1. Count them{' well' * (number % 5)}.\n2. {word}\n"}
    return (*plan.chat(f"How many legs have {number} hens?"), begun)


def known(count):
    """States whose worth is in their last step; the same number in all would be nothing to learn."""
    worth = {"Multiply them.": 0.8, "Guess.": -0.9}
    return [(str(n), state(n, word), q) for n in range(count) for word, q in worth.items()]


def test_a_head_learns_what_states_of_other_questions_are_worth(student, tmp_path):
    summary = value_head.train(student, known(20), tmp_path)
    assert summary["states"] == 32 and summary["judged"] == 8
    assert summary["error"] < 0.2 < 0.8 < summary["error_of_the_mean"]
    asked = value_head.value_of(student, tmp_path)
    good, bad = asked([state(77, "Multiply them."), state(77, "Guess.")])
    assert 0.5 < good <= 1 and -1 <= bad < -0.5


def test_a_value_is_the_tanh_of_the_head_on_the_last_token(student, tmp_path):
    value_head.train(student, known(6), tmp_path)
    head = load_file(tmp_path / value_head.FILE)
    asked = state(3, "Guess.")
    ids = torch.tensor([student.encode_chat(asked, for_reply=True)])
    with torch.no_grad():
        last = student.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    assert value_head.value_of(student, tmp_path)([asked]) == pytest.approx(
        [torch.tanh(last @ head["weight"] + head["bias"]).item()], abs=1e-5
    )


def test_what_is_asked_beside_a_state_changes_nothing(student, tmp_path):
    value_head.train(student, known(6), tmp_path)
    asked = value_head.value_of(student, tmp_path)
    states = [state(number, "Guess.") for number in range(value_head.ROWS + 5)]
    assert asked(states) == pytest.approx([one for each in states for one in asked([each])], abs=1e-5)


def test_the_student_is_left_as_it_was(student, tmp_path):
    before = {name: values.clone() for name, values in student.model.named_parameters()}
    training = student.model.training
    value_head.train(student, known(6), tmp_path)
    assert student.model.training == training
    assert all(torch.equal(before[name], values) for name, values in student.model.named_parameters())


def test_one_question_has_nothing_to_keep_apart_and_says_so(student, tmp_path):
    assert "of the same questions" in value_head.train(student, known(1), tmp_path)["line"]


def test_too_little_to_learn_from_and_a_head_that_is_not_there_are_said(student, tmp_path):
    with pytest.raises(PlantuneError, match=r"the search left 1: search more questions \(cpl\.questions\)"):
        value_head.train(student, known(1)[:1], tmp_path)
    with pytest.raises(PlantuneError, match=r"holds no value head.*cpl\.leaf=rollout"):
        value_head.value_of(student, tmp_path)
