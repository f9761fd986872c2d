"""A Hugging Face Hub on this machine: data sets with commits, served to the real clients through HF_ENDPOINT.

    with LoopbackHub() as hub:
        sha = hub.commit("openai/gsm8k", {"README.md": card, "main/train.jsonl": rows})
        ...  a child process with hub.environment(tmp_path): HF_ENDPOINT is read when huggingface_hub is imported

It refuses what the real one refuses, with its status and X-Error-Code: a repository, revision or file that is not
there, and the files of a gated data set without the right token. What was refused stands in `refused`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopback"


@dataclass
class Repository:
    """The commits of one data set, the newest last."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # sha -> path -> content
    gated: bool = False

    def files(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """The commit a revision names, and its files."""
        sha = list(self.commits)[-1] if revision in ("main", "HEAD") else revision
        if sha not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, self.commits[sha]


class Refusal(Exception):
    """A status and an X-Error-Code as the Hub sends them."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class LoopbackHub:
    """The server; a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.refused: list[tuple[int, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, name: str, files: Mapping[str, str | bytes], *, gated: bool = False) -> str:
        """Make these the files of a data set's main branch; the commit's sha."""
        repository = self.repositories.setdefault(name, Repository())
        content = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        history = "".join((name, *repository.commits, *sorted(content))).encode() + b"".join(content.values())
        sha = hashlib.sha1(history).hexdigest()
        repository.commits[sha] = content
        repository.gated = gated
        return sha

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


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        try:
            if path.startswith("/api/datasets/"):
                self._send(200, json.dumps(self._about(path.removeprefix("/api/datasets/"), body)).encode())
            elif path.startswith("/datasets/") and "/resolve/" in path:
                self._send_file(*path.removeprefix("/datasets/").split("/resolve/", 1))
            else:
                raise Refusal(404, "", "Not found")
        except Refusal as refusal:
            self.hub.refused.append((refusal.status, refusal.code))
            about = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
            self._send(refusal.status, json.dumps({"error": str(refusal)}).encode(), about)

    def _about(self, path: str, body: bytes) -> Any:
        """A data set, the tree of a revision, or what is known of some paths in it."""
        pieces = path.split("/")
        name, verb, rest = "/".join(pieces[:2]), "".join(pieces[2:3]), pieces[3:]
        repository = self._repository(name)
        if verb in ("", "revision"):
            sha, files = repository.files(rest[0] if rest else "main")
            siblings = [{"rfilename": path} for path in files]
            return {
                "id": name,
                "_id": name,
                "sha": sha,
                "private": False,
                "gated": repository.gated,
                "siblings": siblings,
            }
        if verb == "tree":
            _, files = repository.files(rest[0])
            return self._tree(files, "/".join(rest[1:]))
        if verb == "paths-info":
            _, files = repository.files(rest[0])
            sent = self.headers.get("Content-Type", "")
            wanted = json.loads(body)["paths"] if "json" in sent else parse_qs(body.decode()).get("paths", [])
            entries = [*self._entries(files, ""), *_folders(files)]
            return [entry for entry in entries if entry["path"] in wanted]
        raise Refusal(404, "", "Not found")

    def _tree(self, files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
        found = self._entries(files, f"{folder}/" if folder else "")
        if folder and not found:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        query = parse_qs(urlsplit(self.path).query)
        folders = [entry for entry in _folders(files) if entry["path"].startswith(f"{folder}/" if folder else "")]
        if query.get("recursive", ["false"])[0].lower() in ("true", "1"):
            return [*folders, *found]
        depth = len(folder.split("/")) if folder else 0
        return [entry for entry in (*folders, *found) if entry["path"].count("/") == depth]

    def _entries(self, files: dict[str, bytes], prefix: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
            if path.startswith(prefix)
        ]

    def _send_file(self, name: str, rest: str) -> None:
        repository = self._repository(name)
        if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 403 if "Authorization" in self.headers else 401
            raise Refusal(status, "GatedRepo", f"Access to dataset {name} is restricted.")
        revision, _, path = rest.partition("/")
        sha, files = repository.files(revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist")
        data = files[path]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        first, last, total = 0, len(data) - 1, len(data)
        if asked := self.headers.get("Range", "").removeprefix("bytes="):
            start, _, end = asked.partition("-")
            first, last = int(start), min(int(end or last), last)
            headers["Content-Range"] = f"bytes {first}-{last}/{total}"
        self._send(206 if asked else 200, data[first : last + 1], headers)

    def _repository(self, name: str) -> Repository:
        if name not in self.hub.repositories:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        return self.hub.repositories[name]

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _folders(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    paths = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    return [
        {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
        for path in sorted(paths)
    ]
