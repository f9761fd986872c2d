"""Push a folder to the Hugging Face Hub: private first, uploaded, compared with its listing, then public.

    bring([Push(Path("runs/mine/merged"), "you/mine-merged", say=print)], public=True)
        -> [{"line": "you/mine-merged: 9 files, 270.1 MB, public", "url": ..., "commit": ..., "sent": 9, ...}]

Only files on an allow-list are pushed: weights as safetensors or GGUF, tokenizer, card, rows of a data set; never a
checkpoint (they contain pickles), a log or a text with a key in it. plantune.json is pushed too: it records the run and
the files of this push, so that the next one replaces those and nothing else.

create_commit is used rather than upload_folder, which makes several commits where hf_xet is installed: a public
repository would show a half-replaced model. The library retries uploads and listings; after any other failure rerunning
the command resumes, and neither hf_xet nor LFS sends again what the Hub has.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plantune_lite.terminal import printable, size
from plantune_lite.types import PlantuneError, present

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

Say = Callable[[str], None]
Kind = Literal["model", "dataset"]
Content = Path | bytes

MARKER = "plantune.json"  # in every repository that we filled

# --- what may be pushed -----------------------------------------------------------------------------------------------

_TEXTS = {".json", ".md", ".txt", ".jinja", ".jsonl", ".svg"}
_SUFFIXES = {
    "model": _TEXTS - {".jsonl"} | {".safetensors", ".gguf", ".model", ".png"},
    "dataset": _TEXTS - {".jinja"} | {".parquet", ".png"},
}
_BARE = {"LICENSE", "NOTICE", "Modelfile", "template", "system", "params"}  # the last four are Ollama's
_NEVER = {"manifest.json", "trainer_state.json", "log.txt", "metrics.jsonl", "rejected.jsonl"}
_NEVER |= {"base.json", "calibration.json"}  # of a training stage; the first has the base's path on this machine
_NEVER |= {"section.json", "loss.svg", "preference.svg", "taught.json"}  # for the report
_NEVER_BELOW = re.compile(r"checkpoint-.*|\..*|round\d+")  # the last are CPL's intermediate adapters
_KEYS = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|\bAIza[\w-]{35}|\bsk-(?:proj-|or-v1-)?[A-Za-z0-9]{32,}")
_SECRET = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")  # endings of variables with secret values


def refuse_name(repo: str) -> None:
    """Raise for a name that the Hub would not accept."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        if repo.count("/") != 1:
            raise HFValidationError("a user and a name")
        validate_repo_id(repo)
    except HFValidationError as error:
        raise PlantuneError(f"{printable(repo)!r} is not a name on the Hub: write USER/NAME ({error})") from None


def gather(folder: Path, kind: Kind) -> tuple[dict[str, Path], list[str]]:
    """List the files of a folder that may be pushed, by their path in the repository; and those left out."""
    chosen, left_out = {}, []
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        inside = file.relative_to(folder)
        fits = file.suffix in _SUFFIXES[kind] or kind == "model" and file.name in _BARE
        held_back = file.name in _NEVER or any(map(_NEVER_BELOW.fullmatch, inside.parts))
        if fits and not held_back and not file.is_symlink() and file.stat().st_size:  # the Hub rejects empty ones
            chosen[inside.as_posix()] = file
        else:
            left_out.append(inside.as_posix())
    return chosen, left_out


def refuse_keys(files: "Sequence[CommitOperationAdd]", token: str | None) -> None:
    """Raise before a key is published: one from this machine, or anything that looks like one."""
    secrets = {value for name, value in os.environ.items() if name.endswith(_SECRET) and len(value) >= 16}
    known = [re.escape(secret.encode()) for secret in secrets | ({token} if token else set())]
    pattern = re.compile(b"|".join([_KEYS.pattern, *known]))
    for add in files:
        path = Path(add.path_in_repo)
        if path.suffix not in _TEXTS and path.name not in _BARE:
            continue
        with add.as_file() as lines:
            for number, line in enumerate(lines, 1):
                if pattern.search(line):
                    raise PlantuneError(
                        f"{path} line {number} holds a key or what looks like one, so nothing was pushed. "
                        "Remove it (and revoke the key if it may have leaked)."
                    )


