"""Pretend a smaller GPU on a larger one, measure what a process takes of it, and write the pages.

smaller(14.6, turing=True)     before unsloth is imported: caps what can be allocated, and denies bf16
taken() -> {"allocated_gib": 6.1, "reserved_gib": 6.4, "outside_gib": 0.52}

Unsloth sizes its chunks by the free memory, so queries return the smaller GPU's. A T4 is its dtypes and its path
through Unsloth, not its kernels: those are the larger GPU's, so seconds mean nothing.
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
    """Cap this process at so many GiB, of which `outside` are for what torch does not allocate."""
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # as Unsloth does, imported too late
    import torch

    if not torch.cuda.is_available():
        return
    limit = round((gib - outside) * GIB)
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    torch.cuda.mem_get_info = lambda device=None: (max(0, limit - torch.cuda.memory_reserved()), round(gib * GIB))
    # Unsloth would apply the fraction again, to the small GPU's memory, and find nothing free.
    torch.cuda.get_per_process_memory_fraction = lambda device=None: 1.0
    # As Unsloth's losses do on GPUs of up to 24 GB; it queries the driver, which reports the true size.
    os.environ["UNSLOTH_FUSED_LINEAR_FLASH_MIN_ROWS"] = "0"
    if turing:
        _turing()


def _turing() -> None:
    import torch
    import triton
    from torch._dynamo.device_interface import CudaInterface

    # Compile for the real GPU: Triton keeps the query that it finds on first use, Inductor queries each time.
    triton.runtime.driver.active.get_current_target()
    major, minor = torch.cuda.get_device_capability()
    CudaInterface.get_compute_capability = staticmethod(lambda device=None: 10 * major + minor)
    torch.cuda.get_device_capability = lambda device=None: (7, 5)
    torch.cuda.is_bf16_supported = lambda including_emulation=True: False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def loaded() -> float:
    """Return the peak of loading in GiB, and reset it so that training is counted alone."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    peak = torch.cuda.max_memory_allocated() / GIB
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 3)


def taken() -> dict[str, float | None]:
    """Return this process's peak of GPU memory since its student was loaded."""
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
    """Return the GPU bytes that torch did not allocate (context, kernels); None if the driver does not say."""
    import torch

    if find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        used = {process.pid: process.usedGpuMemory for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    except pynvml.NVMLError:
        return None
    own = used.get(os.getpid())
    return max(0, own - torch.cuda.memory_reserved()) if own else None


# --- the pages --------------------------------------------------------------------------------------------------------


def noted(work: Path) -> None:
    """Record the machine and `plantune doctor`'s report of it in the work folder."""
    file = work / "machine.json"
    if not file.is_file():
        work.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"machine": _machine(), "doctor": _doctor()}, indent=1) + "\n", encoding="utf-8")


def _machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"card": gpu, **machine(*PACKAGES)}


def _doctor() -> list[dict[str, str]]:
    """Return doctor's report without this machine's paths."""
    from importlib.metadata import PackageNotFoundError

    from plantune_lite.cli import doctor
    from plantune_lite.recipe.load import load_recipe

    try:
        checks = list(doctor.examine(load_recipe("qwen3_4b_grpo")))
    except PackageNotFoundError:  # doctor reads the versions it wants from our package's metadata
        return [{"name": "doctor", "state": "note", "found": "plantune-lite is not installed as a package", "fix": ""}]
    return [asdict(check) for check in checks if "/" not in check.found]


def write_down(
    name: str, work: Path, *, tiny: bool, about: str, command: str, found: Mapping[str, Any], text: str
) -> None:
    """Write benchmarks/gpu/NAME.json and .md; in miniature only print the page."""
    if tiny:
        print(text)
        return
    record = json.loads((work / "machine.json").read_text(encoding="utf-8"))
    if record["machine"]["card"] is None:
        raise SystemExit("no GPU has measured this: no page is written. Try it on a CPU with --tiny.")
    write(f"gpu/{name}", command=command, about=about, found={**record, **found}, text=text)
