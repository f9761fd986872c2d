"""What a model in memory answers, on tiny random models beside a loop of one token after another, and on SmolLM2."""

import os
from collections import Counter

import pytest
import torch
from tiny import FAMILIES, tiny_student
from transformers import GenerationConfig

from plantune_lite.plan import SYSTEM, chat
from plantune_lite.recipe.schema import Student
from plantune_lite.student import attention, generate, presets
from plantune_lite.student.load import load_student
from plantune_lite.types import PlantuneError, Sampling

QUESTIONS = ["Two?", "A pen costs 3 dollars and a book costs 12. What do 4 pens cost?", "?", "How many " * 9]
BEGUN = {"role": "assistant", "content": "<plan>\n1. "}
PROMPTS = [*(chat(question) for question in QUESTIONS), (*chat("Two?"), BEGUN)]
TEMPLATES = {preset.family: preset.chat_template for preset in presets.PRESETS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: folder_of(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def folder_of(family, folder):
    # Weights of ten times the usual size: a model that minds every token of its prompt, padding too if it saw it.
    tiny_student(folder, family, dtype=torch.float32, initializer_range=0.2)
    (folder / "chat_template.jinja").write_text(TEMPLATES[family], encoding="utf-8")
    return folder


def loaded(folder):
    return load_student(Student(str(folder), bits=32))


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, folders):
    return loaded(folders[request.param])


@pytest.fixture(scope="module")
def qwen(folders):
    return loaded(folders["qwen2"])


def one_token_after_another(student, messages, most):
    """Greedy, without batch, padding or memory: what any other way must come to."""
    ids = student.encode_chat(messages)
    said = []
    while len(said) < most:
        with torch.no_grad():
            scores = student.model(torch.tensor([ids + said])).logits[0, -1]
        said.append(int(scores.argmax()))
        if said[-1] in student.model.generation_config.eos_token_id:
            break
    return said


def drawn_long(student):
    """Many replies: a random model stumbles over the end of a turn now and then."""
    some = student.generate(PROMPTS, Sampling(temperature=1.0, n=6, max_tokens=60))
    return [reply for replies in some for reply in replies]


# --- greedy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 3, 32])
def test_greedy_replies_are_those_of_one_token_after_another_whatever_the_batch(tiny, at_once, monkeypatch):
    monkeypatch.setattr(generate, "at_once_on_cpu", lambda length: at_once)
    for messages, [reply] in zip(PROMPTS, tiny.generate(PROMPTS, Sampling(max_tokens=12)), strict=True):
        ids = one_token_after_another(tiny, messages, 12)
        said = [id for id in ids if id not in tiny.model.generation_config.eos_token_id]
        assert list(reply.token_ids) == said
        assert reply.text == tiny.tokenizer.decode(said, skip_special_tokens=True)
        assert (reply.tokens_in, reply.tokens_out) == (len(tiny.encode_chat(messages)), len(ids))


def test_greedy_samples_are_one_reply_made_once(qwen):
    [some] = qwen.generate([chat("Two?")], Sampling(n=3, max_tokens=6))
    assert len(some) == 3 and len({id(reply) for reply in some}) == 1


def test_what_unsloth_remembers_of_a_batch_is_dropped_before_the_next_is_measured(qwen):
    layer = next(module for name, module in qwen.model.named_modules() if name.endswith("self_attn"))
    layer.paged_attention, layer.temp_QA = torch.zeros(4), torch.zeros(4)
    kept = set(vars(layer)) - {"paged_attention", "temp_QA"}
    attention.forget_last_batch(qwen.model)
    assert set(vars(layer)) == kept


def test_nothing_asked_is_nothing_answered(qwen):
    assert qwen.generate([], Sampling(n=3)) == []


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_reply_that_ends_says_so_and_holds_no_end_of_turn(tiny):
    made = drawn_long(tiny)
    ended, cut = ([reply for reply in made if reply.finish == finish] for finish in ("stop", "length"))
    assert ended and cut
    ends = set(tiny.model.generation_config.eos_token_id)
    for reply in ended:
        assert not ends & set(reply.token_ids) and reply.tokens_out == len(reply.token_ids) + 1
        assert tiny.preset.turn_end not in reply.text
    assert {reply.tokens_out for reply in cut} == {60}


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])  # one pads with a token that also ends, one does not
def test_a_stop_string_ends_a_reply_and_is_not_in_it(folders, family):
    tiny = loaded(folders[family])
    free = [reply.text for [reply] in tiny.generate(PROMPTS, Sampling(max_tokens=40))]
    stop = max(Counter(letter for text in free for letter in set(text)).items(), key=lambda one: one[1])[0]
    for text, [reply] in zip(free, tiny.generate(PROMPTS, Sampling(max_tokens=40, stop=(stop, "never"))), strict=True):
        assert reply.text == text.partition(stop)[0]
        assert reply.finish == ("stop" if stop in text else "length")
        assert reply.tokens_out == len(reply.token_ids) <= 40
        assert tiny.tokenizer.pad_token_id not in reply.token_ids


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_samples_differ_and_come_again_with_the_same_seed(qwen):
    drawn = Sampling(temperature=1.0, n=4, max_tokens=10, seed=3)
    first, again = qwen.generate(PROMPTS, drawn), qwen.generate(PROMPTS, drawn)
    assert first == again and [len(some) for some in first] == [4] * len(PROMPTS)
    assert all(len({reply.text for reply in some}) == 4 for some in first)
    assert qwen.generate(PROMPTS, Sampling(temperature=1.0, n=4, max_tokens=10, seed=4)) != first


