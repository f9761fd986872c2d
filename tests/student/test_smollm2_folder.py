"""The embedded student's folder: what transformers loads from it, beside what llama.cpp makes of the same GGUF."""

import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from plantune_lite.plan import ask_plainly, render
from plantune_lite.problems.practice.generate import practice_problems
from plantune_lite.student import presets, smollm2
from plantune_lite.student.smollm2 import gguf_path

ROOT = Path(smollm2.__file__).parents[2]
PRESET = presets.find(smollm2.PRESET)
# The vocabulary has no token for these bytes: six control characters, and what only unassigned characters begin with.
NO_TOKEN = "\x04\x06\x13\x14\x16\x1d"
PIECES = (
    *(" ", "  ", " " * 9, "\n", "\n\n", "\t", "\r\n", "\x0b\x0c", "\u00a0", "\u2003", "\u3000", "\u2028", "\x85"),
    *"0123456789" * 2,
    *("٣", "४", "五", "Ⅷ", "½", "²", "①", "3.14", "1,000", "2026-10-31", "1e-5"),
    *("'s", "'S", "'t", "'RE", "’ve", "'ll", "'d", "I'm", "don't"),
    *"!?.,;:+-*/=<>()[]{}\\_^$%&|~`\"'#@…–«»",
    *(
        "e\u0301",
        "\u0308",
        "n\u0303",
        "ñ",
        "ß",
        "İ",
        "ﬁ",
        "\u200d",
        "\u200b",
        "\ufeff",
        "\u202e",
        "\x00",
        "\x1b",
        "\x7f",
    ),
    *(
        "🚀",
        "👩‍👩‍👧",
        "🇩🇪",
        "👍🏽",
        "3️⃣",
        "😶‍🌫️",
        "漢字",
        "かな",
        "カナ",
        "한국어",
        "ไทย",
        "हिन्दी",
        "العربية",
        "עברית",
        "ελληνικά",
    ),
    *(
        "\\frac{1}{2}",
        "\\boxed{36}",
        "$x^2$",
        "def f(x):\n    return x",
        "</plan>",
        "<plan>\n1. ",
        "word",
        " the",
        "The",
    ),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<empty_output>", "<|im_en", "|>"),
)


@pytest.fixture(scope="module")
def folder():
    return smollm2.folder()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    # The same weights in float32, which a CPU without bfloat16 of its own multiplies several times as fast.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def llama():
    llama_cpp = pytest.importorskip("llama_cpp")
    path = str(gguf_path())
    with contextlib.closing(llama_cpp.Llama(path, n_ctx=256, logits_all=True, n_threads=1, verbose=False)) as llama:
        yield llama


@pytest.fixture(scope="module")
def conversation(tokenizer):
    """One problem as the student sees it in training: question, plan, solution."""
    (problem,) = practice_problems("train", seed=0, limit=1)
    reply = {"role": "assistant", "content": render(problem.extra["plan"], problem.solution)}
    text = tokenizer.apply_chat_template([*ask_plainly(problem), reply], tokenize=False)
    return tokenizer(text)["input_ids"][:160]


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def strings():
    """Our own files, problems with their plans, and everything that a pre-tokenizer could trip over."""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("plantune_lite/**/*.py"), *ROOT.glob("tests/**/test_*.py")]):
        text = path.read_text(encoding="utf-8")
        yield from (text[start : start + 2_000] for start in range(0, len(text), 2_000))
    for problem in practice_problems("train", seed=0, limit=300):
        yield f"{problem.question}\n{render(problem.extra['plan'], problem.solution)}"
    random = Random(0)
    for _ in range(4_000):
        yield "".join(random.choices(PIECES, k=random.randint(1, 16)))


def test_it_splits_text_as_llama_cpp_does_and_gives_it_back_unchanged(tokenizer, llama):
    for text in strings():
        ids = tokenizer(text)["input_ids"]
        assert ids == llama.tokenize(text.encode(), add_bos=False, special=True), text
        assert tokenizer.decode(ids) == text


@example("a\nb\r\n \t c  ")
@given(st.text(st.characters(codec="utf-8", exclude_characters=NO_TOKEN, exclude_categories=("Cs", "Cn", "Co"))))
def test_any_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_character_without_a_token_is_dropped_before_its_neighbours_are_merged(tokenizer, llama):
    # The one difference to llama.cpp, which drops it afterwards. The original has no unknown token either, so its BPE
    # does as ours. Six control characters and two lead bytes of unassigned planes: no text that a student meets.
    assert tokenizer("!\x04!")["input_ids"] == tokenizer("!!")["input_ids"]
    assert llama.tokenize(b"!\x04!", add_bos=False) == 2 * llama.tokenize(b"!", add_bos=False)


