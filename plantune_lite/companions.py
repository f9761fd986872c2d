"""The files beside the weights: what makes a folder of tensors a model that other programs load, and plan with.

What comes in: the folders of base and adapter. What goes out: config, generation config, tokenizer and chat template of
the merged model; or an adapter that names the public base, not the folder or the 4-bit copy it was trained on:

    publish_adapter(Path("runs/mine/sft"), Path("runs/mine/adapter"), repo="Qwen/Qwen3-4B-Instruct-2507", revision=None)
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from plantune_lite.adapters import CONFIG, WEIGHTS, AdapterError, read_config
from plantune_lite.presets import Preset
from plantune_lite.records import PlantuneError, write_whole
from plantune_lite.shards import FLOATS

_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json"),
)
_QUANTISED = re.compile(r"bnb|4bit|8bit|gptq|awq|gguf|fp8|int[48]", re.IGNORECASE)


def write_companions(base: Path, adapter: Path, out: Path, *, dtype: str, untied: bool, preset: Preset | None) -> None:
    """Write everything but the weights of a merged model."""
    config = _read(base / "config.json")
    for name in ("quantization_config", "_name_or_path"):  # the latter may be a folder of this machine
        config.pop(name, None)
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = FLOATS[dtype]
    if untied:
        config["tie_word_embeddings"] = False
    _write(out / "config.json", config)
    _copy_tokenizer(base, adapter, out)
    if preset is not None:
        _speak_as(preset, out)
    elif (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", out / "generation_config.json")


def publish_adapter(
    adapter: Path, out: Path, *, repo: str, revision: str | None, preset: Preset | None = None
) -> dict[str, Any]:
    """Write the adapter as it may be published: plain PEFT loads it, onto the public 16-bit base that it names."""
    config = read_config(adapter)
    if repo.count("/") != 1 or "\\" in repo or Path(repo).is_absolute() or repo.startswith((".", "~")):
        raise AdapterError(f"{repo!r} is no repository that others have: name the public base as OWNER/NAME")
    if _QUANTISED.search(repo):
        raise AdapterError(f"{repo!r} looks quantised: name the 16-bit original, which any program can load")
    out.mkdir(parents=True, exist_ok=True)
    config |= {"base_model_name_or_path": repo, "revision": revision, "inference_mode": True, "auto_mapping": None}
    config["task_type"] = config.get("task_type") or "CAUSAL_LM"
    # The weights first: a config without them would be taken for an adapter.
    part = out / f".{WEIGHTS}.part"
    shutil.copyfile(adapter / WEIGHTS, part)
    os.replace(part, out / WEIGHTS)
    _copy_tokenizer(adapter, adapter, out)
    if preset is not None:
        _speak_as(preset, out, generation=False)
    _write(out / CONFIG, config)
    return {"line": f"adapter of {repo}", "base": repo, "revision": revision, "bytes": (out / WEIGHTS).stat().st_size}


def _copy_tokenizer(base: Path, adapter: Path, out: Path) -> None:
    """The tokenizer's files, all from the adapter's folder or all from the base's."""
    source = adapter if (adapter / "tokenizer_config.json").is_file() else base
    for name in _TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    if (out / "tokenizer_config.json").is_file():
        config = _read(out / "tokenizer_config.json")
        # transformers 5 writes two things that no version 4 reads, and much that runs models still has 4.
        if config.get("tokenizer_class") == "TokenizersBackend":
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        if isinstance(config.get("extra_special_tokens"), list):
            config["additional_special_tokens"] = config.pop("extra_special_tokens")
        for name in ("name_or_path", "tokenizer_file"):  # where it lay on the machine that wrote it
            config.pop(name, None)
        _write(out / "tokenizer_config.json", config)


def _speak_as(preset: Preset, out: Path, *, generation: bool = True) -> None:
    """Have the folder speak as the student was trained to: its template and turn end, nothing of the base's own."""
    if not (out / "tokenizer_config.json").is_file():
        raise PlantuneError(f"{out} has no tokenizer to give the chat template to: base and adapter came without one")
    config = _read(out / "tokenizer_config.json")
    config |= {"chat_template": preset.chat_template, "eos_token": preset.turn_end, "pad_token": preset.pad}
    if preset.bos is not None:
        config["bos_token"] = preset.bos
    _write(out / "tokenizer_config.json", config)
    write_whole(out / "chat_template.jinja", preset.chat_template)  # the newer place; older programs know the other
    for older in ("chat_template.json", "special_tokens_map.json"):  # they would say again what was so before
        (out / older).unlink(missing_ok=True)
    if generation:
        ids = _ids(out, [preset.turn_end, *preset.stops, preset.pad, *filter(None, [preset.bos])])
        ends = [ids[token] for token in (preset.turn_end, *preset.stops)]
        known = {"do_sample": False, "eos_token_id": ends, "pad_token_id": ids[preset.pad]}
        if preset.bos is not None:
            known["bos_token_id"] = ids[preset.bos]
        _write(out / "generation_config.json", known)


def _ids(folder: Path, tokens: list[str]) -> dict[str, int]:
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    if missing := [token for token in tokens if token not in vocabulary]:
        raise PlantuneError(f"the tokenizer in {folder} has no {missing[0]!r}: it is not this preset's")
    return {token: vocabulary[token] for token in tokens}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlantuneError(f"{path} is missing: fetch the model again") from None
    except ValueError as error:
        raise PlantuneError(f"{path} is not JSON ({error}): fetch the model again") from None


def _write(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
