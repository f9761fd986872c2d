"""Resolve a student's weights: turn a preset, a Hub id or a folder into a folder with a known commit.

    resolve_source(Student("gemma3_1b", bits=16), preset, "plain", None, print)
        -> Source(repo="google/gemma-3-1b-it", revision="dcc83ea8...", place="~/.cache/.../snapshots/dcc83ea8...")

A branch moves and a commit does not: a merge next month starts from the weights that the adapter was trained on.
Without a network, an earlier download is used, without waiting for retries.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plantune_lite.files import as_path
from plantune_lite.recipe.fields import nearest
from plantune_lite.recipe.schema import Student
from plantune_lite.student import presets, smollm2, text_part
from plantune_lite.student.chat import read_config
from plantune_lite.student.presets import Preset
from plantune_lite.student.text_part import StudentError

Backend = Literal["unsloth", "plain", "vllm"]

PATIENCE_SECONDS = 10  # with a Hub that does not answer
# Files of a repository: not the copies of its weights in subfolders or other formats.
_WANTED = {
    "allow_patterns": ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"],
    "ignore_patterns": ["*/*", "consolidated*"],
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Origin of the weights, and the base that an adapter trained on them refers to."""

    repo: str  # the public 16-bit original, or the user's own folder
    revision: str | None  # its commit; None: a folder, or the Hub could not be reached
    place: str  # what was loaded: a folder, or the name by which Unsloth finds its 4-bit copy
    backend: Backend

    @property
    def weights(self) -> str:
        """Identify the weights: by the commit or, for a folder, by a hash of its files' names, sizes and times."""
        if self.repo != self.place or not Path(self.place).is_dir():
            return self.revision or ""
        files = [(file.name, file.stat()) for file in sorted(Path(self.place).glob("*.safetensors"))]
        looks = [(name, about.st_size, about.st_mtime_ns) for name, about in files]
        return hashlib.sha256(repr(looks).encode()).hexdigest()[:12]


def resolve_source(
    part: Student, preset: Preset | None, backend: Backend, pinned: str | None, say: Callable[[str], object]
) -> Source:
    """Locate the recipe's student, downloading it if need be; `pinned` is the commit that an earlier stage resolved."""
    if preset is not None and preset.name == smollm2.PRESET:
        return Source(repo=preset.repo, revision=None, place=str(smollm2.folder(say=say)), backend=backend)
    folder = as_path(part.model)
    if folder.is_dir():
        _check_folder(part.model, folder)
        return Source(repo=str(folder.resolve()), revision=None, place=str(folder.resolve()), backend=backend)
    repo = _original(part.model, preset)
    revision = pinned or part.revision
    # Unsloth keeps 4-bit copies of the well-known models, a quarter of the download, under other names; a revision
    # that the user sets is one of the original's.
    if backend == "unsloth" and part.bits == 4 and part.revision is None and preset is not None:
        return Source(repo=repo, revision=_commit(repo, revision) or revision, place=repo, backend=backend)
    place = _folder(repo, revision, say)
    _check_folder(part.model, place)
    return Source(repo=repo, revision=place.name, place=str(place), backend=backend)


def _original(model: str, preset: Preset | None) -> str:
    """Return the repository of the 16-bit weights: a 16-bit copy's own (it may be ungated), a 4-bit copy's original."""
    if preset is None:
        if model.count("/") != 1:
            known = [p.name for p in presets.PRESETS]
            raise StudentError(
                f"student.model is {model!r}, which is not a preset, a folder or a Hub id{nearest(model, known)}"
            )
        return model
    return model if model in preset.aliases and "4bit" not in model else preset.repo


def check_access(part: Student, preset: Preset | None) -> str | None:
    """Raise for a model that the Hub refuses us, or that we cannot serve, before anything is spent.

    Unsloth's copies are ungated, a merge's base is not. Without a preset, return the model's class in transformers.
    """
    embedded = preset is not None and preset.name == smollm2.PRESET
    folder = as_path(part.model)
    if folder.is_dir():
        return _check_folder(part.model, folder)
    if embedded:
        return None
    repo = _original(part.model, preset)
    commit = _commit(repo, part.revision)
    if preset is not None or commit is None:
        return None
    from huggingface_hub import hf_hub_download

    return text_part.check(part.model, read_config(Path(hf_hub_download(repo, "config.json", revision=commit))))