def test_a_draw_does_not_depend_on_what_else_is_asked(tiny, monkeypatch):
    drawn = Sampling(temperature=0.8, top_p=0.9, n=3, max_tokens=8)
    together = tiny.generate(PROMPTS, drawn)
    monkeypatch.setattr(generate, "at_once_on_cpu", lambda length: 4)
    assert tiny.generate(PROMPTS[2:], drawn) == together[2:]
    assert tiny.generate(PROMPTS[::-1], drawn) == together[::-1]


@pytest.mark.parametrize("stop", [(), (".", "e")])
def test_a_drawn_reply_says_how_likely_its_tokens_were(tiny, stop):
    sampling = Sampling(temperature=0.7, max_tokens=40, n=2, seed=3, stop=stop)
    replies_P_n = tiny.generate(PROMPTS, sampling)
    for messages, some in zip(PROMPTS, replies_P_n, strict=True):
        for reply in some:
            asked = tiny.encode_chat(messages)
            said = list(reply.token_ids)
            with torch.no_grad():
                logps = (tiny.model(torch.tensor([asked + said])).logits[0, len(asked) - 1 :] / 0.7).log_softmax(-1)
            chosen = [logps[at, id].item() for at, id in enumerate(said)]
            if reply.tokens_out > len(said):  # the end of its turn was drawn too: which of several, it does not say
                ends = tiny.model.generation_config.eos_token_id
                possible = [[*chosen, logps[len(said), end].item()] for end in ends]
            else:
                possible = [chosen]
            assert min(abs(sum(one) / len(one) - reply.mean_logprob) for one in possible) < 1e-4


def test_a_greedy_reply_does_not_say_how_likely_it_was(qwen):
    assert [reply.mean_logprob for [reply] in qwen.generate(PROMPTS, Sampling(max_tokens=3))] == [None] * len(PROMPTS)


def test_the_same_prompt_twice_is_drawn_for_twice(qwen):
    [[one], [other]] = qwen.generate([PROMPTS[0]] * 2, Sampling(temperature=1.0, max_tokens=10))
    assert one != other


def test_a_prompt_of_token_ids_is_answered_as_the_conversation_they_encode(tiny):
    drawn = Sampling(temperature=1.0, n=2, max_tokens=10)
    assert tiny.generate([tiny.encode_chat(messages) for messages in PROMPTS], drawn) == tiny.generate(PROMPTS, drawn)


