#!/usr/bin/env bash
#
# Packages: fsspec 2026.9.0, aiohttp 3.14.5
# Behavior: A file of a web server is opened through fsspec's simplecache:: or filecache::, and the
#   connection ends in the middle of the file. The first attempt raises a ClientPayloadError. The
#   half that arrived stays in the cache under its final name, so the second attempt returns that
#   half without an error, also in another process with the same cache_storage, and does not ask
#   for the rest of the file.
# Expected instead: A download goes to a temporary name and is renamed when it is complete, or the
#   cache compares the size with that of the server; the second attempt downloads the rest.
# Why it matters: A job that retries after a network error, as most loaders of shards and weights
#   do, trains on a cut shard: a tar without its last members and a JSON lines file without its
#   last lines are read without an error. Use a fresh cache_storage for each attempt, remove the
#   file after an error, or compare the size with fs.size().
# Output seen (CPython 3.11, Linux x86-64):
#   fsspec 2026.9.0
#   simplecache: first ClientPayloadError, then 500000 of 1000000 bytes
#   filecache: first ClientPayloadError, then 500000 of 1000000 bytes

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir fsspec==2026.9.0 aiohttp==3.14.5
fi

cat > "$work/probe.py" <<'PY'
import os
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec

print("fsspec", fsspec.__version__)
DATA = os.urandom(1_000_000)
cuts = [0]


class Handler(BaseHTTPRequestHandler):
    """Sends one file, of which the next ``cuts`` answers end in the middle."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.send_header("Accept-Ranges", "none")
        self.end_headers()
        if body:
            cut = cuts[0] > 0
            cuts[0] -= cut
            self.wfile.write(DATA[: len(DATA) // 2] if cut else DATA)
            self.close_connection = True

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)


ThreadingHTTPServer.handle_error = lambda *args: None
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()


def read(kind, storage):
    url = f"{kind}::http://127.0.0.1:{server.server_port}/shard.tar"
    try:
        with fsspec.open(url, "rb", **{kind: {"cache_storage": storage}}) as file:
            data = file.read()
    except Exception as error:
        return type(error).__name__
    return len(data) if DATA.startswith(data) else "other bytes"


seen = {}
for kind in ("simplecache", "filecache"):
    with tempfile.TemporaryDirectory() as storage:
        cuts[0] = 2  # the first answer may only be looked at
        first = read(kind, storage)
        cuts[0] = 0
        seen[kind] = (first, read(kind, storage))
        print(f"{kind}: first {first}, then {seen[kind][1]} of {len(DATA)} bytes")
expected = ("ClientPayloadError", len(DATA) // 2)
raise SystemExit(not (seen["simplecache"] == seen["filecache"] == expected))
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
