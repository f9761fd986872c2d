"""Measure memory and time of our merge, PEFT's own merge_and_unload, and a plain copy of the files.

    python -m benchmarks.merge --work FOLDER              # Qwen2.5-7B's shape: 15 GB, needs 46 GB free in FOLDER
    python -m benchmarks.merge --work FOLDER --layers 1   # 2.6 GB, two thirds of it embedding and output layer
    python -m benchmarks.merge --work FOLDER --write      # also writes the page

Random weights in bfloat16, in files of 4 GB as on the Hub, and an adapter of rank 32 on all seven projections. Each
side is a process of its own that starts with a cold page cache; its time includes the flush to disk (for the copy:
`cp --reflink=never` and `sync`). Memory is VmHWM, the process's peak resident size, maps included. Random rows of the
output are compared with base + scale x B x A in float64.
"""

import argparse
import json
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import machine, markdown, write
from plantune_lite.export.safetensors_io import tensors_in, tensors_of

SEED, RANK, ALPHA = 0, 32, 64
CONFIG = {  # Qwen2.5-7B-Instruct's
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
HEADROOM = 1.25  # times the model's size: the memory that merge_and_unload needs


def main() -> None:
    """Make the model, run the sides in turn, check, and write the page."""
    arguments = parsed()
    if arguments.child:
        return child(arguments)
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    base, adapter = work / "base", work / "adapter"
    try:
        make_base(base, arguments.layers)
        make_adapter(adapter, base, arguments.layers)
        total = sum(file.stat().st_size for file in base.glob("*.safetensors"))
        results = {"bytes": total, "layers": arguments.layers, "rounds": measure(work, arguments)}
        results["peft"] = peft(work, total)
        report(results, arguments)
    finally:
        for folder in (base, adapter, work / "copy", work / "merged", work / "peft"):
            shutil.rmtree(folder, ignore_errors=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder on the disk to measure")
    parser.add_argument("--layers", type=int, default=28, help="28: the real model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write benchmarks/merge.json and .md")
    parser.add_argument("--child", choices=("ours", "peft"), help=argparse.SUPPRESS)
    return parser.parse_args()


# --- the model --------------------------------------------------------------------------------------------------------


def shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every tensor of the model."""
    hidden = CONFIG["hidden_size"]
    yield "model.embed_tokens.weight", (CONFIG["vocab_size"], hidden)
    for layer in range(layers):
        for name, shape in projections(layer):
            yield f"{name}.weight", shape
        for part, width in (("q", hidden), ("k", 512), ("v", 512)):
            yield f"model.layers.{layer}.self_attn.{part}_proj.bias", (width,)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (CONFIG["vocab_size"], hidden)


def projections(layer: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the layers that the adapter changes, with their outputs and inputs."""
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    for name, outputs in (("q", hidden), ("k", 512), ("v", 512), ("o", hidden)):
        yield f"model.layers.{layer}.self_attn.{name}_proj", (outputs, hidden)
    for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
        yield f"model.layers.{layer}.mlp.{name}_proj", shape


def make_base(folder: Path, layers: int) -> None:
    """Write random weights, pieces of one draw cut at random: drawing all 7.6 billion would take minutes."""
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    generator = torch.Generator().manual_seed(SEED)
    drawn = (0.02 * torch.randn(1 << 26, generator=generator)).bfloat16()
    cut = random.Random(SEED)

    def numbers(shape: tuple[int, ...]) -> torch.Tensor:
        left, pieces = math.prod(shape), []
        while left:
            start = cut.randrange(len(drawn) // 2)
            pieces.append(drawn[start : start + left])
            left -= len(pieces[-1])
        return torch.cat(pieces).reshape(shape)

    planned = {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes(layers)}
    split = split_torch_state_dict_into_shards(planned, max_shard_size=4_000_000_000)
    for file, names in split.filename_to_tensors.items():
        save_file({name: numbers(planned[name].shape) for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def make_adapter(folder: Path, base: Path, layers: int) -> None:
    """Write a float32 adapter, as training does."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED + 1)
    tensors = {}
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for layer in range(layers):
        for name, (outputs, inputs) in projections(layer):
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = 0.02 * torch.randn(RANK, inputs, generator=generator)
            tensors[f"{prefix}.lora_B.weight"] = 0.02 * torch.randn(outputs, RANK, generator=generator)
    LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names, task_type="CAUSAL_LM").save_pretrained(folder)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


# --- the sides --------------------------------------------------------------------------------------------------------


def measure(work: Path, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Alternate copies and merges, so that other load on the machine affects both."""
    rounds = []
    for number in range(arguments.rounds):
        copied = timed(work, ["sh", "-c", f"cp -r --reflink=never '{work}/base' '{work}/copy' && sync"])
        shutil.rmtree(work / "copy")
        ours = timed(work, itself("ours", work))
        if number == 0:
            check(work, arguments.layers)
        shutil.rmtree(work / "merged")
        rounds.append({"copy": copied, "ours": ours, "load": os.getloadavg()[0]})
        print(f"round {number + 1}: {json.dumps(rounds[-1])}", flush=True)
    return rounds


def peft(work: Path, total: int) -> dict[str, float] | None:
    """Run PEFT's own merge once, if the model fits into memory."""
    available = 1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    if available < HEADROOM * total:
        print(f"merge_and_unload skipped: needs {HEADROOM * total / 1e9:.1f} GB, {available / 1e9:.1f} available")
        return None
    return timed(work, itself("peft", work))


def itself(child: str, work: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.merge", "--work", str(work), "--child", child]


def timed(work: Path, command: list[str]) -> dict[str, float]:
    """Run a command with a cold page cache; return its seconds, its CPU seconds and the figures it prints."""
    forget(work)
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    printed = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    return {"seconds": round(seconds, 2), "processor": round(processor, 2), **printed}


def forget(work: Path) -> None:
    """Flush to disk and drop the page cache: of all files as root, else of ours."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        for file in work.rglob("*.safetensors"):
            with open(file, "rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def child(arguments: argparse.Namespace) -> None:
    """Run one side; print its peak memory and its seconds without Python's start and imports."""
    base, adapter, work = arguments.work / "base", arguments.work / "adapter", arguments.work
    if arguments.child == "ours":
        import peft  # noqa: F401 - a stage has already imported it
        import torch

        from plantune_lite.export.merge import merge_adapter

        began = time.perf_counter()
        merge_adapter(adapter, base, work / "merged")
    else:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        began = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(work / "peft")
    os.sync()
    seconds = round(time.perf_counter() - began, 2)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(json.dumps({"alone": seconds, "peak": peak}))


def check(work: Path, layers: int) -> None:
    """Compare a row of every layer with base + scale x B x A, up to a rounding step of bfloat16 and of float32."""
    before, after = tensors_in(work / "base"), tensors_in(work / "merged")
    lora = {tensor.name: tensor for tensor in tensors_of(work / "adapter" / "adapter_model.safetensors")}
    assert before.keys() == after.keys()
    draw = random.Random(SEED)
    for layer in range(layers):
        for name, (outputs, _) in projections(layer):
            row = draw.randrange(outputs)
            pair = [tensors[f"{name}.weight"].read()[row].double() for tensors in (before, after)]
            down, up = (lora[f"base_model.model.{name}.lora_{part}.weight"].read().double() for part in "AB")
            wanted = pair[0] + ALPHA / RANK * (up[row] @ down)
            apart = (pair[1] - wanted).abs() - 2**-8 * wanted.abs()
            assert apart.max().item() < 1e-7, f"{name} row {row}: {apart.max().item()}"


# --- the report -------------------------------------------------------------------------------------------------------


def report(results: dict, arguments: argparse.Namespace) -> None:
    """Print the table; write the page only with --write, so that a trial does not replace the real figures."""
    rounds = results["rounds"]
    ratios = sorted(row["ours"]["seconds"] / row["copy"]["seconds"] for row in rounds)
    ratio = statistics.median(ratios)
    peak = max(row["ours"]["peak"] for row in rounds)
    results |= {"ratio": round(ratio, 3), "peak": peak, "machine": machine("torch", "peft", "transformers")}
    rows = [
        ("merge, whole process", *spreads(rounds, "ours"), f"{peak / 1e9:.2f} GB"),
        ("merge, without start and imports", spread([row["ours"]["alone"] for row in rounds]), "", ""),
        ("`cp --reflink=never` and `sync`", *spreads(rounds, "copy"), ""),
        ("merge_and_unload", "does not fit into this machine's memory", "", ""),
    ]
    if row := results["peft"]:
        rows[-1] = ("merge_and_unload", f"{row['seconds']} s", f"{row['processor']} s", f"{row['peak'] / 1e9:.2f} GB")
    columns = ("what", f"time (median of {len(rounds)}, range)", "CPU time", "peak memory")
    spread_of_ratio = f"{ratio:.2f} times the copy's time ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    text = f"{markdown(columns, rows)}\n\nThe merge takes {spread_of_ratio}."
    about = (
        f"A model of Qwen2.5-7B's shape with {results['layers']} of its 28 layers and random weights, "
        f"{results['bytes'] / 1e9:.1f} GB in bfloat16, and an adapter of rank 32 on all seven projections. Cold page "
        "cache, output flushed to disk, each side in its own process."
    )
    if not arguments.write:
        print(f"{about}\n\n{text}")
        return
    command = f"python -m benchmarks.merge --work FOLDER --layers {results['layers']} --rounds {len(rounds)} --write"
    write("merge", command=command, about=about, found=results, text=text)


def spreads(rounds: list[dict], side: str) -> tuple[str, str]:
    """Format the wall-clock and CPU seconds of a side."""
    return tuple(spread([row[side][key] for row in rounds]) for key in ("seconds", "processor"))


def spread(values: list[float]) -> str:
    """Format median and range."""
    return f"{statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
