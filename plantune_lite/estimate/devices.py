"""Describe the device that a run will use: its data-sheet figures and its free memory.

    here()        -> Machine("Tesla T4", on="cuda", free=15_600_000_000, bf16=False, speed=Device("T4", 65, 320, ...))
    here(gpu=12)  -> Machine("a GPU of 12 GB such as the RTX 3060", on="cuda", free=11_811_160_064, ...)

Nothing here is measured: arithmetic is 16-bit with float32 accumulation, as in the data sheets.
"""

import os
import subprocess
from dataclasses import dataclass
from typing import Literal

from plantune_lite.student.attention import free_here

AS_OF = "2026-11"
_FREE_GIB = {8: 7.4, 12: 11.0, 16: 14.6, 24: 22.5}  # by a GPU's nominal gigabytes
_OF_A_SIZE = {8: "RTX 4060", 12: "RTX 3060", 16: "T4", 24: "L4"}  # a slow GPU of that size


@dataclass(frozen=True)
class Factors:
    """Factors that data sheets do not give, one number per mode."""

    training: float  # times the arithmetic alone
    layer: float  # seconds per layer and decoding step, on top of memory traffic
    vllm: float = 1.0  # times memory traffic alone


CUDA = Factors(training=9.0, layer=0.0020, vllm=1.0)  # fitted: python -m benchmarks.estimate
CPU = Factors(training=3.0, layer=0.0007)  # SmolLM2 on two cores: 5.5 s a step of 2,800 tokens, 25 tokens a second


@dataclass(frozen=True)
class Device:
    """Data-sheet figures of a device."""

    name: str  # as the driver spells it, without the maker
    teraflops: float
    gigabytes_a_second: float  # memory traffic
    bf16: bool = True
    rows: int = 16  # replies generated at once
    factors: Factors = CUDA


DEVICES = (
    Device("T4", 65, 320, bf16=False),
    Device("L4", 121, 300),
    Device("A10G", 70, 600),
    Device("RTX 3060", 25, 360),
    Device("RTX 3090", 71, 936),
    Device("RTX 4060", 30, 272),
    Device("RTX 4070", 58, 504),
    Device("RTX 4090", 165, 1008),
    Device("A100", 312, 1555, rows=64),
    Device("H100", 989, 3350, rows=64),
    Device("H200", 989, 4800, rows=64),
)


@dataclass(frozen=True)
class Machine:
    """A device with its free memory."""

    name: str
    on: Literal["cuda", "cpu"]
    free: float  # bytes
    bf16: bool
    speed: Device | None  # None: unknown


def device(name: str) -> Device | None:
    """Find the device with this driver name."""
    return next((known for known in DEVICES if f" {known.name} " in f" {name.replace('-', ' ')} "), None)


def gpu_sold_as(gigabytes: float) -> Machine:
    """Describe a typical GPU of this nominal size."""
    usual = device(_OF_A_SIZE.get(round(gigabytes), ""))
    name = f"a GPU of {gigabytes:g} GB" + (f" such as the {usual.name}" if usual else "")
    free = _FREE_GIB.get(round(gigabytes), 0.91 * gigabytes) * 2**30
    return Machine(name, "cuda", free, usual.bf16 if usual else True, usual)


def processor(cores: int) -> Device:
    """Describe a CPU with this many cores."""
    return Device("CPU", 0.4 * cores, 10.0 * min(cores, 4), rows=4, factors=CPU)


def here(gpu: float | None = None) -> Machine:
    """Describe this machine's GPU, or one of `gpu` gigabytes; without either, the CPU."""
    if gpu is not None:
        return gpu_sold_as(gpu)
    cores = os.cpu_count() or 1
    try:
        import torch
    except ImportError:
        return Machine(f"{cores} cores", "cpu", free_here(), True, processor(cores))
    if torch.cuda.is_available():
        name, (free, _) = torch.cuda.get_device_name(), torch.cuda.mem_get_info()
        return Machine(name, "cuda", free, torch.cuda.get_device_capability()[0] >= 8, device(name))
    bf16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return Machine(f"{cores} cores", "cpu", free_here(), bf16, processor(cores))


def why_no_gpu() -> str | None:
    """Return why torch cannot use a GPU here, and what to do; None where it can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed: pip install 'plantune-lite[train]'"
    if torch.cuda.is_available():
        return None
    driver = next(iter(nvidia_smi("driver_version")), None)
    if driver is None:
        return f"torch {torch.__version__} sees none, and there is no NVIDIA driver (nvidia-smi does not run)"
    built = torch.version.cuda
    if built is None:
        return f"torch {torch.__version__} is a build for CPUs, and the driver is {driver}: install torch's CUDA build"
    return (
        f"torch {torch.__version__} is built for CUDA {built} and sees none, and the driver is {driver}: update it, or "
        "install a torch built for an older CUDA (the first line of nvidia-smi has the newest it supports)"
    )


def nvidia_smi(field: str) -> list[str]:
    """Query a field of each GPU from the driver; empty without a driver."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
