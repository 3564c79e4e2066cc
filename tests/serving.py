"""Servers for tests, on this machine: a web server with and without its manners, and a store that speaks S3."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from clipzoo import files
from clipzoo.files._remote import Remote
from clipzoo.labeling import ColumnReport, label
from making import Bright, Near

BUCKET = "bucket"


def put(folder: Path, address: str) -> str:
    """A folder of the disk, in a store."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            Remote.parse(f"{address}/{path.relative_to(folder)}").write(path.read_bytes())
    return address


def run(data: object, out: object, *experts: object, **options: Any) -> list[ColumnReport]:
    options = {"progress": False, "check": False, **options}
    return label(str(data), list(experts) or [Bright(), Near()], str(out), device="cpu", **options)


def contents(out: object) -> dict[str, bytes]:
    """Every byte of a store that is not a cost."""
    root = files.place(str(out))
    return {
        name: (root / name).read_bytes() for name in sorted(files.below(root)) if re.search(r"(tar|parquet)$", name)
    }


@dataclass
class Web:
    """A folder on the web; what it does is set while it runs.

    ``ranges``: whether it answers range requests. ``index``: whether it shows folders. ``faults``: a status (or 0: hang
    up) for each of the next requests. ``outage``: the end of a path whose first request begins an outage. ``stall``:
    seconds before each answer. ``asked``: (method, path, bytes sent).
    """

    root: Path
    address: str = ""
    ranges: bool = True
    index: bool = False
    faults: list[int] = field(default_factory=list)
    outage: str = ""
    stall: float = 0.0
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    def sent(self, suffix: str = "") -> int:
        """Bytes that were sent of files whose names end so."""
        return sum(count for _, path, count in self.asked if path.endswith(suffix))


class Handler(SimpleHTTPRequestHandler):
    """Answers as its ``state`` says."""

    state: Web
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(self.state.root))

    def log_message(self, *args: Any) -> None:
        pass

    def list_directory(self, path: Any) -> Any:
        if self.state.index:
            return super().list_directory(path)
        self.send_error(403)
        return None

    def do_HEAD(self) -> None:
        if not self.faulty():
            super().do_HEAD()

    def do_GET(self) -> None:
        if self.faulty():
            return
        path, asked = Path(self.translate_path(self.path)), self.headers.get("Range")
        if not path.is_file() or not asked or not self.state.ranges:
            self.state.asked.append(("GET", self.path, path.stat().st_size if path.is_file() else 0))
            super().do_GET()  # who has an answer finds the request noted
            return
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", asked).groups()
        size = path.stat().st_size
        if int(first) >= size:
            self.send_error(416)
            return
        data = path.read_bytes()[int(first) : int(last) + 1]
        self.state.asked.append(("GET", self.path, len(data)))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def faulty(self) -> bool:
        time.sleep(self.state.stall)
        if self.state.outage and self.path.endswith(self.state.outage):
            self.state.faults, self.state.outage = [503] * 1000, ""
        if not self.state.faults:
            return False
        status = self.state.faults.pop(0)
        if status:
            self.send_error(status)
        else:
            self.close_connection = True
        return True


@contextmanager
def web(root: Path) -> Iterator[Web]:
    """A web server for ``root``."""
    state = Web(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"state": state}))
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


@dataclass
class S3:
    """A store; ``victim`` is a process that is killed when it uploads its ``kill_at``-th file that ends in ``.tar``."""

    endpoint: str
    environment: dict[str, str]
    victim: int = 0
    kill_at: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def s3(bucket: str) -> Iterator[S3]:
    """A server that speaks S3, with one bucket; needs moto, Flask and boto3."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *args: Any, **kwargs: Any) -> None:
            pass

    app = DomainDispatcherApplication(create_backend_app)

    def front(environ: dict[str, Any], start: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        state.asked.append((method, path))
        if state.victim and method == "PUT" and path.endswith(".tar"):
            state.kill_at -= 1
            if state.kill_at == 0:
                environ["wsgi.input"].read(64)  # some of it has come
                os.kill(state.victim, signal.SIGKILL)
                state.victim = 0
                start("503 Service Unavailable", [("Content-Length", "0")])
                return [b""]
        return app(environ, start)

    server = make_server("127.0.0.1", 0, front, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    state = S3(endpoint, environment)
    import boto3

    boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    ).create_bucket(Bucket=bucket)
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
