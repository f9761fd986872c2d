"""Students small enough for a test: a random model of each family, and a tokenizer that knows every family's turns.

model = tiny_model("qwen2")     # 2 layers, hidden 64, vocabulary 320, the same weights every time
tokenizer = tiny_tokenizer()    # byte-level: any text goes in and comes out again
folder = tiny_student(tmp_path / "base", "gemma3_text", shard_size="200KB")
folder = tiny_seer(tmp_path / "base", "qwen3_5")    # with a vision part, as its repository has it
"""

from functools import cache
from pathlib import Path

import torch
from manifests import mark
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<pad>",
    "<eos>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
)
VOCABULARY = 320
_LINES = (
    "A pen costs 3 dollars and a book costs 12 dollars. How much do 4 pens and 2 books cost?",
    "<plan>\n1. Multiply the price of a pen by the number of pens.\n2. Add the price of the books.\n</plan>\n",
    "The answer is \\boxed{36}. You are a careful solver: first write a short numbered plan, then carry it out.",
)
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
_OF_A_FAMILY = {
    "llama": {"tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    "qwen2": {"tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0},
    "qwen3": {"tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0},
    "gemma3_text": {"tie_word_embeddings": True, "bos_token_id": 5, "eos_token_id": 4, "pad_token_id": 3},
}
FAMILIES = tuple(_OF_A_FAMILY)
SEERS = ("qwen3_5", "gemma4")  # models that read images too, of which we serve the text part
_OF_A_SEER = {
    "qwen3_5": {
        "text_config": {
            **_SHAPE,
            "num_hidden_layers": 4,
            "mtp_num_hidden_layers": 1,  # whose tensors transformers leaves out
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "partial_rotary_factor": 0.5,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {"depth": 1, "num_heads": 2, "out_hidden_size": 64, "num_position_embeddings": 16},
    },
    "gemma4": {
        "text_config": {
            **_SHAPE,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 32,
            "global_head_dim": 32,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCABULARY,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "final_logit_softcapping": 30.0,
            "eos_token_id": 4,
            "bos_token_id": 5,
            "pad_token_id": 3,
        },
        "vision_config": {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
        "audio_config": None,
    },
}


def tiny_model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **shape: object) -> PreTrainedModel:
    """A model with random weights, in eval mode; what the shape says goes into its config."""
    config = AutoConfig.for_model(family, **{**_SHAPE, **_OF_A_FAMILY[family], **shape})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for name, values in model.named_parameters():
            # The usual start: norms of one, biases of zero. Then nothing shows whether they were kept.
            if name.endswith(("norm.weight", "bias")):
                values.data += 0.1 * torch.randn_like(values)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model.eval()


@cache
def _vocabulary() -> str:
    tokenizer = Tokenizer(models.BPE())
    # Qwen's way of cutting, because transformers gives it to any tokenizer that it loads beside a qwen2 config.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer.to_str()


def tiny_tokenizer(family: str = "qwen2") -> PreTrainedTokenizerFast:
    """A tokenizer that ends and pads as the family does; it adds no BOS, that is the template's to write."""
    gemma = family in ("gemma3_text", "gemma4_text")
    vocabulary = _vocabulary()
    if family == "gemma4_text":
        vocabulary = vocabulary.replace("<start_of_turn>", "<|turn>").replace("<end_of_turn>", "<turn|>")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(vocabulary),
        bos_token="<bos>" if gemma else None,
        eos_token="<eos>" if gemma else "<|im_end|>",
        pad_token="<pad>" if gemma else "<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def tiny_student(
    folder: Path, family: str, *, dtype: torch.dtype = torch.bfloat16, shard_size: str = "5GB", **shape: object
) -> Path:
    """A tiny model and tokenizer on the disk, as a Hub download would lie there."""
    tiny_model(family, dtype=dtype, **shape).save_pretrained(folder, max_shard_size=shard_size)
    tiny_tokenizer(family).save_pretrained(folder)
    return folder


def tiny_seer(
    folder: Path, family: str, *, dtype: torch.dtype = torch.bfloat16, chat_template: str | None = None, **text: object
) -> Path:
    """A tiny model with a vision part, and its tokenizer; `text` goes into the config of its text part."""
    shape = _OF_A_SEER[family]
    small = {"hidden_size": 32, "intermediate_size": 64, **shape["vision_config"]}
    parts = {**shape, "text_config": {**shape["text_config"], **text}, "vision_config": small}
    config = AutoConfig.for_model(family, tie_word_embeddings=True, **parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("norm.weight", "layer_scalar", "dt_bias")):
                values.data += 0.1 * torch.randn_like(values)
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer({"qwen3_5": "qwen2", "gemma4": "gemma4_text"}[family])
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return folder


def trained_run(folder: Path, *, max_tokens: int) -> None:
    """A run folder as training leaves it: a tiny random llama, and an adapter that is not nothing."""
    from plantune_lite.recipe.load import load_recipe, override, to_json
    from plantune_lite.student import presets
    from plantune_lite.student.load import load_student

    base = tiny_student(folder / "base", "llama", dtype=torch.float32, initializer_range=0.2)
    (base / "chat_template.jinja").write_text(presets.find("smollm2_135m").chat_template, encoding="utf-8")
    settings = [f"student.model={base}", "student.bits=32", f"evaluate.max_tokens={max_tokens}", "name=mine"]
    recipe = override(load_recipe("smollm2_135m"), settings)
    loaded = load_student(recipe.student, training=True)
    for name, values in loaded.model.named_parameters():
        if "lora_B" in name:
            values.data = 0.3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    loaded.save(folder / "sft")
    (folder / "recipe.json").write_text(to_json(recipe), encoding="utf-8")
    mark(folder, final="sft")
