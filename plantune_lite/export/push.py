"""A folder to the Hugging Face Hub: created private, uploaded, compared with the Hub's own listing, only then public.

    push(Path("runs/mine/merged"), "you/mine-merged", public=True, say=print)
        -> {"line": "you/mine-merged: 9 files, 270.1 MB, public", "url": ..., "commit": ..., "sent": 9, ...}

Only what an allow-list names is pushed: weights as safetensors or GGUF, tokenizer, card; never a checkpoint (they hold
pickles), a log or a text with a key in it. plantune.json goes along: it says whose push this is and which files it
brought, so that the next one replaces those and nothing else. One commit makes all of it appear at once.

create_commit is used rather than upload_folder, which makes several commits where hf_xet is installed: a public
repository would show a model half replaced. Both send by hf_xet where it is there (chunks the Hub has are not sent
again) and by LFS where it is not (files the Hub has are not sent again), so that the same call goes on after a cut.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from plantune_lite.export.pushable import MARKER, Content, File, Kind, gather, marker, refuse_keys
from plantune_lite.terminal import printable, size
from plantune_lite.types import PlantuneError

Say = Callable[[str], None]
Result = TypeVar("Result")

_A_TOKEN = (
    "make one with the right to write (on the Hub: Settings, Access Tokens), then set HF_TOKEN or run `hf auth login`"
)
_PAUSES = (2.0, 10.0, 30.0)  # seconds between attempts, after those of the library itself

# --- a push -----------------------------------------------------------------------------------------------------------


def push_folder(folder: Path, repo: str, *, public: bool = False, **how: Any) -> dict[str, Any]:
    """Bring one folder to USER/NAME, as `prepare` is told."""
    return bring([prepare(folder, repo, **how)], public)[0]


def prepare(
    folder: Path,
    repo: str,
    *,
    kind: Kind = "model",
    dry_run: Path | None = None,
    also: Mapping[str, Content] = {},
    about: Mapping[str, str] = {},
    token: str | None = None,
    endpoint: str | None = None,
    say: Say = lambda line: None,
    pauses: Sequence[float] = _PAUSES,
) -> "_Upload":
    """All that can be refused without asking the Hub is refused here. `also` adds files or replaces them, `about` (run,
    what) goes into plantune.json.

    Without a token the library's own ways of finding one are taken: HF_TOKEN, `hf auth login`, Colab's secrets.
    """
    refuse_name(repo)
    chosen, left_out = gather(folder, kind)
    files = [File(path, content) for path, content in sorted({**chosen, **also}.items()) if path != MARKER]
    if not files:
        raise PlantuneError(f"{folder} has nothing that may be pushed as a {kind}; look at what is in it")
    token = token or _found_token()
    refuse_keys(files, token)
    if token is None and dry_run is None:
        raise PlantuneError(f"no token for the Hugging Face Hub: {_A_TOKEN}. --dry-run DIR needs none.")
    if left_out:
        say(f"stays here: {', '.join(left_out[:8])}{f' and {len(left_out) - 8} more' if len(left_out) > 8 else ''}")
    say(f"{repo}: {len(files) + 1} files, {size(sum(file.size for file in files))}")
    files.append(marker(files, about))  # reads and hashes all of them
    return _Upload(repo, kind, files, left_out, about, dry_run, token or "", endpoint, say, pauses)


def bring(uploads: Sequence["_Upload"], public: bool) -> list[dict[str, Any]]:
    """Bring all of them and open them only then, so that no page links to one that failed; what each did."""
    if any(one.dry_run for one in uploads):
        return [one.written_out() for one in uploads]
    done = []
    for one in uploads:
        with one.in_a_sentence():
            done.append(one.brought(public))
    for one in uploads:
        with one.in_a_sentence():
            one.open(public)
    return done


def refuse_name(repo: str) -> None:
    """Stop at a name that the Hub would not take."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        right = repo.count("/") == 1
    except HFValidationError:
        right = False
    if not right:
        raise PlantuneError(
            f"{printable(repo)!r} is no name for the Hub: write USER/NAME, of letters, digits and '-_.', with no "
            "'-' or '.' at an end and none twice, at most 96 characters, say 'you/my-planner'"
        )


