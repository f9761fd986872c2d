"""Load the rows of a benchmark from a local folder or from the Hugging Face Hub.

    load_rows("gsm8k", "test") -> [("openai/gsm8k (socratic) test row 0", "gsm8k/test/0", {...}), ...], origin

No revision is hard-coded: the newest commit on the Hub is loaded and recorded in `origin`; pass it back to get the same
rows again. A folder in $PLANTUNE_DATA with NAME_SPLIT.jsonl (or NAME.jsonl, for a benchmark with a test split only)
takes precedence over the Hub; its rows use our own field names.
"""

import os
from pathlib import Path
from typing import Any

from plantune_lite.problems import files
from plantune_lite.problems.benchmarks import BENCHMARKS, Benchmark
from plantune_lite.types import ProblemError, present

PLACE = "PLANTUNE_DATA"


Rows = tuple[list[files.Draft], dict[str, Any]]  # and where they came from


def load_rows(name: str, split: str, *, revision: str | None = None) -> Rows:
    """Load the rows of a benchmark's train or test split, from $PLANTUNE_DATA or from the Hub."""
    benchmark = BENCHMARKS[name]
    if split == "train" and benchmark.train is None:
        raise ProblemError(
            f"{name} has only a test split, which is not trained on: name it in evaluate.suites and another in "
            "problems.source"
        )
    if path := _local_file(name, split, benchmark):
        return _from_file(name, split, benchmark, path)
    return _from_hub(name, split, benchmark, revision)


# --- a folder in $PLANTUNE_DATA ---------------------------------------------------------------------------------------


def _local_file(name: str, split: str, benchmark: Benchmark) -> Path | None:
    """Find the local file of a split; StrategyQA's labelled test is called dev in its release."""
    if not (place := os.environ.get(PLACE)):
        return None
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise ProblemError(
            f"{PLACE} is {place!r}, which is no folder; it holds files like gsm8k_train.jsonl, or is not set"
        )
    whole = folder / f"{name}.jsonl"
    if benchmark.train is not None and whole.is_file():
        raise ProblemError(f"{whole} does not say which split it is: rename it {name}_train.jsonl or {name}_test.jsonl")
    names = [f"{name}_train"] if split == "train" else [f"{name}_test", f"{name}_dev", f"{name}_validation", name]
    return next((path for path in (folder / f"{stem}.jsonl" for stem in names) if path.is_file()), None)


def _from_file(name: str, split: str, benchmark: Benchmark, path: Path) -> Rows:
    table = files.read_table(path)
    found: list[files.Draft] = [
        (row.where, f"{name}/{split}/{number}", benchmark.of_file(row.cells)) for number, row in enumerate(table.rows)
    ]
    return found, {"file": str(path), "sha256": table.sha256}


# --- the Hub ----------------------------------------------------------------------------------------------------------


def _from_hub(name: str, split: str, benchmark: Benchmark, revision: str | None) -> Rows:
    revision = revision or _newest(name, benchmark.hub)
    theirs = present(benchmark.train) if split == "train" else benchmark.test
    found: list[files.Draft] = []
    for config in benchmark.configs:
        part = _part(name, benchmark.hub, config, theirs, revision)
        place = f"{benchmark.hub}{f' ({config})' if config else ''} {theirs}"
        stem = "/".join([name, *([present(config)] if len(benchmark.configs) > 1 else []), split])
        for number, row in enumerate(part):
            if benchmark.only and row["subject"] not in benchmark.only:
                continue
            try:
                cells = benchmark.fields(row) | ({benchmark.part: config} if benchmark.part else {})
            except KeyError as missing:
                raise ProblemError(
                    f"{place} on the Hub has no column {missing}; it has {', '.join(part.column_names)}. It is not the "
                    f"data set this version knows: put a copy in {PLACE}"
                ) from None
            found.append((f"{place} row {number}", f"{stem}/{number}", cells))
    config = ", ".join(filter(None, benchmark.configs)) or None
    return found, {"id": benchmark.hub, "config": config, "split": theirs, "revision": revision}


def _newest(name: str, hub: str) -> str:
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().dataset_info(hub, timeout=30).sha
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise _unavailable(name, hub, str(error)) from None


def _part(name: str, hub: str, config: str | None, split: str, revision: str) -> Any:
    import datasets
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    refusals = (datasets.exceptions.DatasetsError, HfHubHTTPError, httpx.HTTPError, OSError, RuntimeError, ValueError)
    try:
        part = datasets.load_dataset(hub, config, split=split, revision=revision)
    except refusals as error:
        raise _unavailable(name, f"{hub} at revision {revision[:12]}", str(error)) from None
    # Out of the Hub's reach, datasets takes whatever revision its cache has; its folder there is named by the commit.
    if part.cache_files and revision not in part.cache_files[0]["filename"]:
        raise _unavailable(name, hub, f"the cache has another revision of it than {revision[:12]}")
    return part


def _unavailable(name: str, what: str, why: str) -> ProblemError:
    first, _, _ = why.strip().partition("\n")
    return ProblemError(
        f"{what} could not be had from the Hub ({first}): try again when it can be reached; "
        "if it is gated or private, accept its terms on its page and set HF_TOKEN; "
        f"or put {name}_SPLIT.jsonl in a folder and set {PLACE} to it"
    )
