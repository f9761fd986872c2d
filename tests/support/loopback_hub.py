"""A Hugging Face Hub on this machine: data sets and models with commits, served to the real clients and filled by them.

    with LoopbackHub() as hub:
        sha = hub.commit("openai/gsm8k", {"README.md": card, "main/train.jsonl": rows})
        hub.fail("PUT /lfs/", "cut")          # the next upload breaks off half way
        ...  a child process with hub.environment(tmp_path): HF_ENDPOINT is read when huggingface_hub is imported
        ...  or HfApi(endpoint=hub.url, token=TOKEN) in this one

It refuses what the real one refuses, with its status and X-Error-Code: a repository, revision or file that is not
there; gated and private files without the right token; a token that may only read; a name that is taken or that is
somebody else's; a commit that names an object nobody uploaded, has another size for it, or comes after somebody
else's; an object that is not what its hash says; a card whose metadata is wrong. What was refused stands in `refused`.
Large files come by LFS (HF_HUB_DISABLE_XET=1) or, as from a user's machine, by hf_xet: the CAS of Xet is here as well,
as far as it stores chunks uncompressed, which it does with random bytes.
"""

import base64
import codecs
import hashlib
import json
import os
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN, READ_TOKEN, BOBS_TOKEN = "hf_loopback", "hf_loopback_read", "hf_loopback_bob"
ACCOUNTS = {TOKEN: ("alice", "write"), READ_TOKEN: ("alice", "read"), BOBS_TOKEN: ("bob", "write")}
ORGANISATIONS = {"planners": ("alice",)}  # and who may write there
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
LARGE = 1 << 20  # the real one: 10 MB


class Lfs(bytes):
    """The content of a file that git knows by a pointer."""

    @cached_property
    def oid(self) -> str:
        return hashlib.sha256(self).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {len(self)}\n".encode()


@dataclass
class Repository:
    """The commits of one data set or model, the newest last, and the objects uploaded to it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # sha -> path -> content
    objects: dict[str, Lfs] = field(default_factory=dict)  # sha256 -> content, whether a commit names it or not
    gated: bool = False
    private: bool = False

    def files(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """The commit a revision names, and its files."""
        sha = list(self.commits)[-1] if revision in ("main", "HEAD") else revision
        if sha not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, self.commits[sha]

    def add(self, content: dict[str, bytes]) -> str:
        """A commit with these files and no others; its sha."""
        history = [len(self.commits), *sorted((path, git_oid(data)) for path, data in content.items())]
        sha = hashlib.sha1(json.dumps([list(self.commits), history]).encode()).hexdigest()
        self.commits[sha] = content
        return sha


class Refusal(Exception):
    """A status and an X-Error-Code as the Hub sends them."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class LoopbackHub:
    """The server; a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}  # "datasets/openai/gsm8k"
        self.requests: list[str] = []
        self.refused: list[tuple[int, str]] = []
        self.received: list[tuple[str, int]] = []  # every object or xorb that came in whole: hash, bytes
        self.xorbs: dict[str, bytes] = {}
        self.quota = 1 << 40  # bytes in private repositories
        self._faults: list[tuple[str, str]] = []
        self.stalled, self.released = Event(), Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def commit(
        self,
        name: str,
        files: Mapping[str, str | bytes],
        *,
        kind: str = "dataset",
        gated: bool = False,
        private: bool = False,
    ) -> str:
        """Make these the files of a repository's main branch; the commit's sha."""
        repository = self.repositories.setdefault(f"{kind}s/{name}", Repository())
        repository.gated, repository.private = gated, private
        return repository.add({path: data.encode() if isinstance(data, str) else data for path, data in files.items()})

    def files(self, name: str, kind: str = "model") -> dict[str, bytes]:
        """What the main branch of a repository holds."""
        return self.repositories[f"{kind}s/{name}"].files("main")[1]

    def fail(self, where: str, how: str, times: int = 1) -> None:
        """The next requests like that ("PUT /lfs/") go wrong: a status ("503"), or one of these words.

        "cut": the connection ends half way through what the client sends. "lost": the work is done and only the reply
        never comes. "stall": it waits until the Hub is closed. "overtaken": somebody else commits first. "damage": the
        files of the commit have another last byte.
        """
        self._faults += [(where, how)] * times

    def next_fault(self, request: str) -> str:
        """How this request is to go wrong; empty where it is not."""
        found = next((fault for fault in self._faults if request.startswith(fault[0])), None)
        if found is None:
            return ""
        self._faults.remove(found)
        return found[1]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """What a child process needs to meet this Hub and no other, with its caches in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PLANTUNE_"))}
        caches = {"HF_HOME": str(home), "HF_DATASETS_CACHE": str(home / "datasets"), "HF_HUB_DISABLE_XET": "1"}
        return {
            **kept,
            **caches,
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            **more,
        }


