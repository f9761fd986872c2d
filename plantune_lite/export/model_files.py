"""Write the files next to the weights, so that other programs load a model that plans.

Input: the folders of base and adapter. Output: config, generation config, tokenizer and chat template of the merged
model; the tokenizer in a form that transformers 4 reads too.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from plantune_lite.export.safetensors_io import ExportError
from plantune_lite.student import text_part
from plantune_lite.student.chat import for_everybody, prepare, read_config, write_config
from plantune_lite.student.presets import Preset
from plantune_lite.terminal import size

_SPARE_BYTES = 64_000_000  # for the files next to the weights


def check_free_space(folder: Path, needed: int, what: str, say: Callable[[str], object]) -> None:
    """Report the disk space needed, and raise before writing anything where it is missing."""
    needed += _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    say(f"{what} needs {size(needed)} in {folder}, where {size(free)} are free")
    if free < needed:
        raise ExportError(
            f"{folder} has {size(free)} free and {what} needs {size(needed)}: free {size(needed - free)} there, or set "
            "fewer export.formats (the adapter alone can be pushed as it is)"
        )


def write_companions(base: Path, adapter: Path, out: Path, *, untied: bool, preset: Preset | None) -> None:
    """Write everything but the weights of a merged model."""
    config = text_part.text_json(read_config(base / "config.json"))
    for name in ("quantization_config", "_name_or_path"):  # the latter may be a folder on this machine
        config.pop(name, None)
    if untied:
        config["tie_word_embeddings"] = False
    write_config(out / "config.json", config)
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", out / "generation_config.json")
    source = adapter if (adapter / "tokenizer_config.json").is_file() else base
    if (source / "tokenizer_config.json").is_file():
        _write_tokenizer(source, out, preset)
    if (base / "tokenizer.model").is_file():
        # transformers 5 never saves it, and without it llama.cpp's converter takes Gemma's vocabulary for GPT-2's.
        shutil.copyfile(base / "tokenizer.model", out / "tokenizer.model")


def _write_tokenizer(source: Path, out: Path, preset: Preset | None) -> None:
    """Write the tokenizer with the template and turn end of training, not the base's own."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if preset is not None:
        prepare(tokenizer, preset)
        ends = tokenizer.convert_tokens_to_ids([preset.turn_end, *preset.stops])
        known = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
        GenerationConfig(do_sample=False, eos_token_id=ends, **known).save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)  # older programs read the template only from the config
    for_everybody(out, tokenizer)