def test_drawing_leaves_the_random_numbers_of_others_alone(qwen):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    qwen.generate(PROMPTS, Sampling(temperature=1.0, max_tokens=3))
    assert torch.rand(1) == expected


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.5, 0.6)])
def test_tokens_are_drawn_as_often_as_the_model_says(qwen, temperature, top_p, monkeypatch):
    monkeypatch.setattr(generate, "at_once_on_cpu", lambda length: 1_000)
    with torch.no_grad():
        scores = qwen.model(torch.tensor([qwen.encode_chat(PROMPTS[0])])).logits[0, -1].double()
    chances, order = (scores / temperature).softmax(-1).sort(descending=True)
    inside = chances.cumsum(-1) - chances < top_p  # the one that crosses the line is in
    expected = torch.zeros(len(scores), dtype=torch.double)
    expected[order[inside]] = chances[inside] / chances[inside].sum()
    drawn = qwen.generate(PROMPTS[:1], Sampling(temperature=temperature, top_p=top_p, n=1_000, max_tokens=1))[0]
    # The end of a turn is no part of a reply.
    expected[torch.tensor(qwen.model.generation_config.eos_token_id)] = 0
    tokens = torch.tensor([token for reply in drawn for token in reply.token_ids])
    seen = tokens.bincount(minlength=len(scores)) / len(drawn)
    assert not seen[expected == 0].any()
    chance = (2 / torch.pi * expected * (1 - expected) / len(drawn)).sqrt().sum()  # what the differences add up to
    assert (seen - expected).abs().sum() < 1.3 * chance


def test_the_bases_own_settings_stay_out_of_it(folders, tmp_path):
    plain, greedy = loaded(folders["qwen2"]), Sampling(max_tokens=20)
    drawn = Sampling(temperature=1.0, n=4, max_tokens=20)
    folder = folder_of("qwen2", tmp_path / "own")
    own = {"repetition_penalty": 1.05, "temperature": 0.1, "top_k": 2, "top_p": 0.3, "do_sample": True}
    GenerationConfig(**own, no_repeat_ngram_size=1, eos_token_id=7, max_length=9).save_pretrained(folder)
    insistent = loaded(folder)
    assert insistent.generate(PROMPTS, greedy) == plain.generate(PROMPTS, greedy)
    assert insistent.generate(PROMPTS, drawn) == plain.generate(PROMPTS, drawn)


# --- what is left out ------------------------------------------------------------------------------------------------


class Watched:
    """A model that remembers the rows and the length of whatever it was asked; its memory may be small."""

    def __init__(self, model, most=1_000):
        self._model, self._most, self.asked = model, most, []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, input_ids, **how):
        self.asked.append(tuple(input_ids.shape))
        if len(input_ids) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._model(input_ids=input_ids, **how)


LONG = (
    Sampling(max_tokens=40),
    Sampling(max_tokens=40, stop=("e", "never")),
    Sampling(temperature=1.0, n=4, max_tokens=40),
    Sampling(temperature=1.0, top_p=0.9, n=3, max_tokens=40, stop=("e",)),
)


@pytest.mark.parametrize("sampling", LONG)
def test_replies_do_not_depend_on_when_it_is_looked_which_have_ended(tiny, sampling, monkeypatch):
    for every in ("LOOK_EVERY", "LOOK_FOR_STOP_EVERY"):
        monkeypatch.setattr(generate, every, 1_000)
    together = tiny.generate(PROMPTS, sampling)
    for often in (1, 7):
        monkeypatch.setattr(generate, "LOOK_FOR_STOP_EVERY" if sampling.stop else "LOOK_EVERY", often)
        assert tiny.generate(PROMPTS, sampling) == together


def test_a_reply_that_has_ended_is_computed_no_further(folders, monkeypatch):
    monkeypatch.setattr(generate, "LOOK_EVERY", 5)
    tiny = loaded(folders["qwen2"])
    tiny.model = Watched(tiny.model)
    drawn = Sampling(temperature=1.0, n=6, max_tokens=100)
    made = [reply for some in tiny.generate(PROMPTS, drawn) for reply in some]
    (common, shared), (prompts, rest), *steps = tiny.model.asked
    assert (common, prompts) == (1, len(PROMPTS))  # what several replies begin with is read once
    assert shared == len(os.path.commonprefix([tiny.encode_chat(messages) for messages in PROMPTS])) and rest > 1
    for number, (rows, length) in enumerate(steps):
        before = 1 + number // 5 * 5 if number >= 5 else 0  # the first token came with the prompt
        assert rows == sum(reply.tokens_out > before for reply in made) and length == 1
    assert len({rows for rows, _ in steps}) > 5