def point_at(url: str, monkeypatch: Any) -> None:
    """What HF_ENDPOINT does when it is set before huggingface_hub is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a reply in one piece: of two the second waits 40 ms for the first's acknowledgement

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass

    # --- a request and its reply --------------------------------------------------------------------------------------

    def _answer(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        fault = self.hub.next_fault(self.hub.requests[-1])
        if fault == "stall":
            self.hub.stalled.set()
            self.hub.released.wait()
        if fault in ("cut", "stall"):
            return self._hang_up(int(self.headers.get("Content-Length") or 0) // 2)
        body, path = self._body(), unquote(urlsplit(self.path).path)
        if fault == "overtaken":
            self._committed_to(path).add({"model.safetensors": b"somebody else's"})
        try:
            if fault.isdigit():
                raise Refusal(int(fault), "", f"Something went wrong with {self._token()}")
            status, content, headers = self._reply(path, body)
        except Refusal as refusal:
            self.hub.refused.append((refusal.status, refusal.code))
            status, content = refusal.status, {"error": str(refusal)}
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
        if fault == "lost":
            return self._hang_up(0)
        if fault == "damage":
            files = self._committed_to(path).files("main")[1]
            files.update({name: type(data)(data[:-1] + b"?") for name, data in files.items()})
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _committed_to(self, path: str) -> Repository:
        return self.hub.repositories[path.removeprefix("/api/").partition("/commit/")[0]]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while length := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _hang_up(self, after: int) -> None:
        self.rfile.read(after)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
        self.close_connection = True
        self.connection.close()

    def _reply(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if path == "/api/whoami-v2":
            return 200, self._who(), {}
        if path == "/api/repos/create":
            return 200, self._create(json.loads(body)), {}
        if path == "/api/validate-yaml":
            wanted = json.loads(body)
            errors, warnings = card_errors(wanted["content"], wanted["repoType"])
            return 400 if errors else 200, {"errors": _messages(errors), "warnings": _messages(warnings)}, {}
        if found := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/?(.*)", path):
            return 200, self._about(found[1], found[2], body), {}
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/(.+)", path):
            return self._file(f"{found[1] or 'models/'}{found[2]}", found[3])
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return 200, self._lfs_batch(f"{found[1] or 'models/'}{found[2]}", json.loads(body)), {}
        if path.startswith("/lfs/"):
            return 200, self._lfs(path.removeprefix("/lfs/"), body), {}
        if path.startswith(("/v1/", "/v2/")):
            return 200, self._xet(path, body), {}
        raise Refusal(404, "", "Not found")

    # --- who asks, and for what ---------------------------------------------------------------------------------------

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _who(self) -> dict[str, Any]:
        if self._token() not in ACCOUNTS:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        name, role = ACCOUNTS[self._token()]
        orgs = [{"name": org, "roleInOrg": "write"} for org, members in ORGANISATIONS.items() if name in members]
        return {"type": "user", "name": name, "orgs": orgs, "auth": {"accessToken": {"role": role}}}

    def _may_write(self, owner: str, why_not: str) -> None:
        name, role = ACCOUNTS.get(self._token(), ("", ""))
        if not name:
            raise Refusal(401, "", "Invalid username or password.")
        if role != "write":
            raise Refusal(403, "", "Forbidden: you must use a write token to upload to a repository.")
        if name not in (owner, *ORGANISATIONS.get(owner, ())):
            raise Refusal(403, "", why_not)

    def _repository(self, name: str, *, to_write: bool = False) -> Repository:
        repository, owner = self.hub.repositories.get(name), name.split("/")[1]
        mine = ACCOUNTS.get(self._token(), ("",))[0] in (owner, *ORGANISATIONS.get(owner, ()))
        if repository is None or repository.private and not mine:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        if to_write:
            self._may_write(owner, f"You don't have write access to {name}")
        return repository

    def _create(self, asked: dict[str, Any]) -> dict[str, str]:
        kind = asked.pop("type", "model")
        owner = asked.pop("organization") or self._who()["name"]
        name, visibility = asked.pop("name"), asked.pop("visibility", "public")
        if asked or not re.fullmatch(r"\w[\w.-]{0,94}\w?", name) or "--" in name or visibility not in _VISIBILITY:
            raise Refusal(400, "", f"Invalid repository: {name} {asked}")
        self._may_write(owner, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if f"{kind}s/{owner}/{name}" in self.hub.repositories:
            raise Refusal(409, "", f"You already created this {kind} repo: {owner}/{name}")
        self.hub.commit(
            f"{owner}/{name}", {".gitattributes": GITATTRIBUTES}, kind=kind, private=visibility == "private"
        )
        return {"url": f"{self.hub.url}/{'' if kind == 'model' else f'{kind}s/'}{owner}/{name}"}

    def _about(self, name: str, rest: str, body: bytes) -> Any:
        """A repository, the tree of a revision, what is known of some paths in it; or a step of an upload."""
        verb, _, rest = rest.partition("/")
        repository = self._repository(name, to_write=verb in ("preupload", "commit", "settings", "xet-write-token"))
        if verb in ("", "revision"):
            return self._info(name.partition("/")[2], repository, rest or "main")
        if verb == "tree":
            revision, _, folder = rest.partition("/")
            return self._tree(repository.files(revision)[1], folder)
        if verb == "paths-info":
            _, files = repository.files(rest)
            sent = self.headers.get("Content-Type", "")
            wanted = json.loads(body)["paths"] if "json" in sent else parse_qs(body.decode()).get("paths", [])
            entries = [*_entries(files, ""), *_folders(files)]
            return [entry for entry in entries if entry["path"] in wanted]
        if verb == "settings" and self.command == "PUT":
            asked = json.loads(body)
            if asked.keys() != {"visibility"} or asked["visibility"] not in _VISIBILITY:
                raise Refusal(400, "", f"Invalid settings: {asked}")
            repository.private = asked["visibility"] == "private"
            return asked
        if verb == "preupload":
            return {"files": [self._how_to_send(repository, **file) for file in json.loads(body)["files"]]}
        if verb == "commit":
            return self._commit(name, repository, [json.loads(line) for line in body.splitlines()])
        if verb == "xet-write-token":
            return {"casUrl": self.hub.url, "exp": 1 << 32, "accessToken": f"xet {name}"}
        raise Refusal(404, "", "Not found")

    def _info(self, name: str, repository: Repository, revision: str) -> dict[str, Any]:
        sha, files = repository.files(revision)
        siblings = [{"rfilename": path} for path in files]
        known = {"id": name, "_id": name, "sha": sha, "private": repository.private, "gated": repository.gated}
        return {**known, "siblings": siblings}

    def _tree(self, files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
        found = _entries(files, f"{folder}/" if folder else "")
        if folder and not found:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        query = parse_qs(urlsplit(self.path).query)
        folders = [entry for entry in _folders(files) if entry["path"].startswith(f"{folder}/" if folder else "")]
        if query.get("recursive", ["false"])[0].lower() in ("true", "1"):
            return [*folders, *found]
        depth = len(folder.split("/")) if folder else 0
        return [entry for entry in (*folders, *found) if entry["path"].count("/") == depth]

    def _file(self, name: str, rest: str) -> tuple[int, bytes, dict[str, str]]:
        repository = self._repository(name)
        if repository.gated and self._token() != TOKEN:
            raise Refusal(403 if self._token() else 401, "GatedRepo", f"Access to {name} is restricted.")
        revision, _, path = rest.partition("/")
        sha, files = repository.files(revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist")
        data = files[path]
        etag = data.oid if isinstance(data, Lfs) else git_oid(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        first, last, total = 0, len(data) - 1, len(data)
        if asked := self.headers.get("Range", "").removeprefix("bytes="):
            start, _, end = asked.partition("-")
            first, last = int(start), min(int(end or last), last)
            headers["Content-Range"] = f"bytes {first}-{last}/{total}"
        return 206 if asked else 200, data[first : last + 1], headers

    # --- an upload ----------------------------------------------------------------------------------------------------

    def _how_to_send(self, repository: Repository, path: str, size: int, sample: str) -> dict[str, Any]:
        there = repository.files("main")[1].get(path)
        oid = there.oid if isinstance(there, Lfs) else None if there is None else git_oid(there)
        large = size > LARGE or not _is_text(base64.b64decode(sample))
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def _lfs_batch(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        repository = self._repository(name, to_write=True)
        self._refuse_over_quota(repository, sum(one["size"] for one in asked["objects"]))
        objects = []
        for one in asked["objects"]:
            here = {"href": f"{self.hub.url}/lfs/{name}/{one['oid']}/{one['size']}?signature={_signature(one['oid'])}"}
            verify = {"href": f"{self.hub.url}/lfs/{name}/{one['oid']}/verify"}
            known = one["oid"] in repository.objects
            objects.append(one if known else {**one, "actions": {"upload": here, "verify": verify}})
        return {"transfer": "basic", "objects": objects}

    def _refuse_over_quota(self, repository: Repository, more: int) -> None:
        if repository.private and more > self.hub.quota:
            raise Refusal(403, "", "Private repository storage limit reached, please upgrade your plan to increase it.")

    def _lfs(self, path: str, body: bytes) -> Any:
        """The storage behind the Hub: it knows signatures, no tokens."""
        name, oid, last = path.rsplit("/", 2)
        repository = self.hub.repositories[name]
        if last == "verify":
            if oid not in repository.objects or json.loads(body) != {"oid": oid, "size": len(repository.objects[oid])}:
                raise Refusal(404, "", "No such object")
            return {}
        if parse_qs(urlsplit(self.path).query).get("signature") != [_signature(oid)]:
            raise Refusal(403, "", "SignatureDoesNotMatch")
        if len(body) != int(last) or hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "", "BadDigest: the content is not what its name says")
        repository.objects[oid] = Lfs(body)
        self.hub.received.append((oid, len(body)))
        return {}

    def _xet(self, path: str, body: bytes) -> Any:
        """Xet's content-addressed storage: xorbs of chunks, then a shard that says which files they make up."""
        name = self._token().removeprefix("xet ")
        if name not in self.hub.repositories:
            raise Refusal(401, "", "Invalid token")
        if path.startswith("/v1/xorbs/"):
            key = path.rpartition("/")[2]
            new = key not in self.hub.xorbs
            self.hub.xorbs[key] = body
            self.hub.received.append((key, len(body)))
            return {"was_inserted": new}
        if path.startswith("/v1/xorb-grants/") and path.rpartition("/")[2] in self.hub.xorbs:
            return {}  # 200: it is here already; 404 below: send it to /v1/xorbs
        if path == "/v1/shards":
            repository, files = self.hub.repositories[name], dict(_files_of_shard(body, self.hub.xorbs))
            self._refuse_over_quota(repository, sum(map(len, files.values())))
            if any(content.oid != oid for oid, content in files.items()):
                raise Refusal(400, "", "The shard has another sha256 than its chunks")
            repository.objects.update(files)
            return {"result": 1}
        if path == "/v1/telemetry":
            return {}
        raise Refusal(404, "", "Not found")  # no chunk of another repository, and none of the newer endpoints

    def _commit(self, name: str, repository: Repository, lines: list[dict[str, Any]]) -> dict[str, Any]:
        head, files = repository.files("main")
        files = dict(files)
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header" and value.get("parentCommit", head) != head:
                raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = self._regular(name, value["path"], base64.b64decode(value["content"]))
            elif key == "lfsFile":
                found = repository.objects.get(value["oid"])
                if found is None or len(found) != value["size"]:
                    raise Refusal(400, "", f"LFS pointer of {value['path']} names an object that does not exist")
                files[value["path"]] = found
            elif key == "deletedFile" and value["path"] in files:
                del files[value["path"]]
            elif key != "header":
                raise Refusal(400, "", f"Invalid operation: {key} {value.get('path')}")
        sha = repository.add(files)
        where = name.removeprefix("models/")
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{where}/commit/{sha}"}

    def _regular(self, name: str, path: str, data: bytes) -> bytes:
        if len(data) > LARGE or not _is_text(data[:512]):
            raise Refusal(400, "", f"Your push was rejected because it contains binary files: {path}")
        if path == "README.md" and (errors := card_errors(data.decode(), name.partition("s/")[0])[0]):
            raise Refusal(400, "", f"Invalid metadata in README.md: {errors[0]}")
        return data