def _found_token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


@dataclass
class _Upload:
    repo: str
    kind: Kind
    files: Sequence[File]
    left_out: Sequence[str]
    about: Mapping[str, str]
    dry_run: Path | None
    token: str
    endpoint: str | None
    say: Say
    pauses: Sequence[float]
    was_public: bool = False
    state: str = "Nothing was uploaded."  # what a sentence about a failure ends with

    def written_out(self) -> dict[str, Any]:
        """Exactly what would be pushed, as copies that may be changed without changing the run."""
        to = self.dry_run
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise PlantuneError(f"{to} is not empty, and nothing is written over it: give --dry-run a new folder")
        try:
            to.mkdir(parents=True, exist_ok=True)
            needed, free = sum(file.size for file in self.files), shutil.disk_usage(to).free
            if needed > free:
                raise PlantuneError(
                    f"{to} has {size(free)} free and this needs {size(needed)}: give --dry-run a folder on another disk"
                )
            for file in self.files:
                target = to / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(file.content, bytes):
                    target.write_bytes(file.content)
                else:
                    shutil.copyfile(file.content, target)
        except OSError as error:
            raise PlantuneError(f"{to} cannot be written ({error.strerror}); give --dry-run another folder") from None
        return self._summary(f"not pushed: it is in {to}", dry_run=str(to))

    def brought(self, public: bool) -> dict[str, Any]:
        """Create, upload, compare."""
        self._refuse_elsewhere(self._patiently(self.api.whoami))
        self.was_public = self._patiently(lambda: self._ready(public))
        sent, removed, commit = self._patiently(self._bring)
        self.state = "It was not made public by this push."
        self._compare(self._patiently(lambda: self._listed(commit)))
        self.state = "All of it is there and still private."
        url = f"{self.api.endpoint}/{'' if self.kind == 'model' else 'datasets/'}{self.repo}"
        did = {"url": url, "commit": commit, "public": public, "sent": sent, "removed": removed}
        return self._summary(f"{'public' if public else 'private'}: {url}", **did)

    def open(self, public: bool) -> None:
        """Make it public, where that is asked for and it is not."""
        if public and not self.was_public:
            self._patiently(lambda: self._set_private(False))
            self.say(f"{self.repo}: what the Hub lists is what is here; made public")

    def _summary(self, said: str, **did: Any) -> dict[str, Any]:
        total = sum(file.size for file in self.files)
        counted = {"files": len(self.files), "bytes": total, "left_out": list(self.left_out)}
        line = f"{self.repo}: {len(self.files)} files, {size(total)}, {said}"
        return {"line": line, "repo": self.repo, "kind": self.kind, **counted, **did}

    @cached_property
    def api(self) -> Any:
        from huggingface_hub import HfApi

        ours = {"library_name": "plantune-lite", "library_version": version("plantune-lite")}
        return HfApi(self.endpoint, token=self.token, **ours)

    def _refuse_elsewhere(self, who: Mapping[str, Any]) -> None:
        """Stop before anything is created where the token cannot write."""
        owner, mine = self.repo.split("/")[0], [who["name"], *(org["name"] for org in who.get("orgs") or ())]
        role = who.get("auth", {}).get("accessToken", {}).get("role")
        # A fine-grained token may not show all that it may write to: of that the Hub itself will speak.
        if owner.casefold() not in {name.casefold() for name in mine} and role != "fineGrained":
            raise PlantuneError(
                f"{self.repo} is not yours to write: the token belongs to {mine[0]}, who may write to "
                f"{', '.join(mine)}. Push to {mine[0]}/{self.repo.split('/')[1]}, or use that owner's token."
            )
        if role == "read":
            raise PlantuneError(f"the token may only read: {_A_TOKEN}")

    def _ready(self, public: bool) -> bool:
        """Make the repository, private, or see that the one that is there is ours to fill; whether it is public."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self.api.repo_info(self.repo, repo_type=self.kind)
        except RepositoryNotFoundError:
            self.api.create_repo(self.repo, repo_type=self.kind, private=True)
            self.state = f"{self.repo} is private; what was sent is kept there."
            return False
        listed = self._listed(info.sha)
        if not listed.keys() - {".gitattributes"}:
            if not info.private:
                self._set_private(True)
            self.state = f"{self.repo} is private; what was sent is kept there."
            return False
        self._refuse_others(listed, self._their_marker(listed, info.sha))
        if not info.private and not public:
            raise PlantuneError(
                f"{self.repo} is public, and a push without --public stays private: give --public to replace what is "
                "there, make it private in its settings, or choose another name"
            )
        self.state = f"{self.repo} has all of this push or none of it."
        return not info.private

    def _refuse_others(self, listed: Mapping[str, Any], marker: Mapping[str, Any] | None) -> None:
        if marker is None:
            held = ", ".join(sorted(listed.keys() - {".gitattributes"})[:4])
            raise PlantuneError(
                f"{self.repo} is there already and was not pushed by plantune (it holds {printable(held, limit=200)}): "
                "choose another name, or empty it on the Hub first"
            )
        theirs, ours = marker.get("what"), self.about.get("what")
        if theirs != ours:
            raise PlantuneError(
                f"{self.repo} holds {printable(str(theirs))!r}, and this is {ours!r}: choose another name for it"
            )
        if marker.get("run") != self.about.get("run"):
            self.say(f"{self.repo} holds run {marker.get('run')!r}, which this replaces; its history keeps it")

    def _bring(self) -> tuple[int, list[str], str]:
        """Send what the Hub does not list yet and take away what an earlier push brought, in one commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        head = self.api.repo_info(self.repo, repo_type=self.kind).sha
        listed = self._listed(head)
        wanted = [file for file in self.files if file.differs(listed.get(file.path))]
        before = self._their_marker(listed, head) or {}
        stale = sorted((before.get("files", {}).keys() & listed.keys()) - {file.path for file in self.files})
        if not wanted and not stale:
            self.say("all of it is on the Hub already")
            return 0, [], head
        self.say(f"{len(wanted)} of {len(self.files)} files to send, {size(sum(file.size for file in wanted))}")
        adding = []
        for file in wanted:
            content = file.content if isinstance(file.content, bytes) else str(file.content)
            adding.append(CommitOperationAdd(file.path, content))
            adding[-1].upload_info.sha256 = bytes.fromhex(file.sha256)  # else the library reads it all again
        commit = self.api.create_commit(
            self.repo,
            [*adding, *(CommitOperationDelete(path) for path in stale)],
            commit_message="Pushed by plantune-lite",
            repo_type=self.kind,
            parent_commit=head,  # refused where somebody else has changed it meanwhile
        )
        return len(wanted), stale, commit.oid

    def _compare(self, listed: Mapping[str, Any]) -> None:
        """Names, sizes and hashes as the Hub itself lists them."""
        wrong = [f"{file.path} {why}" for file in self.files if (why := file.differs(listed.get(file.path)))]
        if wrong:
            raise PlantuneError(
                f"the Hub does not list what was sent: {'; '.join(wrong[:3])}. {self.state} Push again."
            )

    def _listed(self, revision: str) -> dict[str, Any]:
        tree = self.api.list_repo_tree(self.repo, repo_type=self.kind, revision=revision, recursive=True)
        return {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}  # folders have none

    def _their_marker(self, listed: Mapping[str, Any], revision: str) -> dict[str, Any] | None:
        """What plantune.json of the repository says; None where there is none of ours."""
        if MARKER not in listed or listed[MARKER].size > 1 << 20:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = self.api.hf_hub_download(self.repo, MARKER, repo_type=self.kind, revision=revision, local_dir=folder)
            try:
                marker = json.loads(Path(path).read_bytes())
            except ValueError:
                return None
        ours = isinstance(marker, dict) and marker.get("made_by") == "plantune-lite"
        return marker if ours and isinstance(marker.get("files"), dict) else None

    def _set_private(self, private: bool) -> None:
        self.api.update_repo_settings(self.repo, repo_type=self.kind, private=private)

    # --- when it goes wrong -------------------------------------------------------------------------------------------

    def _patiently(self, do: Callable[[], Result]) -> Result:
        """Try again after what passes: each step looks at what is there first, so twice is as good as once."""
        for pause in (*self.pauses, None):
            try:
                return do()
            except Exception as error:
                # Of a large file's upload the library was patient already, for half a minute (LFS) or four (hf_xet).
                if pause is None or not _passes(error) or type(error) in (RuntimeError, ConnectionError):
                    raise
                self.say(f"{self._said(error)}; again in {pause:.0f} s")
                time.sleep(pause)
        raise AssertionError("unreachable")

    @contextmanager
    def in_a_sentence(self) -> Iterator[None]:
        """What went wrong, what of it is there, and what to do; never the token."""
        try:
            yield
        except PlantuneError:
            raise
        except KeyboardInterrupt:
            self.say(self.state)
            raise
        except Exception as error:
            sentence = self._sentence(error)
            if sentence is None:
                raise
            raise PlantuneError(sentence) from None

    def _sentence(self, error: Exception) -> str | None:
        from huggingface_hub.errors import OfflineModeIsEnabled

        status, said = _status(error), self._said(error)
        goes_on = f"{self.state} The same command goes on."
        if isinstance(error, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so the Hub cannot be reached: unset it, or look at the push with --dry-run"
        if status == 401:
            return f"the Hub does not know the token ({said}): set HF_TOKEN to a valid one, or run `hf auth login`"
        if status in (402, 403, 413, 507) and re.search(r"storage|quota|limit|space", said, re.IGNORECASE):
            return (
                f"there is no room for {self.repo} on the Hub ({said}). {self.state} Delete there what you no longer "
                "need or have your plan raised, and the same command goes on; --what adapter is the smallest."
            )
        if status == 403:
            room = ", unless it is the room for private files that is used up" if type(error) is ConnectionError else ""
            return f"the token may not write {self.repo} ({said}){room}. {self.state} Use one that has the right to."
        if status == 409:
            return f"{self.repo} is taken ({said}): choose another name"
        if status == 412:
            return f"{self.repo} was changed by somebody else meanwhile. {goes_on}"
        if _passes(error):
            return f"the Hub cannot be reached, or its connection was lost ({said}). {goes_on}"
        if status is not None or isinstance(error, ValueError):
            return f"the Hub refused {self.repo} ({said}). {self.state} Mend that, and push again."
        return None

    def _said(self, error: Exception) -> str:
        """The Hub's own words, or the library's, without what only its authors need."""
        error = _innermost(error)
        text = getattr(error, "server_message", None) or str(error) or type(error).__name__
        return printable(" ".join(text.replace(self.token, "***").split()), limit=300).rstrip(".")


def _innermost(error: BaseException) -> BaseException:
    """The library wraps what happened to a large file in a RuntimeError."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: Exception) -> int | None:
    """The Hub's status; hf_xet tells it only in words: "HTTP status client error (403 Forbidden)"."""
    told = re.search(r"HTTP status \w+ error \((\d{3})", str(error)) if type(error) is ConnectionError else None
    return int(told[1]) if told else getattr(getattr(_innermost(error), "response", None), "status_code", None)


def _passes(error: Exception) -> bool:
    """Whether it may go well the next time: no connection, a Hub that is busy, a broken transfer."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, (PlantuneError, OfflineModeIsEnabled)):
        return False
    if (status := _status(error)) is not None:
        return status in (408, 429) or status >= 500
    error = _innermost(error)
    transport = any(kind.__name__ in ("TransportError", "RequestException") for kind in type(error).__mro__)
    return transport or isinstance(error, (ConnectionError, TimeoutError, RuntimeError))