def test_rows_that_wait_take_the_place_of_those_that_have_ended(folders, monkeypatch):
    monkeypatch.setattr(generate, "at_once_on_cpu", lambda length: 8)
    tiny = loaded(folders["qwen2"])
    drawn = Sampling(temperature=1.0, n=12, max_tokens=100)
    alone = tiny.generate(PROMPTS, drawn)
    tiny.model = Watched(tiny.model)
    made = [reply for some in tiny.generate(PROMPTS, drawn) for reply in some]
    assert made == [reply for some in alone for reply in some]
    steps = [rows for rows, length in tiny.model.asked if length == 1]
    tokens = sum(reply.tokens_out for reply in made)
    assert max(steps) == 8 and len(steps) < 1.6 * tokens / 8, "the batch was kept full"


@pytest.mark.parametrize("sampling", LONG)
def test_in_parts_by_the_models_own_generate_the_replies_are_the_same(folders, sampling, monkeypatch):
    """As under Unsloth, which knows no memory from outside."""
    tiny = loaded(folders["qwen2"])
    told = tiny.generate(PROMPTS, sampling)
    monkeypatch.setattr(generate, "_Plain", generate._InParts)
    monkeypatch.setattr(generate, "at_once_on_cpu", lambda length: 4)
    for part in (7, 256):
        monkeypatch.setattr(generate, "PART", part)
        found = tiny.generate(PROMPTS, sampling)
        assert [[reply.token_ids for reply in some] for some in found] == [
            [reply.token_ids for reply in some] for some in told
        ]
        assert [[reply.finish for reply in some] for some in found] == [[one.finish for one in some] for some in told]


def test_replies_come_as_they_end_and_each_once(qwen, monkeypatch):
    monkeypatch.setattr(generate, "at_once_on_cpu", lambda length: 4)
    drawn = Sampling(temperature=1.0, n=3, max_tokens=60)
    made = list(qwen.generate.each(PROMPTS, drawn))
    assert len(made) == len(PROMPTS)
    whole = qwen.generate(PROMPTS, drawn)
    assert [whole[place] for place, _ in made] == [replies for _, replies in made]


@pytest.mark.parametrize("asked", [[PROMPTS[0], PROMPTS[-1]], [(*chat("How many?" * 9), BEGUN), PROMPTS[-1]]])
def test_a_prompt_may_be_the_beginning_of_another_or_end_like_it(tiny, asked):
    ends = tiny.model.generation_config.eos_token_id
    told = [[id for id in one_token_after_another(tiny, one, 12) if id not in ends] for one in asked]
    assert [list(reply.token_ids) for [reply] in tiny.generate(asked, Sampling(max_tokens=12))] == told


@pytest.mark.parametrize("often", [1, 7, 1_000])
def test_a_model_that_looks_back_only_so_far_does_so_from_part_to_part(tmp_path, often, monkeypatch):
    tiny_student(tmp_path / "gemma", "gemma3_text", dtype=torch.float32, initializer_range=0.2, sliding_window=24)
    (tmp_path / "gemma" / "chat_template.jinja").write_text(TEMPLATES["gemma3_text"], encoding="utf-8")
    monkeypatch.setattr(generate, "LOOK_EVERY", often)
    gemma = loaded(tmp_path / "gemma")
    assert gemma.model.config.layer_types[0] == "sliding_attention"
    for messages, [reply] in zip(PROMPTS, gemma.generate(PROMPTS, Sampling(max_tokens=20)), strict=True):
        ids = one_token_after_another(gemma, messages, 20)
        assert list(reply.token_ids) == [id for id in ids if id not in gemma.model.generation_config.eos_token_id]


