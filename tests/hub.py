"""A stand-in for the HTTP API of the Hugging Face hub, as huggingface_hub 2.4 calls it to upload a folder."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".safetensors", ".onnx")


@dataclass
class Hub:
    """The repositories of a hub: name -> file -> bytes.

    Attributes:
        address: of the server.
        repositories: committed files.
        private: the visibility that each repository was created with.
        commits: messages of commits.
        refuse: status that is answered to every request, 0 for none.
        requests: (method, path), in order.
    """

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool | None] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    refuse: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    """Answers requests from the state of its hub."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, values: Any, status: int = 200) -> None:
        data = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def allowed(self) -> bool:
        self.hub.requests.append((self.command, self.path.partition("?")[0]))
        if not self.hub.refuse and self.headers.get("Authorization") != "Bearer hf_test" and "/put/" not in self.path:
            self.answer({"error": "no token"}, 401)
            return False
        if self.hub.refuse:
            self.answer({"error": "refused by the test"}, self.hub.refuse)
        return not self.hub.refuse

    def do_GET(self) -> None:
        if not self.allowed():
            return
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] != ["api", "models"]:
            self.answer({"error": "unknown"}, 404)
            return
        name = "/".join(parts[2:4])
        files = self.hub.repositories.get(name)
        if files is None:
            self.answer({"error": "no such repository"}, 404)
        elif "tree" in parts:
            tree = [{"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in files.items()]
            self.answer(tree)
        else:
            siblings = [{"rfilename": path} for path in files]
            self.answer({"id": name, "sha": "0" * 40, "siblings": siblings, "private": False, "tags": []})

    def do_PUT(self) -> None:
        data = self.body()
        if self.allowed():
            self.hub.objects[self.path.rpartition("/")[2]] = data
            self.answer({})

    def do_POST(self) -> None:
        data = self.body()
        if not self.allowed():
            return
        path = self.path.partition("?")[0].strip("/")
        if path == "api/repos/create":
            self.create(json.loads(data))
        elif path == "api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {
                    "path": one["path"], "shouldIgnore": False,
                    "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                }
                for one in json.loads(data)["files"]
            ]  # fmt: skip
            self.answer({"files": files})
        elif path.endswith("objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/put/{one['oid']}"}}}
                for one in json.loads(data)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self.commit("/".join(path.split("/")[2:4]), [json.loads(line) for line in data.splitlines()])
        else:
            self.answer({"error": f"unknown: {path}"}, 404)

    def create(self, asked: dict[str, Any]) -> None:
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        if name in self.hub.repositories:
            self.answer({"error": "exists", "url": f"{self.hub.address}/{name}"}, 409)
            return
        self.hub.repositories[name] = {}
        self.hub.private[name] = {"private": True, "public": False}.get(asked.get("visibility"), asked.get("private"))
        self.answer({"url": f"{self.hub.address}/{name}"})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.hub.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.answer({"commitUrl": f"{self.hub.address}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40})


@contextmanager
def hub() -> Iterator[Hub]:
    """Run a hub on this machine."""
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": state}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
