"""The card: a smaller one pretended on a larger one, what a process took of it, and what is written down about it.

smaller(14.6, turing=True)     before unsloth is imported: no more can be allocated, and there is no bf16
taken() -> {"allocated_gib": 6.1, "reserved_gib": 6.4, "outside_gib": 0.52}

Unsloth sizes its chunks by the memory that is free, so whoever asks is told the smaller card's. A T4 is its dtypes and
its way through Unsloth, not its kernels: those are the larger card's, and so its seconds say nothing.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.report import machine, write
from plantune_lite.estimate.memory import CUDA_BYTES

GIB = 2**30
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth", "unsloth_zoo")


def smaller(gib: float, *, turing: bool = False, outside: float = CUDA_BYTES / GIB) -> None:
    """Let this process have no more than so many GiB, of which `outside` are for what torch does not allocate."""
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # as Unsloth does, which now comes too late
    import torch

    if not torch.cuda.is_available():
        return
    room = round((gib - outside) * GIB)
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    torch.cuda.mem_get_info = lambda device=None: (max(0, room - torch.cuda.memory_reserved()), round(gib * GIB))
    # Unsloth would take the fraction once more, of the small card's memory, and find nothing free.
    torch.cuda.get_per_process_memory_fraction = lambda device=None: 1.0
    # What Unsloth's losses do on cards of up to 24 GB; it asks the card itself, which would tell its true size.
    os.environ["UNSLOTH_FUSED_LINEAR_FLASH_MIN_ROWS"] = "0"
    if turing:
        _turing()


def _turing() -> None:
    import torch
    import triton
    from torch._dynamo.device_interface import CudaInterface

    # What is compiled is for the card that is here: Triton keeps the way to ask that it finds on its first use, and
    # Inductor asks on each.
    triton.runtime.driver.active.get_current_target()
    major, minor = torch.cuda.get_device_capability()
    CudaInterface.get_compute_capability = staticmethod(lambda device=None: 10 * major + minor)
    torch.cuda.get_device_capability = lambda device=None: (7, 5)
    torch.cuda.is_bf16_supported = lambda including_emulation=True: False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def loaded() -> float:
    """What loading took at most, in GiB; from here on training is counted alone."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    most = torch.cuda.max_memory_allocated() / GIB
    torch.cuda.reset_peak_memory_stats()
    return round(most, 3)


def taken() -> dict[str, float | None]:
    """The most that this process had of the card since it had loaded its student."""
    import torch

    if not torch.cuda.is_available():
        return {"allocated_gib": 0.0, "reserved_gib": 0.0, "outside_gib": None}
    outside = _outside()
    return {
        "allocated_gib": round(torch.cuda.max_memory_allocated() / GIB, 3),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3),
        "outside_gib": None if outside is None else round(outside / GIB, 3),
    }


def _outside() -> int | None:
    """Bytes that this process has of the card and torch did not allocate: the context, kernels; None: nobody says."""
    import torch

    if find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        used = {one.pid: one.usedGpuMemory for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    except pynvml.NVMLError:
        return None
    mine = used.get(os.getpid())
    return max(0, mine - torch.cuda.memory_reserved()) if mine else None


# --- what is written down ---------------------------------------------------------------------------------------------


def noted(work: Path) -> None:
    """Keep in the work folder which machine measures, and what `plantune doctor` says of it."""
    file = work / "machine.json"
    if not file.is_file():
        work.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"machine": _machine(), "doctor": _doctor()}, indent=1) + "\n", encoding="utf-8")


def _machine() -> dict[str, Any]:
    import torch

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"card": card, **machine(*PACKAGES)}


def _doctor() -> list[dict[str, str]]:
    """Its report without this machine's paths."""
    from importlib.metadata import PackageNotFoundError

    from plantune_lite.cli import doctor
    from plantune_lite.recipe.load import load_recipe

    try:
        found = list(doctor.examine(load_recipe("qwen3_4b_grpo")))
    except PackageNotFoundError:  # it reads the versions it wants from our package's own metadata
        return [{"name": "doctor", "state": "note", "found": "plantune-lite is not installed as a package", "fix": ""}]
    return [asdict(check) for check in found if "/" not in check.found]


def write_down(
    name: str, work: Path, *, tiny: bool, about: str, command: str, found: Mapping[str, Any], text: str
) -> None:
    """Write benchmarks/gpu/NAME.json and .md; in miniature only show them."""
    if tiny:
        print(text)
        return
    noted = json.loads((work / "machine.json").read_text(encoding="utf-8"))
    if noted["machine"]["card"] is None:
        raise SystemExit("no card has measured this: nothing is written down. --tiny tries it on a CPU.")
    write(f"gpu/{name}", command=command, about=about, found={**noted, **found}, text=text)
