"""Run llama.cpp's own tools: its Python converter, fetched once, and its quantiser, where it is built.

    convert(Path("runs/mine/merged"), Path("mine-BF16.gguf"), "bf16", name="mine", say=print)
    quantise(Path("mine-BF16.gguf"), Path("mine-Q4_K_M.gguf"), "q4_k_m")

Input: a model's folder or a GGUF file. Output: a GGUF file. The converter needs no compiler; it is not on the package
index by itself but in llama-cpp-python's source distribution, which the user's pip downloads. Converter and quantiser
each run in a separate process and are never imported.
"""

import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from plantune_lite import files
from plantune_lite.student.chat import read_config
from plantune_lite.types import PlantuneError

VERSION = "0.3.36"  # of llama-cpp-python, 2026-11; its converter is run, so its content is pinned too
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
SCRIPT, LORA_SCRIPT = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"

_NEEDED = (SCRIPT, LORA_SCRIPT, "LICENSE", "conversion/", "gguf-py/gguf/", "gguf-py/LICENSE")


class GGUFError(PlantuneError, RuntimeError):
    """A GGUF file that cannot be made here, or that differs from the model it was made from."""


# --- using the tools --------------------------------------------------------------------------------------------------


def convert(model: Path, target: Path, kind: str, *, name: str, say: Callable[[str], object]) -> None:
    """Write a model's folder as a GGUF file of f32, f16, bf16 or q8_0."""
    family = read_config(model / "config.json")["model_type"]
    # Qwen3.5's text part has no multi-token prediction tensors, but the converter looks for them.
    plain = ["--no-mtp"] if family.startswith("qwen3_5") else []
    _run_script(SCRIPT, [model, "--outfile", target, "--outtype", kind, "--model-name", name, *plain], say)


def convert_lora(adapter: Path, base: Path, target: Path, *, say: Callable[[str], object]) -> None:
    """Write a LoRA adapter alone as a GGUF file, which llama.cpp adds to its base's."""
    _run_script(LORA_SCRIPT, [adapter, "--base", base, "--outfile", target, "--outtype", "f16"], say)


def quantise(source: Path, target: Path, kind: str) -> None:
    """Write a 16-bit GGUF file as a k-quant."""
    if not runs_llama():
        raise GGUFError(
            f"{kind} needs a built llama.cpp, and there is none: pip install 'plantune-lite[gguf]' builds it (a C++ "
            "compiler, a few minutes), or set q8_0 in export.formats, which needs none"
        )
    run_child("quantise", source, target, kind, failed=f"llama.cpp could not make {kind}")


def runs_llama() -> bool:
    """Return whether llama.cpp can be run here, as the llama-cpp-python package."""
    return importlib.util.find_spec("llama_cpp") is not None


def run_child(*words: object, failed: str) -> None:
    """Run llama.cpp in a separate process, by llama_child."""
    _run([sys.executable, "-m", "plantune_lite.export.llama_child", *words], failed)


def refuse_unknown(architecture: str) -> None:
    """Raise for a transformers class that the converter, where it is installed, cannot write as GGUF."""
    listed = _folder() / "conversion" / "__init__.py"
    if listed.is_file() and f'"{architecture}"' not in listed.read_text(encoding="utf-8"):
        raise GGUFError(
            f"export.formats has GGUF, but llama.cpp (of llama-cpp-python {VERSION}) does not support {architecture}: "
            "set export.formats=merged"
        )


def _run_script(script: str, arguments: Sequence[object], say: Callable[[str], object]) -> None:
    folder = scripts(say)
    # All files it needs are here: it must not look for others on the Hub.
    alone = {"PYTHONPATH": str(folder / "gguf-py"), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    _run([sys.executable, folder / script, *arguments], f"llama.cpp's {script} failed", alone)


def _run(command: Sequence[object], failed: str, environ: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1][-300:] if lines else f"it ended with {done.returncode}"
        raise GGUFError(f"{failed}: {why}. The merged model is complete; export.formats=merged needs no GGUF.")


# --- fetching the converter -------------------------------------------------------------------------------------------


def scripts(say: Callable[[str], object]) -> Path:
    """Return the folder with llama.cpp's converter, fetched once."""
    folder = _folder()
    if folder.is_dir():
        return folder
    say(f"fetching llama.cpp's converter (source of llama-cpp-python {VERSION}, 77 MB; 2 MB are kept) to {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as temporary:
        tools = Path(temporary) / "made"
        with tarfile.open(_download(Path(temporary))) as tar:
            for member in tar:
                name = member.name.partition("/vendor/llama.cpp/")[2]
                if member.isfile() and name.startswith(_NEEDED):
                    tar.extract(member.replace(name=name, deep=False), tools, filter="data")
        tools.replace(folder)
    return folder


def _folder() -> Path:
    return files.cache_folder().parent.absolute() / f"llama.cpp-{VERSION}"


def _download(folder: Path) -> Path:
    """Download the source distribution with this Python's pip, which checks its hash before running any of it."""
    pinned = folder / "requirements.txt"
    pinned.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    options = ["--no-deps", "--no-binary=llama-cpp-python", "--no-input", "--disable-pip-version-check", "--quiet"]
    _run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "--requirement", pinned],
        "pip could not download llama.cpp's converter (`pip config list` says from where)",
        {"TMPDIR": str(folder)},
    )
    return next(folder.glob("*.tar.gz"))