def _check_folder(name: str, folder: Path) -> str | None:
    _refuse_unloadable(name, [path.name for path in folder.iterdir()])
    return text_part.check(name, read_config(folder / "config.json"))


def base_folder(source: Source, say: Callable[[str], object] = print) -> Path:
    """Return the folder of the 16-bit weights for a merge; download them if only a 4-bit copy was loaded."""
    place = Path(source.place)
    return place if place.is_dir() else _folder(source.repo, source.revision, say)


def _commit(repo: str, revision: str | None) -> str | None:
    """Resolve a branch, or none, to its commit, so that a merge next month starts from the same weights.

    None where the Hub cannot be reached.
    """
    import httpx
    from huggingface_hub import HfApi, constants, errors

    try:
        info = HfApi().model_info(repo, revision=revision, timeout=PATIENCE_SECONDS)
    except errors.HFValidationError as error:
        raise StudentError(f"student.model is {repo!r}, which is neither a folder here nor a Hub id: {error}") from None
    except errors.HfHubHTTPError as error:
        if error.response.status_code >= 500 or error.response.status_code == 429:
            return None
        raise StudentError(
            f"student.model is {repo!r} and student.revision {revision!r}, which the Hub does not show you: check "
            f"the spelling, and set HF_TOKEN where it is private ({short(error)})"
        ) from None
    except (httpx.HTTPError, OSError):  # including OfflineModeIsEnabled
        return None
    _refuse_unloadable(repo, [sibling.rfilename for sibling in info.siblings or ()])
    if info.gated and _is_closed(repo, info.sha):
        raise StudentError(
            f"{repo} is gated: accept its terms on {constants.ENDPOINT}/{repo} and set HF_TOKEN to a token of that "
            f"account, or use an ungated copy (Unsloth's: student.model=unsloth/{repo.partition('/')[2]})"
        )
    return info.sha


def _is_closed(repo: str, commit: str) -> bool:
    """Return whether a gated repository refuses us its files; it shows their names to everyone."""
    import httpx
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    with suppress(StudentError):
        return not _kept(repo, commit)
    try:
        get_hf_file_metadata(hf_hub_url(repo, "config.json", revision=commit), timeout=PATIENCE_SECONDS)
    except errors.GatedRepoError:
        return True
    except (httpx.HTTPError, OSError):  # the download will report it
        pass
    return False


def _refuse_unloadable(name: str, files: Iterable[str]) -> None:
    files = set(files)
    if "adapter_config.json" in files:
        raise StudentError(
            f"student.model is {name}, an adapter: set its base instead, and the adapter's folder as sft.start"
        )
    if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
        raise StudentError(
            f"student.model is {name}, which has no config.json or no safetensors files: nothing else is loaded"
        )


def _folder(repo: str, revision: str | None, say: Callable[[str], object]) -> Path:
    """Return a revision's folder: downloaded, or from the cache where it is complete or the Hub unreachable."""
    import httpx
    from huggingface_hub import errors, snapshot_download

    commit = _commit(repo, revision)
    if commit is None:
        return _kept(repo, revision)
    try:
        try:
            _kept(repo, commit)
        except StudentError:
            say(f"fetching {repo} from the Hub")
        # By branch: the cache records which commit that was, for when there is no network.
        return Path(snapshot_download(repo, revision=revision, **_WANTED))
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise StudentError(f"{repo} cannot be fetched: {short(error)}. Rerun the command to resume.") from error


def _kept(repo: str, revision: str | None) -> Path:
    """Return the folder of a revision that was downloaded before."""
    from huggingface_hub import errors, snapshot_download

    with suppress(errors.LocalEntryNotFoundError):
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, **_WANTED))
        if any(folder.glob("*.safetensors")):
            return folder
    raise StudentError(
        f"the Hub cannot be reached, and {repo} is not in the cache: go online once, or give student.model as a folder"
    )


def short(error: Exception) -> str:
    """Shorten an error to one line."""
    return " ".join(str(error).split())[:300].rstrip(".")
