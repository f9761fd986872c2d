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

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from plantune_lite import model_card, runs
from plantune_lite.model_card import Form, Scored
from plantune_lite.records import PlantuneError
from plantune_lite.terminal import printable, size

Kind = Literal["model", "dataset"]
Content = Path | bytes
Say = Callable[[str], None]
Result = TypeVar("Result")

MARKER = "plantune.json"  # in every repository that we filled
_A_TOKEN = (
    "make one with the right to write (on the Hub: Settings, Access Tokens), then set HF_TOKEN or run `hf auth login`"
)
_PAUSES = (2.0, 10.0, 30.0)  # seconds between attempts, after those of the library itself

# --- what may go ------------------------------------------------------------------------------------------------------

_TEXTS = {".json", ".md", ".txt", ".jinja", ".jsonl", ".svg"}
_SUFFIXES = {
    "model": _TEXTS - {".jsonl"} | {".safetensors", ".gguf", ".model", ".png"},
    "dataset": _TEXTS - {".jinja"} | {".parquet", ".png"},
}
_BARE = {"LICENSE", "NOTICE", "Modelfile", "template", "system", "params"}  # the last four are Ollama's
_NEVER = {"manifest.json", "trainer_state.json", "log.txt", "metrics.jsonl", "rejected.jsonl"}
_KEYS = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|\bAIza[\w-]{35}|\bsk-(?:proj-|or-v1-)?[A-Za-z0-9]{32,}")
_SECRET = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")  # how variables end whose value is nobody's business


def gather(folder: Path, kind: Kind) -> tuple[dict[str, Path], list[str]]:
    """The files of a folder that may be pushed, by their path in the repository; and those that stay here."""
    chosen, left_out = {}, []
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if not file.is_file():
            continue
        fits = file.suffix in _SUFFIXES[kind] or kind == "model" and file.name in _BARE
        held_back = file.name in _NEVER or any(part.startswith(("checkpoint-", ".")) for part in inside.parts)
        if fits and not held_back and not file.is_symlink() and file.stat().st_size:  # the Hub stumbles over empty ones
            chosen[inside.as_posix()] = file
        else:
            left_out.append(inside.as_posix())
    return chosen, left_out


