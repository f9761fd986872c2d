"""Students of the true shapes with random weights, as folders: what a GPU has to hold does not depend on their values.

folder = written("qwen3_4b", Path("work"))     config.json, safetensors, a byte-level tokenizer with the family's turns
folder = written("qwen3_4b", Path("work"), tiny=True)     the family in miniature, to try a benchmark on a CPU
"""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from plantune_lite import presets, shapes

STUDENTS = ("gemma3_1b", "qwen3_4b", "qwen2_5_7b")


def written(student: str, work: Path, *, tiny: bool = False) -> Path:
    """The folder of a student's shape, made where it is not there yet."""
    folder = work / (f"{student}-tiny" if tiny else student)
    if not (folder / "config.json").is_file():
        model = AutoModelForCausalLM.from_config(config(student, tiny=tiny), dtype=torch.bfloat16)
        tokenizer(student).save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def config(student: str, *, tiny: bool = False) -> AutoConfig:
    """The family's config with the student's sizes."""
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
        "max_position_embeddings": 4096,
    }
    return AutoConfig.for_model(shape.family, **sizes)


def tokenizer(student: str) -> PreTrainedTokenizerFast:
    """Bytes as tokens, and the tokens of the family's turns: any text goes in, at a known length."""
    preset = presets.find(student)
    special = [preset.pad, preset.turn_end, *preset.stops, "<|im_start|>", "<start_of_turn>", "<bos>", "<eos>"]
    names = [*dict.fromkeys(special), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in dict.fromkeys(special)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=preset.bos,
        eos_token=preset.turn_end,
        pad_token=preset.pad,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = preset.chat_template
    return fast


def rows(count: int, length: int) -> list[dict]:
    """Rows of so many tokens each, half of them learned."""
    system = "You plan."
    frame = 120  # the template's own tokens, about; what matters is that all rows are alike
    prompt = "q" * max(8, length // 2 - frame)
    return [
        {
            "prompt": [{"role": "system", "content": system}, {"role": "user", "content": prompt}],
            "completion": "a" * (length // 2 - 8),
        }
        for _ in range(count)
    ]
