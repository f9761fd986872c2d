"""The rows of a benchmark, from a folder of the user's or from the Hugging Face Hub.

    rows("gsm8k", "test") -> Rows([("openai/gsm8k (socratic) test row 0", "gsm8k/test/0", {...}), ...], origin)

No revision is written down: the Hub says which commit is the newest, that one is loaded and stands in `origin`, and who
passes it back gets the same rows again. A folder in $PLANTUNE_DATA with NAME_SPLIT.jsonl (or NAME.jsonl, for a
benchmark with a test split only) comes before the Hub; its rows have our own field names.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plantune_lite.problems import files
from plantune_lite.problems.benchmarks import BENCHMARKS, Benchmark
from plantune_lite.types import ProblemError

PLACE = "PLANTUNE_DATA"


@dataclass(frozen=True)
class Rows:
    """What a benchmark holds: (where it stands, default id, fields with our names), and where it came from."""

    rows: list[files.Draft]
    origin: dict[str, Any]


def rows(name: str, split: str, *, revision: str | None = None) -> Rows:
    """The rows of a benchmark's train or test split, from $PLANTUNE_DATA or from the Hub."""
    benchmark = BENCHMARKS[name]
    if split == "train" and benchmark.train is None:
        raise ProblemError(
            f"{name} has only a test split, and test sets are for evaluation: train on problems={benchmark.train_with} "
            f"and name {name} in evaluate.suites"
        )
    if path := _local_file(name, split, benchmark):
        return _from_file(name, split, benchmark, path)
    return _from_hub(name, split, benchmark, revision)


# --- a folder in $PLANTUNE_DATA ---------------------------------------------------------------------------------------


def _local_file(name: str, split: str, benchmark: Benchmark) -> Path | None:
    """The file that serves a split; StrategyQA's labelled test is called dev in its release."""
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
    found = [
        (row.where, f"{name}/{split}/{number}", benchmark.of_file(row.cells)) for number, row in enumerate(table.rows)
    ]
    return Rows(found, {"file": str(path), "sha256": table.sha256})


# --- the Hub ----------------------------------------------------------------------------------------------------------


def _from_hub(name: str, split: str, benchmark: Benchmark, revision: str | None) -> Rows:
    revision = revision or _newest(name, benchmark.hub)
    theirs = benchmark.train if split == "train" else benchmark.test
    for number, configs in enumerate(benchmark.configs, 1):
        try:
            parts = [(config, _part(name, benchmark.hub, config, theirs, revision)) for config in configs]
        except _NoSuchConfig:
            if number == len(benchmark.configs):
                raise
            continue
        break
    found = []
    for config, part in parts:
        renamed = _columns(benchmark, config, part.column_names)
        place = f"{benchmark.hub}{f' ({config})' if config else ''} {theirs}"
        stem = "/".join([name, *([config] if len(parts) > 1 else []), split])
        for number, row in enumerate(part):
            row = {renamed.get(column, column): value for column, value in row.items()}
            if benchmark.only and row["subject"] not in benchmark.only:
                continue
            cells = benchmark.fields(row) | ({benchmark.part: config} if benchmark.part else {})
            found.append((f"{place} row {number}", f"{stem}/{number}", cells))
    origin = {
        "id": benchmark.hub,
        "config": ", ".join(filter(None, configs)) or None,
        "split": theirs,
        "revision": revision,
    }
    return Rows(found, origin)


def _columns(benchmark: Benchmark, config: str | None, found: list[str]) -> dict[str, str]:
    """Their name -> ours, for the columns that go by two names."""
    renamed, missing = {}, []
    for names in benchmark.columns:
        present = [name for name in names.split("|") if name in found]
        if not present:
            missing.append(names.replace("|", " or "))
        elif present[0] != names.split("|")[0]:
            renamed[present[0]] = names.split("|")[0]
    if missing:
        raise ProblemError(
            f"{benchmark.hub}{f' ({config})' if config else ''} on the Hub has no column {', '.join(missing)}; it has "
            f"{', '.join(found)}. It is not the data set this version knows: put a copy in {PLACE}"
        )
    return renamed


class _NoSuchConfig(ProblemError):
    pass


def _newest(name: str, hub: str) -> str:
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().dataset_info(hub, timeout=30).sha
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise ProblemError(_sentence(name, hub, error)) from None


def _part(name: str, hub: str, config: str | None, split: str, revision: str) -> Any:
    import datasets
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    try:
        part = datasets.load_dataset(hub, config, split=split, revision=revision)
    except ValueError as error:
        if "BuilderConfig" in str(error):
            raise _NoSuchConfig(f"{hub} on the Hub has no config {config!r} at {revision[:12]}: {error}") from None
        raise ProblemError(f"{hub} on the Hub, split {split!r}: {error}") from None
    except (datasets.exceptions.DatasetsError, HfHubHTTPError, httpx.HTTPError, OSError, RuntimeError) as error:
        raise ProblemError(_sentence(name, hub, error, revision)) from None
    # Out of the Hub's reach, datasets takes whatever revision its cache has; its folder there is named by the commit.
    if part.cache_files and revision not in part.cache_files[0]["filename"]:
        error = OSError(f"the cache has another revision of it than {revision[:12]}")
        raise ProblemError(_sentence(name, hub, error, revision))
    return part


def _sentence(name: str, hub: str, error: BaseException, revision: str | None = None) -> str:
    """Why the Hub did not give a data set, and the ways on."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    causes = list(_causes(error))
    at_hand = f"or put {name}_SPLIT.jsonl in a folder and set {PLACE} to it"
    if any(isinstance(cause, GatedRepoError) for cause in causes) or "is a gated dataset" in str(error):
        return f"{hub} is gated on the Hub: accept its terms on its page and set HF_TOKEN, {at_hand}"
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return (
            f"{hub} on the Hub no longer has the revision {revision} of this run's start: begin another run, {at_hand}"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"the Hub has no data set {hub} that you may see: set HF_TOKEN if it is private, {at_hand}"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{hub} could not be had from the Hub ({first}): try again when it can be reached, {at_hand}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
