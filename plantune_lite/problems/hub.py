"""Load the rows of a benchmark from a local folder or from the Hugging Face Hub, or any data set from there.

    load_rows("gsm8k", "test") -> [("openai/gsm8k (socratic) test row 0", "gsm8k/test/0", {...}), ...], origin
    load_table("hf:openai/gsm8k/main", "train") -> Table of its columns, origin

No revision is hard-coded: the newest commit on the Hub is loaded and recorded in `origin`; pass it back to get the same
rows again. A folder in $PLANTUNE_DATA with NAME_SPLIT.jsonl (or NAME.jsonl, for a benchmark with a test split only)
takes precedence over the Hub; its rows use our own field names.
"""

import os
import re
from pathlib import Path
from typing import Any

from plantune_lite.files import as_path
from plantune_lite.problems import files
from plantune_lite.problems.benchmarks import BENCHMARKS, Benchmark
from plantune_lite.types import ProblemError, present

PLACE = "PLANTUNE_DATA"


Rows = tuple[list[files.Draft], dict[str, Any]]  # and their origin


def load_rows(name: str, split: str, *, revision: str | None = None) -> Rows:
    """Load the rows of a benchmark's train or test split, from $PLANTUNE_DATA or from the Hub."""
    benchmark = BENCHMARKS[name]
    if split == "train" and benchmark.train is None:
        raise ProblemError(
            f"{name} has only a test split, which is not trained on: put it in evaluate.suites and train on another "
            "problems.source"
        )
    if path := _local_file(name, split, benchmark):
        table = files.read_table(path)
        drafts: list[files.Draft] = [(row.where, f"{name}/{split}/{n}", row.cells) for n, row in enumerate(table.rows)]
        return drafts, {"file": str(path), "sha256": table.sha256}
    return _from_hub(name, split, benchmark, revision)


# --- a folder in $PLANTUNE_DATA ---------------------------------------------------------------------------------------


def _local_file(name: str, split: str, benchmark: Benchmark) -> Path | None:
    """Find the local file of a split; StrategyQA's labelled test is called dev in its release."""
    if not (place := os.environ.get(PLACE)):
        return None
    folder = as_path(place)
    if not folder.is_dir():
        raise ProblemError(
            f"{PLACE} is {place!r}, which is not a folder: set it to one with files like gsm8k_train.jsonl, or unset it"
        )
    whole = folder / f"{name}.jsonl"
    if benchmark.train is not None and whole.is_file():
        raise ProblemError(f"{whole} does not say which split it is: rename it {name}_train.jsonl or {name}_test.jsonl")
    names = [f"{name}_train"] if split == "train" else [f"{name}_test", f"{name}_dev", f"{name}_validation", name]
    return next((path for path in (folder / f"{stem}.jsonl" for stem in names) if path.is_file()), None)


# --- the Hub ----------------------------------------------------------------------------------------------------------


def _from_hub(name: str, split: str, benchmark: Benchmark, revision: str | None) -> Rows:
    hub_split = present(benchmark.train) if split == "train" else benchmark.test
    instead = f"put {name}_SPLIT.jsonl in a folder and set {PLACE} to it"
    revision, parts = _parts(benchmark.hub, benchmark.configs, hub_split, revision, instead)
    drafts: list[files.Draft] = []
    for config, part in zip(benchmark.configs, parts, strict=True):
        place = f"{benchmark.hub}{f' ({config})' if config else ''} {hub_split}"
        stem = "/".join([name, *([present(config)] if len(benchmark.configs) > 1 else []), split])
        for number, row in enumerate(part):
            if benchmark.only and row["subject"] not in benchmark.only:
                continue
            try:
                cells = benchmark.fields(row)
            except KeyError as missing:
                raise ProblemError(
                    f"{place} on the Hub has no column {missing}; it has {', '.join(part.column_names)}. It differs "
                    f"from the data set this version knows: put a copy in {PLACE}"
                ) from None
            drafts.append((f"{place} row {number}", f"{stem}/{number}", cells))
    config = ", ".join(filter(None, benchmark.configs)) or None
    return drafts, {"id": benchmark.hub, "config": config, "split": hub_split, "revision": revision}


def place_of(name: str) -> tuple[str, str | None]:
    """Return id and config of a source: hf:OWNER/NAME, or hf:OWNER/NAME/CONFIG."""
    place = re.fullmatch(r"hf:([^/]+/[^/]+)(?:/(.+))?", name)
    if place is None:
        raise ProblemError(f"problems.source is {name!r}, but must be hf:OWNER/NAME, or hf:OWNER/NAME/CONFIG")
    return place[1], place[2]


def load_table(name: str, split: str, *, revision: str | None) -> tuple[files.Table, dict[str, Any]]:
    """Load a split of any data set on the Hub."""
    id, config = place_of(name)
    instead = "download it and set problems.path to a file of it"
    revision, (part,) = _parts(id, (config,), split, revision, instead)
    rows = tuple(files.Row(f"{id} {split} row {number}", number, cells) for number, cells in enumerate(part))
    origin = {"id": id, "config": config, "split": split, "revision": revision}
    return files.Table(Path(id), tuple(part.column_names), rows, sha256=""), origin


def _parts(
    id: str, configs: tuple[str | None, ...], split: str, revision: str | None, instead: str
) -> tuple[str, list[Any]]:
    """Load the configs of a split at one revision, the newest where none is given."""
    import datasets
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    refusals = (datasets.exceptions.DatasetsError, HfHubHTTPError, httpx.HTTPError, OSError, RuntimeError, ValueError)
    what = id
    try:
        revision = present(revision or HfApi().dataset_info(id, timeout=30).sha)
        what = f"{id} at revision {revision[:12]}"
        parts = [datasets.load_dataset(id, config, split=split, revision=revision) for config in configs]
        # Offline, datasets falls back to its cache, where the folder is named by the commit.
        if any(part.cache_files and revision not in part.cache_files[0]["filename"] for part in parts):
            raise ValueError(f"the cache has another revision than {revision[:12]}")
        return revision, parts
    except refusals as error:
        first = " ".join(str(error).strip().split("\n")[:2])  # the second names the available configs
        raise ProblemError(
            f"{what} could not be loaded from the Hub ({first}): try again when it can be reached; "
            "if it is gated or private, accept its terms on its page and set HF_TOKEN; "
            f"or {instead}"
        ) from None