@dataclass(frozen=True)
class _File:
    path: str  # in the repository
    content: Content

    @cached_property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    @cached_property
    def sha256(self) -> str:
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        with open(self.content, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def git_oid(self) -> str:
        """What git calls a small file; a large one it knows by its sha256."""
        data = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def differs(self, there: Any) -> str | None:
        """Why what the Hub lists under this path is not this file; None where it is."""
        if there is None:
            return "is not there"
        if there.size != self.size:
            return f"has {there.size} bytes there and {self.size} here"
        same = there.lfs.sha256 == self.sha256 if there.lfs else there.blob_id == self.git_oid
        return None if same else "has another hash there than here"


def _refuse_keys(files: Sequence[_File], token: str | None) -> None:
    """Stop before a key is published: one of this machine's, or anything that looks like one."""
    secrets = {value for name, value in os.environ.items() if name.endswith(_SECRET) and len(value) >= 16}
    known = [re.escape(secret.encode()) for secret in secrets | ({token} if token else set())]
    pattern = re.compile(b"|".join([_KEYS.pattern, *known]))
    for file in files:
        if Path(file.path).suffix in _TEXTS or Path(file.path).name in _BARE:
            for number, line in enumerate(_lines(file.content), 1):
                if pattern.search(line):
                    raise PlantuneError(
                        f"{file.path} line {number} holds a key or what looks like one, so nothing was pushed. "
                        "Take it out (and have the key replaced if it has been anywhere else)."
                    )


def _lines(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield from content.splitlines()
    else:
        with open(content, "rb") as file:
            yield from file


# --- what of a run goes where -----------------------------------------------------------------------------------------


def push_run(
    run: Path,
    repo: str,
    *,
    data: bool = False,
    what: Form | None = None,
    public: bool = False,
    dry_run: Path | None = None,
    scores: Mapping[str, Sequence[Scored]] = {},
    ahead: Mapping[str, bool] = {},
    plot: Path | None = None,
    data_repo: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    say: Say = lambda line: None,
) -> list[dict[str, Any]]:
    """Push a run's model in every form it was exported in (or `what`), or its corpus; what each push did.

    The adapter goes to USER/NAME, the merged model to USER/NAME-merged, GGUF files to USER/NAME-GGUF.
    """
    refuse_name(repo)
    if not (run / "recipe.json").is_file():
        raise PlantuneError(f"{run} is no run folder: it has no recipe.json")
    manifest = runs.read_manifest(run)
    how = {"public": public, "token": token, "endpoint": endpoint, "say": say}
    if data:
        about, also = _about(run, "corpus"), {"README.md": _card_of_corpus(run).encode()}
        return [push(run / "corpus", repo, kind="dataset", dry_run=dry_run, also=also, about=about, **how)]
    there = {form: folder for form, folder in _forms_of(run, manifest).items() if what in (None, form)}
    if not there:
        raise PlantuneError(
            f"{run} has no {what or 'model'} to push yet: `plantune run {run}` trains and exports what its recipe's "
            "export.formats names"
        )
    names = {form: repo + model_card.FORMS[form] for form in there}
    prepared = {}
    for form, folder in there.items():  # all before the first one goes: a refusal leaves nothing half done
        refuse_name(names[form])
        _refuse_unchecked(run, manifest, form)
        facts = model_card.of_run(
            run,
            form=form,
            repo=names[form],
            siblings=names,
            scores=scores,
            ahead=ahead,
            plot=plot.name if plot else None,
            data_repo=data_repo,
        )
        also: dict[str, Content] = {"README.md": model_card.card(facts).encode()}
        if text := model_card.notice(facts):
            also["NOTICE"] = text.encode()
        prepared[form] = (folder, also | ({plot.name: plot} if plot else {}))
    return [
        push(
            folder,
            names[form],
            dry_run=dry_run / names[form].split("/")[1] if dry_run else None,
            also=also,
            about=_about(run, form),
            **how,
        )
        for form, (folder, also) in prepared.items()
    ]


def _about(run: Path, what: str) -> dict[str, str]:
    return {"run": _recipe(run)["name"], "what": what}


def _recipe(run: Path) -> dict[str, Any]:
    return json.loads((run / "recipe.json").read_text(encoding="utf-8"))


def _card_of_corpus(run: Path) -> str:
    """The card that the corpus stage wrote for this machine, without the folders of this machine."""
    file, recipe = run / "corpus" / "README.md", _recipe(run)
    if not file.is_file():
        raise PlantuneError(f"{run} has no corpus yet: `plantune distill {run}` makes it")
    text, cut = file.read_text(encoding="utf-8"), model_card.without_paths(recipe)
    for part in ("problems", "student"):
        for name, value in recipe[part].items():
            if value != cut[part][name]:
                text = text.replace(json.dumps(value, ensure_ascii=False), json.dumps(cut[part][name]))
    return text


def _forms_of(run: Path, manifest: Mapping[str, Any]) -> dict[Form, Path]:
    found: dict[Form, Path] = {}
    if adapter := model_card.adapter_folder(run, manifest):
        found["adapter"] = adapter
    for form, suffix in (("merged", "safetensors"), ("gguf", "gguf")):
        if any((run / form).glob(f"*.{suffix}")):
            found[form] = run / form
    return found


def _refuse_unchecked(run: Path, manifest: Mapping[str, Any], form: Form) -> None:
    """A merged model, and what was made of it, goes only where it was found to be its adapter's equal."""
    if form == "adapter":
        config = json.loads((model_card.adapter_folder(run, manifest) / "adapter_config.json").read_bytes())
        base = config.get("base_model_name_or_path") or ""
        if not model_card.is_public(base):
            raise PlantuneError(
                f"the adapter names {printable(Path(base).name or 'nothing')!r} as its base, a folder of yours or a "
                "quantised copy, over which nobody else can load it: push the merged model alone, with --what merged"
            )
        return
    entry = manifest["stages"].get("export", {})
    verified = entry.get("summary", {}).get("verified")
    if entry.get("status") != "done" or verified is not True:
        why = "was found to differ from its adapter" if verified is False else "was not compared with its adapter"
        raise PlantuneError(
            f"{run / 'merged'} {why}, so neither it nor GGUF files of it are pushed: --what adapter pushes the adapter "
            f"alone, and `plantune run {run} --again export` merges anew"
        )
    of_form = {name: known for name, known in entry["outputs"].items() if name.startswith(f"{form}/")}
    missing, different = runs.changed_outputs(run, of_form)
    if changed := [*missing, *different]:
        raise PlantuneError(
            f"{changed[0]} is not what export wrote and compared: `plantune run {run} --again export` makes it anew"
        )


# --- a push -----------------------------------------------------------------------------------------------------------


def push(
    folder: Path,
    repo: str,
    *,
    kind: Kind = "model",
    public: bool = False,
    dry_run: Path | None = None,
    also: Mapping[str, Content] = {},
    about: Mapping[str, str] = {},
    token: str | None = None,
    endpoint: str | None = None,
    say: Say = lambda line: None,
    pauses: Sequence[float] = _PAUSES,
) -> dict[str, Any]:
    """Bring a folder to USER/NAME; `also` adds files or replaces them, `about` (run, what) goes into plantune.json.

    Without a token the library's own ways of finding one are taken: HF_TOKEN, `hf auth login`, Colab's secrets.
    """
    refuse_name(repo)
    chosen, left_out = gather(folder, kind)
    files = [_File(path, content) for path, content in sorted({**chosen, **also}.items()) if path != MARKER]
    if not files:
        raise PlantuneError(f"{folder} has nothing that may be pushed as a {kind}; look at what is in it")
    token = token or _found_token()
    _refuse_keys(files, token)
    if token is None and dry_run is None:
        raise PlantuneError(f"no token for the Hugging Face Hub: {_A_TOKEN}. --dry-run DIR needs none.")
    if left_out:
        say(f"stays here: {', '.join(left_out[:8])}{f' and {len(left_out) - 8} more' if len(left_out) > 8 else ''}")
    bytes_in_all = sum(file.size for file in files)
    counted = f"{repo}: {len(files) + 1} files, {size(bytes_in_all)}"
    say(counted)
    files.append(_marker(files, about))  # reads and hashes all of them
    summary = {"repo": repo, "kind": kind, "files": len(files), "bytes": bytes_in_all, "left_out": left_out}
    if dry_run is not None:
        _write_out(files, dry_run)
        return {**summary, "line": f"{counted}, not pushed: they are in {dry_run}", "dry_run": str(dry_run)}
    upload = _Upload(repo, kind, files, about, token, endpoint, say, pauses)
    with upload.in_a_sentence():
        done = upload.run(public)
    return {**summary, **done, "line": f"{counted}, {'public' if public else 'private'}: {done['url']}"}


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


def _marker(files: Sequence[_File], about: Mapping[str, str]) -> _File:
    """What we pushed, and no time in it: the same push twice is the same file."""
    from plantune_lite import __version__

    brought = {file.path: {"size": file.size, "sha256": file.sha256} for file in files}
    content = {"made_by": "plantune-lite", "version": __version__, **about, "files": brought}
    return _File(MARKER, (json.dumps(content, indent=1) + "\n").encode())


def _write_out(files: Sequence[_File], to: Path) -> None:
    """Exactly what would be pushed, as copies that may be changed without changing the run."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise PlantuneError(f"{to} is not empty, and nothing is written over it: give --dry-run a new folder")
    try:
        to.mkdir(parents=True, exist_ok=True)
        needed, free = sum(file.size for file in files), shutil.disk_usage(to).free
        if needed > free:
            raise PlantuneError(
                f"{to} has {size(free)} free and this needs {size(needed)}: give --dry-run a folder on another disk"
            )
        for file in files:
            target = to / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file.content, bytes):
                target.write_bytes(file.content)
            else:
                shutil.copyfile(file.content, target)
    except OSError as error:
        raise PlantuneError(f"{to} cannot be written ({error.strerror}); give --dry-run another folder") from None


@dataclass
class _Upload:
    repo: str
    kind: Kind
    files: Sequence[_File]
    about: Mapping[str, str]
    token: str
    endpoint: str | None
    say: Say
    pauses: Sequence[float]
    state: str = "Nothing was uploaded."  # what a sentence about a failure ends with

    def run(self, public: bool) -> dict[str, Any]:
        """Create, upload, compare, open."""
        self._refuse_elsewhere(self._patiently(self.api.whoami))
        was_public = self._patiently(lambda: self._ready(public))
        sent, removed, commit = self._patiently(self._bring)
        self.state = "It was not made public by this push."
        self._compare(self._patiently(lambda: self._listed(commit)))
        self.state = "All of it is there and still private."
        if public and not was_public:
            self._patiently(lambda: self._set_private(False))
            self.say("what the Hub lists is what is here: made public")
        url = f"{self.api.endpoint}/{'' if self.kind == 'model' else 'datasets/'}{self.repo}"
        return {"url": url, "commit": commit, "public": public, "sent": sent, "removed": removed}

    @cached_property
    def api(self) -> Any:
        from huggingface_hub import HfApi

        from plantune_lite import __version__

        return HfApi(self.endpoint, token=self.token, library_name="plantune-lite", library_version=__version__)

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
        marker = self._their_marker(listed, head) or {}
        stale = sorted((marker.get("files", {}).keys() & listed.keys()) - {file.path for file in self.files})
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
            self.say(f"stopped. {self.state} The same command goes on.")
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