def _marker(files: "Sequence[CommitOperationAdd]", about: Mapping[str, str]) -> bytes:
    """Record what we push, without a time: the same push twice has the same file."""
    brought = [add.path_in_repo for add in files]
    content = {"made_by": "plantune-lite", "version": version("plantune-lite"), **about, "files": brought}
    return (json.dumps(content, indent=1) + "\n").encode()


# --- a push -----------------------------------------------------------------------------------------------------------


def bring(pushes: "Sequence[Push]", public: bool) -> list[dict[str, Any]]:
    """Upload all of them before making any public, so that no page links to one that failed."""
    if any(push.dry_run for push in pushes):
        return [push.write_out() for push in pushes]
    done = []
    for push in pushes:
        with _in_a_sentence(push.repo):
            done.append(push.send(public))
    for push in pushes if public else ():
        with _in_a_sentence(push.repo):
            push.make_public()
    return done


@contextmanager
def _in_a_sentence(repo: str) -> Iterator[None]:
    """Turn an error of the Hub or the network into a PlantuneError with its message, without the token."""
    import httpx
    from huggingface_hub import get_token

    try:
        yield
    except PlantuneError:
        raise
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        wraps = type(error) is RuntimeError  # the library wraps errors of large files
        cause = (error.__cause__ if wraps else None) or error
        reason = getattr(cause, "server_message", None) or str(cause) or type(cause).__name__
        if token := get_token():
            reason = reason.replace(token, "***")
        reason = printable(" ".join(reason.split()), limit=300).rstrip(".")
        raise PlantuneError(
            f"the push to {repo} failed: {reason}. The repository has all of this push or none of it; once that is "
            "fixed, rerun the command: it sends only what the Hub lacks."
        ) from None