def test_an_adapter_is_at_work_in_every_part_and_off_where_it_is_off(folders, monkeypatch):
    monkeypatch.setattr(generate, "LOOK_EVERY", 3)
    tiny = load_student(Student(str(folders["qwen3"]), bits=32), training=True)
    for name, values in tiny.model.named_parameters():
        if "lora_B" in name:
            values.data = 0.3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    ends = tiny.model.generation_config.eos_token_id
    tiny.model.eval()
    told = [[id for id in one_token_after_another(tiny, one, 12) if id not in ends] for one in PROMPTS]
    before = [reply for [reply] in loaded(folders["qwen3"]).generate(PROMPTS, Sampling(max_tokens=12))]
    assert [list(reply.token_ids) for [reply] in tiny.generate(PROMPTS, Sampling(max_tokens=12))] == told
    assert [reply for [reply] in tiny.generate_untuned(PROMPTS, Sampling(max_tokens=12))] == before
    assert told != [list(reply.token_ids) for reply in before]


# --- memory, and what is left behind ----------------------------------------------------------------------------------


def test_where_memory_runs_out_the_batch_is_halved_and_no_reply_changes(folders):
    drawn = Sampling(temperature=1.0, n=3, max_tokens=6)
    roomy, cramped = loaded(folders["llama"]), loaded(folders["llama"])
    cramped.model = Watched(cramped.model, most=4)
    assert cramped.generate(PROMPTS, drawn) == roomy.generate(PROMPTS, drawn)
    too_many = [rows for rows, _ in cramped.model.asked if rows > 4]
    assert too_many == [5, 7]  # of 15 rows five prompts, then seven rows; three are few enough
    cramped.model.asked.clear()
    cramped.generate(PROMPTS, drawn)
    assert max(rows for rows, _ in cramped.model.asked) == 3  # it has learned


def test_a_prompt_that_alone_is_too_much_is_one_sentence(folders):
    cramped = loaded(folders["llama"])
    cramped.model = Watched(cramped.model, most=0)
    with pytest.raises(PlantuneError, match=r"memory ran out for one prompt of \d+ tokens and up to 5 reply tokens"):
        cramped.generate(PROMPTS[:1], Sampling(max_tokens=5))


def test_the_longest_prompts_are_answered_first(folders, monkeypatch):
    monkeypatch.setattr(generate, "at_once_on_cpu", lambda length: 1)
    tiny = loaded(folders["llama"])
    tiny.model = Watched(tiny.model)
    tiny.generate(PROMPTS, Sampling(max_tokens=2))
    widths = [length for _, length in tiny.model.asked if length > 1][1:]  # the first is what all begin with
    assert widths == sorted(widths, reverse=True) and len(set(widths)) > 3


@pytest.mark.parametrize("training", [True, False])
def test_a_model_in_training_goes_on_training(folders, training):
    tiny = load_student(Student(str(folders["qwen3"]), bits=32, lora_dropout=0.5), training=training)
    said = tiny.generate(PROMPTS, Sampling(max_tokens=5))
    assert tiny.model.training is training
    assert tiny.generate(PROMPTS, Sampling(max_tokens=5)) == said  # and no dropout while it answered


# --- SmolLM2 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2():
    return load_student(Student("smollm2_135m", bits=32), say=lambda line: None)


def test_smollm2_is_spoken_to_like_this(smollm2):
    ids = smollm2.encode_chat(chat("What is the capital of France?"))
    assert smollm2.tokenizer.decode(ids) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids[:4] == [1, 9690, 198, 2683] and len(ids) == 37


def test_smollm2_answers_sensibly_and_ends_by_itself(smollm2):
    asked = ["What is the capital of France?", "Name a colour."]
    [[paris], [colour]] = smollm2.generate([chat(one) for one in asked], Sampling(max_tokens=64))
    assert "Paris" in paris.text and paris.finish == "stop"
    assert colour.finish == "stop" and "<|im_end|>" not in paris.text + colour.text


def test_smollm2_stops_where_it_is_told(smollm2):
    [[reply]] = smollm2.generate([chat("What is the capital of France?")], Sampling(max_tokens=64, stop=("Paris",)))
    assert "Paris" not in reply.text and reply.finish == "stop" and reply.tokens_out < 64
