"""llama.cpp's own tools: its Python converter, found here or fetched once, and its quantiser, where one was built.

    convert(Path("runs/mine/merged"), Path("mine-BF16.gguf"), "bf16", name="mine", say=print)
    quantise(Path("mine-BF16.gguf"), Path("mine-Q4_K_M.gguf"), "q4_k_m")

What comes in: a model's folder or a GGUF file. What goes out: a GGUF file. The converter needs no compiler; it is not
on the package index by itself but in llama-cpp-python's source distribution, which the user's own pip brings. Converter
and quantiser each run in a process of their own and are never imported.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from plantune_lite import files
from plantune_lite.types import PlantuneError

VERSION = "0.3.36"  # of llama-cpp-python, 2026-11; its converter is run, so its content is pinned too
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
SCRIPT = "convert_hf_to_gguf.py"

_NEEDED = (SCRIPT, "LICENSE", "conversion/", "gguf-py/gguf/", "gguf-py/LICENSE")


class GGUFError(PlantuneError, RuntimeError):
    """A GGUF file that cannot be made here, or that is not the model it was made from."""


# --- the tools, used --------------------------------------------------------------------------------------------------


def convert(model: Path, target: Path, kind: str, *, name: str, say: Callable[[str], object]) -> None:
    """Write a model's folder as a GGUF file of f32, f16, bf16 or q8_0."""
    folder = scripts(say)
    # The files that are read are here: a converter that looks for others on a hub is mistaken.
    alone = {"PYTHONPATH": str(folder / "gguf-py"), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    words = [sys.executable, folder / SCRIPT, model, "--outfile", target, "--outtype", kind, "--model-name", name]
    _run(words, f"llama.cpp's {SCRIPT} failed", alone)


def quantise(source: Path, target: Path, kind: str) -> None:
    """Write a 16-bit GGUF file as a k-quant."""
    binary = quantiser()
    if binary is None and not runs_llama():
        raise GGUFError(
            f"{kind} needs a built llama.cpp, and there is none: pip install 'plantune-lite[gguf]' builds it (a C++ "
            "compiler, a few minutes), or ask for q8_0 in export.formats, which needs none"
        )
    child = [sys.executable, "-m", "plantune_lite.export.llama_child", "quantise", source, target, kind]
    _run(child if runs_llama() else [binary, source, target, kind.upper()], f"llama.cpp could not make {kind}")


def runs_llama() -> bool:
    """Check that llama.cpp can be run here, as the llama-cpp-python package."""
    return importlib.util.find_spec("llama_cpp") is not None


def quantiser() -> Path | None:
    """Find the llama-quantize program, where there is one."""
    tool = "llama-quantize.exe" if os.name == "nt" else "llama-quantize"
    for folder in _places():
        for place in (folder / tool, folder / "build" / "bin" / tool):
            if place.is_file():
                return place
    on_path = shutil.which(tool)
    return Path(on_path) if on_path else None


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
        raise GGUFError(f"{failed}: {why}. The merged model is whole; export.formats=merged needs no GGUF.")


# --- the converter, found or fetched ----------------------------------------------------------------------------------


def scripts(say: Callable[[str], object]) -> Path:
    """Find the folder with llama.cpp's converter, or fetch it."""
    fetched = files.cache_folder().parent / f"llama.cpp-{VERSION}"
    for folder in (*_places(), fetched):
        if (folder / SCRIPT).is_file() and (folder / "gguf-py" / "gguf").is_dir():
            return folder.absolute()
    say(f"fetching llama.cpp's converter (source of llama-cpp-python {VERSION}, 77 MB; 2 MB are kept) to {fetched}")
    fetched.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=fetched.parent) as temporary:
        made = Path(temporary) / "made"
        with tarfile.open(_download(Path(temporary))) as tar:
            for member in tar:
                name = member.name.partition("/vendor/llama.cpp/")[2]
                if member.isfile() and name.startswith(_NEEDED):
                    tar.extract(member.replace(name=name, deep=False), made, filter="data")
        try:
            made.replace(fetched)
        except OSError:
            if not (fetched / SCRIPT).is_file():  # else another process was faster
                raise
    return fetched


def _places() -> list[Path]:
    """List where a llama.cpp of the user's own, or Unsloth's, would be."""
    unsloth = os.environ.get("UNSLOTH_LLAMA_CPP_PATH") or Path.home() / ".unsloth" / "llama.cpp"
    return [Path("llama.cpp"), Path(unsloth)]


def _download(folder: Path) -> Path:
    """Bring the source distribution by this Python's own pip, which compares its hash before it runs any of it."""
    pinned = folder / "requirements.txt"
    pinned.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    options = ["--no-deps", "--no-binary=llama-cpp-python", "--no-input", "--disable-pip-version-check", "--quiet"]
    _run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "--requirement", pinned],
        "pip could not bring llama.cpp's converter (`pip config list` says from where; a llama.cpp folder next to your "
        "runs, or where UNSLOTH_LLAMA_CPP_PATH says, does as well)",
        {"TMPDIR": str(folder)},
    )
    return next(folder.glob("*.tar.gz"))