@dataclass
class Push:
    """A push of a folder to one repository; raises at once for everything that can be checked without the Hub."""

    folder: Path
    repo: str
    kind: Kind = "model"
    dry_run: Path | None = None
    also: Mapping[str, Content] = field(default_factory=dict)  # adds or replaces files
    about: Mapping[str, str] = field(default_factory=dict)  # goes into plantune.json (run, what)
    say: Say = lambda line: None
    files: "list[CommitOperationAdd]" = field(init=False)
    left_out: list[str] = field(init=False)

    def __post_init__(self) -> None:
        from huggingface_hub import CommitOperationAdd, get_token

        refuse_name(self.repo)
        chosen, self.left_out = gather(self.folder, self.kind)
        contents = {path: content for path, content in sorted({**chosen, **self.also}.items()) if path != MARKER}
        if not contents:
            raise PlantuneError(f"{self.folder} has nothing that may be pushed as a {self.kind}: check its files")
        self.files = [CommitOperationAdd(path, content) for path, content in contents.items()]
        refuse_keys(self.files, get_token())
        if get_token() is None and self.dry_run is None:
            raise PlantuneError(
                "no token for the Hugging Face Hub: make one with write access (on the Hub: Settings, Access "
                "Tokens), then set HF_TOKEN or run `hf auth login`. --dry-run DIR needs none."
            )
        if self.left_out:
            self.say(f"{len(self.left_out)} files are not pushed: {', '.join(self.left_out[:8])}")
        self.files.append(CommitOperationAdd(MARKER, _marker(self.files, self.about)))  # reads and hashes all of them

    @cached_property
    def api(self) -> "HfApi":
        from huggingface_hub import HfApi

        return HfApi(library_name="plantune-lite", library_version=version("plantune-lite"))

    def write_out(self) -> dict[str, Any]:
        """Write exactly what would be pushed, as copies, so that changing them does not change the run."""
        to = present(self.dry_run)
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise PlantuneError(f"{to} is not empty and is not overwritten: give --dry-run a new folder")
        for add in self.files:
            target = to / add.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            with add.as_file() as source, open(target, "wb") as copy:
                shutil.copyfileobj(source, copy)
        return self._summary(f"not pushed: it is in {to}", dry_run=str(to))

    def send(self, public: bool) -> dict[str, Any]:
        """Send what the Hub does not list, remove an earlier push's stale files, in one commit; check the listing."""
        from huggingface_hub import CommitOperationDelete

        if not self.api.repo_exists(self.repo, repo_type=self.kind):
            self.api.create_repo(self.repo, repo_type=self.kind, private=True)
        info = self._info()
        listed, commit = self._listed(info.sha), info.sha
        filled = bool(listed.keys() - {".gitattributes"})
        earlier = self._brought_earlier(listed, commit) if filled else set()
        if filled and not info.private and not public:
            raise PlantuneError(
                f"{self.repo} is public, but a push without --public stays private: give --public to replace its "
                "files, make it private in its settings, or choose another name"
            )
        if not filled and not info.private:
            self.api.update_repo_settings(self.repo, repo_type=self.kind, private=True)
        wanted = [add for add in self.files if not _is_listed(add, listed)]
        stale = sorted((earlier & listed.keys()) - {add.path_in_repo for add in self.files})
        if wanted or stale:
            self.say(f"{len(wanted)} of {len(self.files)} files to send, {size(_bytes(wanted))}")
            commit = self.api.create_commit(
                self.repo,
                [*wanted, *(CommitOperationDelete(path) for path in stale)],
                commit_message="Pushed by plantune-lite",
                repo_type=self.kind,
                parent_commit=commit,  # refused where somebody else has changed it meanwhile
            ).oid
            listed = self._listed(commit)
            if wrong := [add.path_in_repo for add in self.files if not _is_listed(add, listed)]:
                raise PlantuneError(
                    f"the Hub does not list what was sent as {', '.join(wrong[:3])}. This push did not make it public: "
                    "push again."
                )
        else:
            self.say("the Hub has all of it already")
        url = f"{self.api.endpoint}/{'' if self.kind == 'model' else 'datasets/'}{self.repo}"
        did = {"url": url, "commit": commit, "public": public, "sent": len(wanted), "removed": stale}
        return self._summary(f"{'public' if public else 'private'}: {url}", **did)

    def make_public(self) -> None:
        """Make a private repository public."""
        if self._info().private:
            self.api.update_repo_settings(self.repo, repo_type=self.kind, private=False)
            self.say(f"{self.repo}: the Hub's listing matches; made public")

    def _info(self) -> Any:
        return self.api.repo_info(self.repo, repo_type=self.kind)

    def _listed(self, revision: str) -> dict[str, Any]:
        tree = self.api.list_repo_tree(self.repo, repo_type=self.kind, revision=revision, recursive=True)
        return {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}  # folders have none

    def _brought_earlier(self, listed: Mapping[str, Any], revision: str) -> set[str]:
        """Return the files of an earlier push of the same model; raise for a repository with anything else."""
        pushed: Any = None
        if MARKER in listed:
            kept = {"repo_type": self.kind, "revision": revision}
            with tempfile.TemporaryDirectory() as to:
                marker = Path(self.api.hf_hub_download(self.repo, MARKER, local_dir=to, **kept)).read_bytes()
            with suppress(ValueError):
                pushed = json.loads(marker)
        if not isinstance(pushed, dict) or pushed.get("made_by") != "plantune-lite":
            names = ", ".join(sorted(listed.keys() - {".gitattributes"})[:4])
            raise PlantuneError(
                f"{self.repo} exists and was not pushed by plantune (it holds {printable(names, limit=200)}): "
                "choose another name, or empty it on the Hub first"
            )
        if pushed.get("what") != self.about.get("what"):
            raise PlantuneError(
                f"{self.repo} holds {printable(str(pushed.get('what')))!r}, but this is {self.about.get('what')!r}: "
                "choose another name for it"
            )
        return set(pushed["files"])

    def _summary(self, outcome: str, **did: Any) -> dict[str, Any]:
        total = _bytes(self.files)
        counted = {"files": len(self.files), "bytes": total, "left_out": list(self.left_out)}
        line = f"{self.repo}: {len(self.files)} files, {size(total)}, {outcome}"
        return {"line": line, "repo": self.repo, "kind": self.kind, **counted, **did}


def _bytes(files: "Sequence[CommitOperationAdd]") -> int:
    return sum(add.upload_info.size for add in files)


def _is_listed(add: "CommitOperationAdd", listed: Mapping[str, Any]) -> bool:
    """Return whether the Hub lists this file with its size and hash."""
    there = listed.get(add.path_in_repo)
    if there is None or there.size != add.upload_info.size:
        return False
    if there.lfs:
        return there.lfs.sha256 == add.upload_info.sha256.hex()
    with add.as_file() as file:
        data = file.read()
    return there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # git's hash of a small file
