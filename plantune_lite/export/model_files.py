"""Write the files next to the weights: what makes a folder of tensors a model that other programs load and plan with.

Input: the folders of base and adapter. Output: config, generation config, tokenizer and chat template of the merged
model; the tokenizer in a form that programs with transformers 4 read too.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from plantune_lite.export.safetensors_io import ExportError
from plantune_lite.files import write_whole
from plantune_lite.student.chat import for_everybody, read_config, write_config
from plantune_lite.student.presets import Preset
from plantune_lite.terminal import size
from plantune_lite.types import PlantuneError

_SPARE_BYTES = 64_000_000  # for what stands beside the weights
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json"),
)


def check_free_space(folder: Path, needed: int, what: str, say: Callable[[str], object]) -> None:
    """Say what is needed on the disk, and stop before the first byte where it is not there."""
    needed += _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    say(f"{what} needs {size(needed)} in {folder}, where {size(free)} are free")
    if free < needed:
        raise ExportError(
            f"{folder} has {size(free)} free and {what} needs {size(needed)}: free {size(needed - free)} there, or ask "
            "for less in export.formats (the adapter alone can be pushed as it is)"
        )


def write_companions(base: Path, adapter: Path, out: Path, *, dtype: str, untied: bool, preset: Preset | None) -> None:
    """Write everything but the weights of a merged model."""
    config = read_config(base / "config.json")
    for name in ("quantization_config", "_name_or_path"):  # the latter may be a folder of this machine
        config.pop(name, None)
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    if untied:
        config["tie_word_embeddings"] = False
    write_config(out / "config.json", config)
    _copy_tokenizer(base, adapter, out)
    if preset is not None:
        _speak_as(preset, out)
    elif (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", out / "generation_config.json")


def _copy_tokenizer(base: Path, adapter: Path, out: Path) -> None:
    """Copy all tokenizer files from the adapter, else from the base; a missing tokenizer.model comes from the base."""
    source = adapter if (adapter / "tokenizer_config.json").is_file() else base
    for name in _TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    if not (out / "tokenizer.model").is_file() and (base / "tokenizer.model").is_file():
        # transformers 5 never saves it, and without it llama.cpp's converter takes Gemma's vocabulary for GPT-2's.
        shutil.copyfile(base / "tokenizer.model", out / "tokenizer.model")
    if (out / "tokenizer_config.json").is_file():
        for_everybody(out)


def _speak_as(preset: Preset, out: Path) -> None:
    """Have the folder speak as the student was trained to: its template and turn end, nothing of the base's own."""
    if not (out / "tokenizer_config.json").is_file():
        raise PlantuneError(f"{out} has no tokenizer to give the chat template to: base and adapter came without one")
    config = read_config(out / "tokenizer_config.json")
    config |= {"chat_template": preset.chat_template, "eos_token": preset.turn_end, "pad_token": preset.pad}
    if preset.bos is not None:
        config["bos_token"] = preset.bos
    write_config(out / "tokenizer_config.json", config)
    write_whole(out / "chat_template.jinja", preset.chat_template)  # the newer place; older programs know the other
    for older in ("chat_template.json", "special_tokens_map.json"):  # they would say again what was so before
        (out / older).unlink(missing_ok=True)
    ids = _ids(out, [preset.turn_end, *preset.stops, preset.pad, *filter(None, [preset.bos])])
    ends = [ids[token] for token in (preset.turn_end, *preset.stops)]
    known = {"do_sample": False, "eos_token_id": ends, "pad_token_id": ids[preset.pad]}
    if preset.bos is not None:
        known["bos_token_id"] = ids[preset.bos]
    write_config(out / "generation_config.json", known)


def _ids(folder: Path, tokens: list[str]) -> dict[str, int]:
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    if missing := [token for token in tokens if token not in vocabulary]:
        raise PlantuneError(f"the tokenizer in {folder} has no {missing[0]!r}: it is not this preset's")
    return {token: vocabulary[token] for token in tokens}
