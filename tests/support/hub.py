"""A stand-in for the Hugging Face hub: as much of its HTTP interface as storing and fetching a repository takes."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Repositories = dict[str, dict[str, bytes]]
"""Contents of files by repository and name."""


@contextmanager
def serving(repositories: Repositories) -> Iterator[str]:
    """Serves repositories on this machine and stores what is pushed; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"repositories": repositories}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: Repositories

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        match self._path():
            case ["api", "models", user, name, "tree", *_] if files := self.repositories.get(f"{user}/{name}"):
                self._json([_entry(path, content) for path, content in files.items()])
            case ["api", "models", user, name, *_] if files := self.repositories.get(f"{user}/{name}"):
                siblings = [{"rfilename": path} for path in files]
                self._json({"id": f"{user}/{name}", "sha": COMMIT, "siblings": siblings})
            case [user, name, "resolve", _, path] if path in self.repositories.get(f"{user}/{name}", {}):
                content = self.repositories[f"{user}/{name}"][path]
                self._answer(200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit=COMMIT)
            case _:
                self._answer(404, b"", X_Error_Code="RepoNotFound")

    def do_POST(self) -> None:
        body, address = self.rfile.read(int(self.headers.get("Content-Length", 0))), f"http://{self.headers['Host']}"
        match self._path():
            case ["api", "repos", "create"]:
                given = json.loads(body)
                name = f"{given.get('organization') or 'user'}/{given['name']}"
                self.repositories.setdefault(name, {})
                self._json({"url": f"{address}/{name}", "id": name, "name": name})
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["api", "models", _, _, "preupload", _]:
                paths = [file["path"] for file in json.loads(body)["files"]]
                self._json({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
            case ["api", "models", user, name, "commit", _]:
                added = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
                files = {file["path"]: base64.b64decode(file["content"]) for file in added}
                self.repositories[f"{user}/{name}"] |= files
                url = f"{address}/{user}/{name}/commit/{COMMIT}"
                self._json({"success": True, "commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
            case _:
                self._answer(404)

    def _path(self) -> list[str]:
        return self.path.partition("?")[0].strip("/").split("/")

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
