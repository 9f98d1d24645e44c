"""A stub of the hub on this machine: it takes a repository and a commit, and keeps what was sent."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubStub:
    """What was asked for."""

    def __init__(self) -> None:
        self.created: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.address = ""


@contextmanager
def hub_stub() -> Iterator[HubStub]:
    stub = HubStub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            stub.tokens.add(self.headers.get("Authorization", ""))
            if self.path == "/api/repos/create":
                stub.created.append(json.loads(body))
                owner = stub.created[-1].get("organization") or "somebody"
                self.answer({"url": f"{stub.address}/{owner}/{stub.created[-1]['name']}"})
            elif self.path == "/api/validate-yaml":
                self.answer({"warnings": [], "errors": []})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                self.answer(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        stub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                repository = self.path.partition("/commit/")[0].removeprefix("/api/models/")
                url = f"{stub.address}/{repository}/commit/1"
                self.answer({"commitUrl": url, "commitOid": "1", "success": True})
            else:
                self.send_error(404, f"the stub does not know {self.path}")

        def answer(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
