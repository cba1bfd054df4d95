"""A server on loopback that stands in for the Hugging Face Hub: repositories in memory, and the few paths we use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"
Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """The repositories, each a list of commits: `hub.repositories["models/owner/name"][-1]["README.md"]`.

    Attributes:
        repositories: for each repository, the files after each commit.
        asked: method and path of each request.
        failing_at: part of the paths that are answered with an error of the server; None for no path.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, list[Files]] = {}
        self.asked: list[str] = []
        self.failing_at: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sha(self, repository: str, revision: str) -> str | None:
        """Return the commit of a branch or commit."""
        commits = self.repositories[repository]
        hashes = [hashlib.sha1(f"{repository} {index}".encode()).hexdigest() for index in range(len(commits))]
        return hashes[-1] if revision == "main" else revision if revision in hashes else None

    def files(self, repository: str, revision: str) -> Files:
        """Return the files of a commit."""
        commits = self.repositories[repository]
        shas = {
            hashlib.sha1(f"{repository} {index}".encode()).hexdigest(): files for index, files in enumerate(commits)
        }
        return shas[self.sha(repository, revision) or ""]


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Yield a running Hub without repositories."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers as the Hub does."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if self.server.failing_at is not None and self.server.failing_at in path:
            self._send(500, {"error": "the server has a fault"})
            return
        for pattern, method in _ROUTES.items():
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                getattr(self, method)(body, **match.groupdict())
                return
        self._send(404, {"error": "no such path"})

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def _may_write(self) -> bool:
        may = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not may:
            self._send(401, {"error": "Invalid username or password."})
        return may

    def _is_there(self, repository: str, revision: str = "main") -> bool:
        if repository not in self.server.repositories:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return False
        if self.server.sha(repository, revision) is None:
            self._send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return False
        return True

    def create(self, body: bytes) -> None:
        if not self._may_write():
            return
        asked = json.loads(body)
        kind = f"{asked.get('type', 'model')}s"
        name = f"{asked['organization']}/{asked['name']}"
        if f"{kind}/{name}" in self.server.repositories:
            self._send(409, {"error": "You already created this repo", "url": f"{self.server.url}/{name}"})
            return
        self.server.repositories[f"{kind}/{name}"] = [{}]
        prefix = "" if kind == "models" else f"{kind}/"
        self._send(200, {"url": f"{self.server.url}/{prefix}{name}"})

    def validate(self, body: bytes) -> None:
        is_card = json.loads(body)["content"].startswith("---\n")
        self._send(200 if is_card else 400, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, repository: str) -> None:
        if not self._may_write() or not self._is_there(repository):
            return
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def commit(self, body: bytes, repository: str) -> None:
        if not self._may_write() or not self._is_there(repository):
            return
        files = dict(self.server.repositories[repository][-1])
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        self.server.repositories[repository].append(files)
        sha = self.server.sha(repository, "main")
        url = f"{self.server.url}/{repository.removeprefix('models/')}/commit/{sha}"
        self._send(200, {"success": True, "commitOid": sha, "commitUrl": url, "pullRequestUrl": None})

    def info(self, body: bytes, repository: str, revision: str | None = None) -> None:
        revision = revision or "main"
        if not self._is_there(repository, revision):
            return
        sha = self.server.sha(repository, revision)
        files = [{"rfilename": name} for name in self.server.files(repository, revision)]
        self._send(200, {"id": repository.partition("/")[2], "sha": sha, "private": False, "siblings": files})

    def tree(self, body: bytes, repository: str, revision: str, below: str | None = None) -> None:
        if not self._is_there(repository, revision):
            return
        entries = []
        for name, content in self.server.files(repository, revision).items():
            if name.startswith(below or ""):
                oid = hashlib.sha1(content).hexdigest()
                entries.append({"type": "file", "path": name, "size": len(content), "oid": oid})
        self._send(200, entries)

    def listing(self, body: bytes, kind: str) -> None:
        found = [name.partition("/")[2] for name in self.server.repositories if name.startswith(f"{kind}/")]
        self._send(200, [{"id": name} for name in found])

    def resolve(self, body: bytes, kind: str | None, name: str, revision: str, file: str) -> None:
        repository = f"{kind or 'models'}/{name}"
        if not self._is_there(repository, revision):
            return
        content = self.server.files(repository, revision).get(file)
        sha = self.server.sha(repository, revision) or ""
        if content is None:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
            return
        etag = hashlib.sha1(content).hexdigest()
        self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"})


_NAME = r"[^/]+/[^/]+"
_ROUTES = {
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "validate",
    rf"POST /api/(?P<repository>\w+/{_NAME})/preupload/main": "preupload",
    rf"POST /api/(?P<repository>\w+/{_NAME})/commit/main": "commit",
    rf"GET /api/(?P<repository>(models|datasets)/{_NAME})": "info",
    rf"GET /api/(?P<repository>(models|datasets)/{_NAME})/revision/(?P<revision>[^/]+)": "info",
    rf"GET /api/(?P<repository>(models|datasets)/{_NAME})/tree/(?P<revision>[^/]+)(/(?P<below>.+))?": "tree",
    r"GET /api/(?P<kind>models|datasets)": "listing",
    rf"(GET|HEAD) /((?P<kind>datasets)/)?(?P<name>{_NAME})/resolve/(?P<revision>[^/]+)/(?P<file>.+)": "resolve",
}
