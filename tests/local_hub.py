"""A Hugging Face hub on this machine: what `huggingface_hub` asks to download from one, and no more."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """Serves the folders `root/owner/name`; `served` are the files that were downloaded."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.served: list[str] = []

    @property
    def endpoint(self) -> str:
        """What `HF_ENDPOINT` is to be."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def _answer(self, body: bool) -> None:
        parts = [unquote(each) for each in urlparse(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            return self._describe(parts[2:])
        file = self.server.root.joinpath(*parts[:2], *parts[4:])
        if len(parts) < 5 or parts[2] != "resolve" or not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = file.read_bytes()
        if body:
            self.server.served.append("/".join(parts[4:]))
        tag = hashlib.sha1(content).hexdigest()
        self._send(200, content if body else b"", {"ETag": f'"{tag}"', "Content-Length": str(len(content))})

    def _describe(self, parts: list[str]) -> None:
        folder = self.server.root.joinpath(*parts[:2])
        if not folder.is_dir():
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if "tree" in parts:
            found: Any = [
                {
                    "type": "file",
                    "path": path.relative_to(folder).as_posix(),
                    "size": path.stat().st_size,
                    "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                }
                for path in files
            ]
        else:
            siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
            found = {
                "id": "/".join(parts[:2]),
                "modelId": "/".join(parts[:2]),
                "sha": COMMIT,
                "siblings": siblings,
            }
        self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def local_hub(root: Path) -> Iterator[Hub]:
    """A hub that runs while the block does."""
    hub = Hub(root)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