def test_llama_cpps_converter_takes_it_for_smollm(tokenizer):
    # The converter knows a pre-tokenizer by the hash of what becomes of this text, and this is the hash of smollm.
    text = (
        "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ 🦙🦙 "
        "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ "
        "------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, "
        "'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
    )
    smollm = "855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249"
    assert hashlib.sha256(str(tokenizer.encode(text)).encode()).hexdigest() == smollm


def test_digits_are_single_and_nothing_is_added(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer(" 1234")["input_ids"]) == ["Ġ", "1", "2", "3", "4"]


def test_its_special_tokens_are_the_presets_and_padding_is_not_the_turns_end(tokenizer):
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert (tokenizer.eos_token, tokenizer.pad_token) == (PRESET.turn_end, PRESET.pad)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.decode(range(17)).startswith("<|endoftext|><|im_start|><|im_end|><repo_name>")
    assert tokenizer.decode(range(17), skip_special_tokens=True) == ""


def test_it_speaks_the_presets_template(tokenizer):
    assert tokenizer.chat_template == PRESET.chat_template


# --- the model --------------------------------------------------------------------------------------------------------


def test_its_config_is_the_originals(folder):
    config = AutoConfig.from_pretrained(folder)
    assert config.architectures == ["LlamaForCausalLM"] and config.dtype == torch.bfloat16
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (30, 576, 1536)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (9, 3, 64)
    assert (config.vocab_size, config.max_position_embeddings) == (49152, 8192)
    assert (config.rms_norm_eps, config.rope_parameters) == (1e-5, {"rope_type": "default", "rope_theta": 100_000})
    assert (config.initializer_range, config.hidden_act) == (0.041666666666666664, "silu")
    assert not config.attention_bias and not config.mlp_bias and config.tie_word_embeddings
    for one in (config, GenerationConfig.from_pretrained(folder)):
        assert (one.bos_token_id, one.eos_token_id, one.pad_token_id) == (1, 2, 0)


def test_weights_are_bfloat16_and_the_output_is_the_embedding(folder, model):
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert len(names) == 272 and "lm_head.weight" not in names
        assert {file.get_slice(name).get_dtype() for name in names} == {"BF16"}


def test_it_thinks_as_llama_cpp_does_with_the_same_weights(model, llama, conversation):
    # Not the very same: llama.cpp rounds activations to 8 bits, and our weights are rounded to bfloat16.
    llama.reset()
    llama.eval(conversation)
    theirs = torch.tensor(llama.scores[: len(conversation)]).log_softmax(-1)
    with torch.inference_mode():
        ours = model(torch.tensor([conversation])).logits[0].float().log_softmax(-1)
    same = (ours.argmax(-1) == theirs.argmax(-1)).float().mean()
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    assert same > 0.9 and divergence < 0.01, (same, divergence)


def test_it_answers_a_question_and_ends_its_turn(model, tokenizer):
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        reply = model.generate(**prompt, max_new_tokens=48, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(reply) and reply[-1] == tokenizer.eos_token_id


# --- the cache --------------------------------------------------------------------------------------------------------

MAKE = "from plantune_lite.student import smollm2; print(smollm2.folder(say=lambda line: None))"


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "PLANTUNE_CACHE": str(cache), "PLANTUNE_SMOLLM2": str(gguf_path())}


def test_a_second_call_says_nothing_and_imports_nothing_heavy(folder):
    code = (
        f"{MAKE}; import sys; print([name for name in ('torch', 'numpy', 'gguf', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.splitlines(), done.stderr) == ([str(folder), "[]"], "")


# Dequantises once, for the one that is killed and the one that goes on.
KILLED = """if True:
    import os, signal, sys, time
    from plantune_lite.student import smollm2
    made = smollm2._files(smollm2.gguf_path())
    smollm2._files = lambda gguf: made
    child = os.fork()
    if child == 0:
        smollm2.folder(say=lambda line: None)
        os._exit(1)
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.0002)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    print("killed", flush=True)
    sys.stdin.readline()
    smollm2.folder(say=lambda line: None)"""


def test_a_kill_leaves_no_half_file_and_the_next_call_makes_what_is_missing(folder, tmp_path):
    place, right = tmp_path / "smollm2" / folder.name, contents(folder)
    command = [sys.executable, "-c", KILLED, str(place / "config.json")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(tmp_path), **pipes) as process:
        assert process.stdout.readline() == "killed\n"
        left = {name: digest for name, digest in contents(place).items() if name[0] != "."}
        assert left.items() < right.items(), "a half file, or the kill came too late"
        (place / "tokenizer.json").unlink(missing_ok=True)
        for half in place.glob(".*"):
            half.unlink()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(60) == 0
    assert contents(place) == right


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "smollm2").write_text("in the way")
    done = subprocess.run([sys.executable, "-c", MAKE], env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 1 and "WeightsError: SmolLM2 cannot be prepared in" in done.stderr
    assert "PLANTUNE_CACHE" in done.stderr