_VISIBILITY = ("public", "private")


def git_oid(data: bytes) -> str:
    """The name that git gives a file's content, or its pointer's."""
    data = data.pointer if isinstance(data, Lfs) else data
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _signature(oid: str) -> str:
    return hashlib.sha256(b"of the loopback hub " + oid.encode()).hexdigest()[:16]


def _is_text(sample: bytes) -> bool:
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(sample)  # may end within a character
    except UnicodeDecodeError:
        return False


def _entries(files: Mapping[str, bytes], prefix: str) -> list[dict[str, Any]]:
    found = []
    for path, data in files.items():
        if path.startswith(prefix):
            found.append({"type": "file", "path": path, "size": len(data), "oid": git_oid(data)})
            if isinstance(data, Lfs):
                found[-1]["lfs"] = {"oid": data.oid, "size": len(data), "pointerSize": len(data.pointer)}
    return found


def _folders(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    paths = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    return [
        {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
        for path in sorted(paths)
    ]


# --- what a shard of Xet says: https://huggingface.co/docs/xet -------------------------------------------------------


def _files_of_shard(shard: bytes, xorbs: Mapping[str, bytes]) -> Iterator[tuple[str, Lfs]]:
    """Of each file in it the sha256 that the client computed, and the content that its chunks make up."""
    place = 48  # after the header
    while shard[place : place + 32] != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", shard, place + 32)
        terms = [struct.unpack_from("<32sIIII", shard, place + 48 * (1 + number)) for number in range(count)]
        content = b"".join(_chunks(xorbs, _hex(key), first, end) for key, _, _, first, end in terms)
        place += 48 * (1 + count) + (48 * count if flags & 1 << 31 else 0)
        yield _hex(shard[place : place + 32]), Lfs(content)
        place += 48 if flags & 1 << 30 else 0


def _chunks(xorbs: Mapping[str, bytes], key: str, first: int, end: int) -> bytes:
    if key not in xorbs:
        raise Refusal(400, "", f"The shard names a xorb that was never uploaded: {key}")
    pieces, place = [], 0
    for number in range(end):
        size, scheme = int.from_bytes(xorbs[key][place + 1 : place + 4], "little"), xorbs[key][place + 4]
        if number >= first:
            if scheme:
                raise Refusal(400, "", "This Hub reads uncompressed chunks only")
            pieces.append(xorbs[key][place + 8 : place + 8 + size])
        place += 8 + size
    return b"".join(pieces)


def _hex(key: bytes) -> str:
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", key))


# --- what the Hub says of a card --------------------------------------------------------------------------------------

_LICENCES = {"apache-2.0", "mit", "gemma", "cc-by-sa-4.0", "cc-by-4.0", "llama3.2", "other", "unknown"}
_RELATIONS = {"adapter", "merge", "quantized", "finetune"}
_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LISTS = {"tags": str, "datasets": str, "task_categories": str, "size_categories": str, "configs": dict}


def card_errors(content: str, kind: str) -> tuple[list[str], list[str]]:
    """What is wrong with the metadata of a README.md, and what is only warned of."""
    import yaml

    found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if not found:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"], []
    if not isinstance(metadata, dict):
        return ["the metadata is no object"], []
    return list(_metadata_errors(metadata, kind)), []


def _metadata_errors(metadata: dict[str, Any], kind: str) -> Iterator[str]:
    for name, of in _LISTS.items():
        values = metadata.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, of) for value in values):
            yield f'"{name}" must be an array'
    for licence in _listed(metadata.get("license")):
        if licence not in _LICENCES:
            yield f'"license" must be one of [{", ".join(sorted(_LICENCES))}]'
        if licence == "other" and kind == "model" and not {"license_name", "license_link"} <= metadata.keys():
            yield '"license_name" and "license_link" are required where "license" is other'
    if "license_link" in metadata and not re.match(r"https?://|LICENSE", str(metadata["license_link"])):
        yield '"license_link" must be a link or LICENSE'
    for language in _listed(metadata.get("language")):
        if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", str(language)):
            yield f'"language" with value "{language}" is not valid'
    for name in _listed(metadata.get("base_model")):
        if not _ID.fullmatch(str(name)):
            yield f'"base_model" with value "{name}" is not valid. Use a model id from https://hf.co/models'
    if metadata.get("base_model_relation", "adapter") not in _RELATIONS:
        yield f'"base_model_relation" must be one of [{", ".join(sorted(_RELATIONS))}]'
    for name in ("library_name", "pipeline_tag", "pretty_name"):
        if not isinstance(metadata.get(name, ""), str):
            yield f'"{name}" must be a string'
    for number, entry in enumerate(_listed(metadata.get("model-index"))):
        where = f'"model-index[{number}]'
        if not isinstance(entry, dict) or not entry.get("name"):
            yield f'{where}.name" is required'
            continue
        for result in entry.get("results") or ():
            if not all(result.get(part, {}).get("type") for part in ("task", "dataset")):
                yield f'{where}.results.task.type" and dataset.type are required'
            if not result.get("dataset", {}).get("name"):
                yield f'{where}.results.dataset.name" is required'
            for metric in result.get("metrics") or [{}]:
                if not metric.get("type") or "value" not in metric:
                    yield f'{where}.results.metrics" needs type and value'


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _messages(lines: list[str]) -> list[dict[str, str]]:
    return [{"message": line} for line in lines]
