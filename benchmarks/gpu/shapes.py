"""Write students of the true shapes with random weights as folders: memory does not depend on the weights' values.

folder = written("qwen3_4b", Path("work"))     config.json, safetensors, a byte-level tokenizer with the family's turns
folder = written("qwen3_4b", Path("work"), tiny=True)     the family in miniature, to try a benchmark on a CPU
filled(student, 24, 1024)     rows of exactly 1,024 tokens        asked(student, 8, 256)     prompts of exactly 256

Weights are drawn on the GPU if there is one. transformers is imported late: a process that trains imports Unsloth first
and finds the folder written.
"""

import gc
from pathlib import Path
from typing import Any

import torch

from plantune_lite.estimate import shapes
from plantune_lite.student import presets

STUDENTS = ("gemma3_1b", "qwen3_4b", "qwen2_5_7b")
_POSITIONS = {"gemma3_1b": 32_768, "qwen3_4b": 262_144, "qwen2_5_7b": 32_768}  # as in their config.json
_SYSTEM = {"role": "system", "content": "You plan."}


def written(student: str, work: Path, *, tiny: bool = False) -> Path:
    """Write the folder of a student's shape unless it exists, and return it."""
    folder = work / (f"{student}-tiny" if tiny else student)
    if not (folder / "config.json").is_file():
        from transformers import AutoModelForCausalLM

        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = AutoModelForCausalLM.from_config(config(student, tiny=tiny), dtype=torch.bfloat16)
        partial = folder.with_name(f".{folder.name}")  # a stopped process leaves no partial student
        tokenizer(student).save_pretrained(partial)
        model.save_pretrained(partial)
        partial.rename(folder)
        del model
        gc.collect()
        torch.cuda.empty_cache()
    return folder


def config(student: str, *, tiny: bool = False) -> Any:
    """Build the family's config with the student's sizes."""
    from transformers import AutoConfig

    shape = shapes.of(student)
    sizes = {
        "vocab_size": 320 if tiny else shape.vocab,
        "hidden_size": 64 if tiny else shape.hidden,
        "intermediate_size": 128 if tiny else shape.intermediate,
        "num_hidden_layers": 2 if tiny else shape.layers,
        "num_attention_heads": 4 if tiny else shape.heads,
        "num_key_value_heads": 2 if tiny else shape.kv_heads,
        "head_dim": 16 if tiny else shape.head_dim,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": 4096 if tiny else _POSITIONS[student],
    }
    if shape.family == "gemma3_text":
        sizes["sliding_window"] = 512
    return AutoConfig.for_model(shape.family, **sizes)


def tokenizer(student: str) -> Any:
    """Build a byte-level tokenizer with the family's turn tokens: any text encodes to a known length."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    preset = presets.find(student)
    special = [preset.pad, preset.turn_end, *preset.stops, "<|im_start|>", "<start_of_turn>", "<bos>", "<eos>"]
    names = [*dict.fromkeys(special), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in dict.fromkeys(special)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=preset.bos,
        eos_token=preset.turn_end,
        pad_token=preset.pad,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = preset.chat_template
    return fast


def plainly_loaded(folder: Path, *, tiny: bool) -> tuple[Any, Any]:
    """Load the model in 4 bits as in transformers' documentation, and its tokenizer; in miniature in 32 bits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32 if tiny else torch.bfloat16,
        quantization_config=None if tiny else nf4,
        device_map={"": "cpu" if tiny else "cuda:0"},
    )
    return model, AutoTokenizer.from_pretrained(folder)


# --- rows and prompts -------------------------------------------------------------------------------------------------


def rows(count: int, length: int) -> list[dict]:
    """Build rows of about `length` tokens, half of them learned, the same for both sides."""
    frame = 120  # about the template's own tokens; what matters is that all rows are alike
    prompt = "q" * max(8, length // 2 - frame)
    row = {"prompt": [_SYSTEM, {"role": "user", "content": prompt}], "completion": "a" * (length // 2 - 8)}
    return [dict(row) for _ in range(count)]


def filled(student: Any, count: int, length: int) -> list[dict]:
    """Build rows of exactly `length` tokens, half of them learned."""
    learned = length // 2
    prompts = asked(student, count, length - learned)
    return [{"prompt": row["prompt"], "completion": "a" * (learned - 1)} for row in prompts]  # and the end of the turn


def asked(student: Any, count: int, length: int) -> list[dict]:
    """Build prompts of exactly `length` tokens, with the fields that rewards need."""
    bare = len(student.encode_chat((_SYSTEM, {"role": "user", "content": "0000"})))
    if bare > length:
        raise ValueError(f"the turns alone take {bare} tokens: a prompt length of {length} is too short")
    return [
        {
            "problem_id": f"filled/{number}",
            "prompt": [_SYSTEM, {"role": "user", "content": f"{number:04}" + "q" * (length - bare)}],
            "answer": "7",
            "choices": [],
            "kind": "number",
            "plan": ["Add the pens.", "Multiply by the price."],
        }
        for number in range(count)
    ]
