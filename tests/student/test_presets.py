from pathlib import Path

import pytest
import trl
from tiny import tiny_tokenizer

from plantune_lite.plan import SYSTEM
from plantune_lite.student.presets import PRESETS, find

jinja2 = pytest.importorskip("jinja2")
TURNS = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
IDS = [preset.name for preset in PRESETS]


def rendered(preset, messages, reply=False):
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(preset.chat_template)
    return template.render(messages=messages, bos_token=preset.bos or "<s>", add_generation_prompt=reply)


@pytest.mark.parametrize("preset", PRESETS, ids=IDS)
def test_our_system_turn_is_there_with_and_without_being_given(preset):
    given = [{"role": "system", "content": SYSTEM}, *TURNS]
    assert rendered(preset, TURNS) == rendered(preset, given)
    assert rendered(preset, TURNS).count(SYSTEM) == 1


@pytest.mark.parametrize("preset", PRESETS, ids=IDS)
def test_another_system_turn_replaces_ours(preset):
    text = rendered(preset, [{"role": "system", "content": "Be brief."}, *TURNS])
    assert "Be brief." in text and SYSTEM not in text


@pytest.mark.parametrize("preset", PRESETS, ids=IDS)
def test_there_is_exactly_one_bos_where_the_family_has_one(preset):
    text = rendered(preset, TURNS)
    assert text.startswith(preset.bos) and text.count(preset.bos) == 1 if preset.bos else "<s>" not in text


@pytest.mark.parametrize("preset", PRESETS, ids=IDS)
def test_the_answer_ends_with_the_turn_end_and_white_space(preset):
    end = rendered(preset, TURNS).rpartition("4")[2]
    assert end.rstrip() == preset.turn_end


@pytest.mark.parametrize("preset", PRESETS, ids=IDS)
def test_the_prompt_for_a_reply_is_the_beginning_of_the_answered_conversation(preset):
    assert rendered(preset, TURNS).startswith(rendered(preset, TURNS[:1], reply=True))


@pytest.mark.parametrize("preset", PRESETS, ids=IDS)
def test_thinking_is_never_asked_for_and_padding_is_not_the_turn_end(preset):
    asked = rendered(preset, TURNS[:1], reply=True)
    assert asked.endswith(preset.opening) and "<think>" not in asked.removesuffix(preset.opening)
    assert preset.pad != preset.turn_end and preset.pad != preset.bos


def test_gemma_and_chatml_are_written_as_their_families_write_them():
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": " Q "}]
    assert rendered(find("gemma3_1b"), chat, reply=True) == (
        "<bos><start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\n"
    )
    assert rendered(find("qwen3_4b"), chat, reply=True) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n Q <|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("qwen3_0_6b", "qwen3"),
        ("qwen3_4b", "qwen3_instruct_2507"),
        ("qwen3_5_0_8b", "qwen3_5_nothink"),
        ("qwen3_5_4b", "qwen3_5_think"),
        ("gemma4_e2b", "gemma4"),
    ],
)
def test_a_conversation_is_as_the_familys_own_template_has_it_with_thinking_off(name, file):
    own = (Path(trl.__file__).parent / "chat_templates" / f"{file}.jinja").read_text("utf-8")
    tokenizer = tiny_tokenizer("gemma4_text" if file == "gemma4" else "qwen3")
    system = {"role": "system", "content": SYSTEM}
    asked_again = [system, *TURNS, {"role": "user", "content": "And 3+3?"}]
    for turns, reply in (([system, *TURNS], False), ([system, TURNS[0]], True), (asked_again, True)):
        how = {"tokenize": False, "add_generation_prompt": reply, "enable_thinking": False}
        theirs = tokenizer.apply_chat_template(turns, chat_template=own, **how)
        assert tokenizer.apply_chat_template(turns, chat_template=find(name).chat_template, **how) == theirs


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2_135m", "smollm2_135m"),
        ("unsloth/gemma-3-1b-it", "gemma3_1b"),
        ("qwen/qwen2.5-7b-instruct", "qwen2_5_7b"),
        ("unsloth/Qwen3-4B-Instruct-2507-unsloth-bnb-4bit", "qwen3_4b"),
    ],
)
def test_a_preset_is_found_by_name_repository_and_alias(model, name):
    assert find(model).name == name


def test_the_gemma_licence_is_gemmas_and_an_unknown_model_has_no_preset():
    assert find("gemma3_1b").licence == "gemma"
    assert find("someone/else") is None


def test_no_name_means_two_presets():
    names = [name.casefold() for preset in PRESETS for name in (preset.name, *preset.aliases)]
    assert len(names) == len(set(names))
