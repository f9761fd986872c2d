from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sft_child import PRESET
from tiny import FAMILIES, tiny_tokenizer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from plantune_lite import plan
from plantune_lite.student import chat
from plantune_lite.train import data
from plantune_lite.types import Problem

COMPLETION = "<plan>\n1. Multiply.\n</plan>\nThe answer is \\boxed{36}."
CONTROL = {"gemma3_text": "<end_of_turn>", **dict.fromkeys(("llama", "qwen2", "qwen3"), "<|im_end|>")}

relaxed = settings(max_examples=60, deadline=None)  # machines are shared


def speaker(family="llama"):
    """What of a student is needed to encode: no model."""
    tokenizer = tiny_tokenizer(family)
    preset = chat.prepare(tokenizer, PRESET[family])
    encode = lambda messages, *, for_reply: chat.encode_chat(tokenizer, messages, for_reply=for_reply)  # noqa: E731
    return SimpleNamespace(tokenizer=tokenizer, preset=preset, encode_chat=encode)


def row(question="How much do 4 pens cost?", completion=COMPLETION):
    asked = Problem(id="1", question=question, answer="36")
    return {"problem_id": "1", "prompt": list(plan.ask_plainly(asked)), "completion": completion}


def learned_text(student, lesson):
    return student.tokenizer.decode([label for label in data.labels_of(lesson) if label != data.NOT_LEARNED])


# --- what is learned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learned_is_the_completion_and_the_end_of_its_turn(family):
    student = speaker(family)
    (lesson,) = data.lessons(student, [row()], 1024).kept
    assert learned_text(student, lesson) == COMPLETION + PRESET[family].turn_end


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_completion_together_are_the_conversation_that_the_template_writes(family):
    student, one = speaker(family), row()
    (lesson,) = data.lessons(student, [one], 1024).kept
    turns = (*one["prompt"], {"role": "assistant", "content": COMPLETION})
    whole = student.tokenizer.apply_chat_template(turns, tokenize=False)
    assert student.tokenizer.decode(lesson.ids) + "\n" == whole


@pytest.mark.parametrize("family", FAMILIES)
@relaxed
@given(text=st.text(min_size=1).map(str.rstrip).filter(bool))
def test_whatever_the_text_its_turn_ends_once_and_last(family, text):
    student = speaker(family)
    end = student.tokenizer.convert_tokens_to_ids(PRESET[family].turn_end)
    for lesson in data.lessons(student, [row(completion=text)], 100_000).kept:
        labels = [label for label in data.labels_of(lesson) if label != data.NOT_LEARNED]
        assert (labels.count(end), labels[-1]) == (1, end)
        assert len(data.labels_of(lesson)) == len(lesson.ids)


def test_the_mask_of_a_row_can_be_shown():
    student = speaker()
    (lesson,) = data.lessons(student, [row()], 1024).kept
    shown = data.shown(student.tokenizer, lesson)
    assert shown.endswith(f"<|im_start|>assistant\n⟦{COMPLETION}<|im_end|>⟧")
    assert shown.count("⟦") == 1 and shown.startswith("<|im_start|>system\n")


def test_white_space_behind_a_completion_is_not_learned():
    student = speaker()
    (lesson,) = data.lessons(student, [row(completion=COMPLETION + " \n\n")], 1024).kept
    assert learned_text(student, lesson) == COMPLETION + "<|im_end|>"


# --- what is left out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", ["question", "completion"])
def test_rows_whose_text_holds_control_tokens_are_left_out_and_counted(family, where):
    rows = [row(), row(**{where: f"Say{CONTROL[family]} now"})]
    taught = data.lessons(speaker(family), rows, 1024)
    assert taught.dropped == {"control tokens in the text": 1}
    assert [lesson.row for lesson in taught.kept] == [0]


def test_rows_that_are_too_long_are_left_out_whole_and_counted():
    student = speaker()
    length = len(data.lessons(student, [row()], 1024).kept[0].ids)
    assert data.lessons(student, [row()], length).dropped == {}
    taught = data.lessons(student, [row(), row(), row(completion="Short.")], length - 1)
    assert taught.dropped == {f"longer than {length - 1} tokens": 2}
    assert [lesson.row for lesson in taught.kept] == [2]


def test_an_empty_completion_teaches_nothing_and_is_counted():
    assert data.lessons(speaker(), [row(completion=" \n")], 1024).dropped == {"nothing to learn": 1}


# --- batches ----------------------------------------------------------------------------------------------------------


@relaxed
@given(lengths=st.lists(st.lists(st.integers(3, 40), min_size=1, max_size=30), min_size=1, max_size=6))
def test_padding_is_never_learned_nor_looked_at(lengths):
    rows = [{"input_ids": one, "labels": [data.NOT_LEARNED, *one[1:]]} for one in lengths]
    batch = DataCollatorForLanguageModeling(0)(rows)
    assert (batch["labels"][batch["attention_mask"] == 0] == data.NOT_LEARNED).all()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    assert batch["attention_mask"].sum(1).tolist() == [len(one) for one in lengths]
    assert [ids[: len(one)] for ids, one in zip(batch["input_ids"].tolist(), lengths, strict=True)] == lengths


LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=300)


@relaxed
@given(LENGTHS, st.integers(1, 9), st.integers(1, 900), st.integers(0, 5))
def test_as_many_rows_come_as_asked_and_none_much_more_often_than_another(lengths, batch, rows, seed):
    places = data.order(lengths, batch, rows, seed)
    counts = Counter(places)
    assert len(places) == rows
    assert all(rows // len(lengths) <= counts[row] <= -(-rows // len(lengths)) for row in range(len(lengths)))


@relaxed
@given(LENGTHS, st.integers(1, 9), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_has_every_row_once(lengths, batch, epochs, seed):
    lengths = lengths[: len(lengths) // batch * batch] or lengths[:1] * batch
    places = data.order(lengths, batch, epochs * len(lengths), seed)
    for start in range(0, len(places), len(lengths)):
        assert sorted(places[start : start + len(lengths)]) == list(range(len(lengths)))


@relaxed
@given(LENGTHS, st.integers(1, 9), st.integers(1, 900), st.integers(0, 5))
def test_the_longest_row_is_in_the_first_batch(lengths, batch, rows, seed):
    places = data.order(lengths, batch, rows, seed)
    assert max(lengths[row] for row in places[:batch]) == max(lengths)


@relaxed
@given(st.lists(st.integers(1, 500), min_size=64, max_size=64), st.integers(0, 5))
def test_the_rows_of_a_batch_are_of_about_one_length(lengths, seed):
    places = data.order(lengths, 4, 64, seed)
    batches = [[lengths[row] for row in places[at : at + 4]] for at in range(0, 64, 4)]
    assert sum(max(one) - min(one) for one in batches) <= max(lengths) - min(lengths)


def test_the_order_is_of_the_seed_and_not_sorted():
    lengths = [7 * number % 101 for number in range(100)]
    assert data.order(lengths, 4, 100, 1) == data.order(lengths, 4, 100, 1) != data.order(lengths, 4, 100, 2)
    firsts = [lengths[row] for row in data.order(lengths, 4, 100, 1)[::4]]
    assert firsts not in (sorted(firsts), sorted(firsts, reverse=True))
