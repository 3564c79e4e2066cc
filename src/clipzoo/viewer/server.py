"""The viewer's server: fixed routes over one store and its dataset, for this machine by default.

Every request needs the token of the printed address, which the browser then keeps as a cookie; a request under another
host name (DNS rebinding) is refused. No route takes a path of a file.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from clipzoo.errors import ClipzooError, StoreError
from clipzoo.files import AnyPath, Place
from clipzoo.store import Store
from clipzoo.store.summary import summary
from clipzoo.viewer import query
from clipzoo.viewer.pictures import SIDES, Pictures
from clipzoo.viewer.scan import Entries, Labeled, Scan
from clipzoo.viewer.table import LABELED, NO_ROW, read_table

PAGE = 200
"""The largest number of rows of one answer."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Given = Mapping[str, Sequence[str]]


class Viewer:
    """A server of one store; use it as a context, or call `start` and `close`."""

    def __init__(self, store: AnyPath | Place, data: AnyPath, host: str = "127.0.0.1", port: int = 0) -> None:
        columns = Store(store).columns(needed=True)
        labeled = Labeled.open(data, columns)
        self.title, self.token = str(store), secrets.token_urlsafe(16)
        self.table = read_table(columns)
        self.entries = Entries(self.table, labeled)
        self.scan, self.pictures = Scan(self.table, self.entries), Pictures(self.table, self.entries)
        self._found: OrderedDict[tuple[query.Query, int], NDArray[np.int32]] = OrderedDict()
        self._lock = threading.Lock()
        try:
            self._server = _Server((host, port), self)
        except (OSError, OverflowError) as error:
            raise StoreError(
                f"the viewer cannot listen on {_bracketed(host)}:{port}: {error}. Give another --port, or 0 for any "
                "free one, or a --host of this machine"
            ) from error
        self.host, self.port = host, int(self._server.server_address[1])

    @property
    def address(self) -> str:
        """The address to open, with the token."""
        return f"http://{_bracketed(self.host)}:{self.port}/?token={self.token}"

    def start(self) -> None:
        """Serve in a thread, and read captions and classes in another."""
        self.scan.start()
        threading.Thread(target=self._server.serve_forever, name="view-server", daemon=True).start()

    def serve(self, announce: Callable[[], None] = lambda: None) -> None:
        """Serve until Ctrl-C; ``announce`` is called when Ctrl-C stops the viewer."""
        try:
            self.scan.start()
            announce()
            self._server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            self._server.server_close()
            self.scan.stop()

    def close(self) -> None:
        """Stop a server that `start` started."""
        self._server.shutdown()
        self._server.server_close()
        self.scan.stop()

    def __enter__(self) -> Viewer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def allows(self, host: str) -> bool:
        """Return True if a request's ``Host`` names this server; any host if it does not listen on loopback only."""
        if not _is_loopback(self.host):
            return True
        return host in {f"{name}:{self.port}" for name in (_bracketed(self.host), "127.0.0.1", "localhost", "[::1]")}

    # Answers -------------------------------------------------------------------------------------------------

    def about(self) -> dict[str, object]:
        """Return the columns, their classes and failures, the pairs that are compared, and the progress of the scan."""
        columns = [
            {
                "name": column.name, "summary": summary(column), "classes": list(column.convention.classes),
                "labeled": int((cells.state == LABELED).sum()), "reasons": _counted(cells.reason, cells.reasons),
                "confidence": bool(np.isfinite(cells.confidence).any()),
            }
            for column, cells in zip(self.table.columns, self.table.cells, strict=True)
        ]  # fmt: skip
        pairs = [[self.table.columns[i].name for i in pair] for pair in self.scan.pairs]
        return {"title": self.title, "samples": len(self.table), "columns": columns, "pairs": pairs, **self.progress()}

    def progress(self) -> dict[str, object]:
        """Return how far the scan is, and the class histograms so far."""
        scan = self.scan
        histograms = {str(i): scan.histogram(i).tolist() for i in scan.classes}
        return {"done": scan.done, "total": scan.total, "problem": scan.problem, "histograms": histograms}

    def rows(self, given: Given) -> dict[str, object]:
        """Return a page of rows: ``offset`` and ``limit`` in addition to the parameters of `query.Query`."""
        offset, limit = (_whole(given, name, default) for name, default in (("offset", 0), ("limit", 50)))
        asked = query.Query.parse({k: v for k, v in given.items() if k not in ("offset", "limit")})
        found = self._rows(asked)
        page = found[offset : offset + min(limit, PAGE)].tolist()
        return {"total": len(found), "offset": offset, "rows": [self.row(row) for row in page]}

    def _rows(self, asked: query.Query) -> NDArray[np.int32]:
        key = asked, self.scan.version if asked.grows else 0
        with self._lock:
            if key not in self._found:
                self._found[key] = query.rows(self.table, self.scan, asked)
                while len(self._found) > 8:
                    self._found.popitem(last=False)
            return self._found[key]

    def row(self, row: int) -> dict[str, object]:
        """Return what is known of a sample."""
        number = self.table.shard(row)
        labels = []
        for i, cells in enumerate(self.table.cells):
            confidence = float(cells.confidence[row])
            error = "the sample has no row in this column" if cells.state[row] == NO_ROW else self.table.reason(i, row)
            labels.append({
                "error": error, "valid": float(cells.valid[row]), "bytes": int(cells.size[row]),
                "confidence": confidence if np.isfinite(confidence) else None, "classes": self.scan.names(i, row),
            })  # fmt: skip
        apart = [float(values[row]) for values in self.scan.disagreement]
        return {
            "row": row, "key": self.table.key(row), "shard": self.table.shards[number],
            "caption": self.scan.captions[number][row - int(self.table.starts[number])].as_py() or "",
            "labels": labels, "disagreement": [value if np.isfinite(value) else None for value in apart],
        }  # fmt: skip

    def picture(self, given: Given) -> bytes:
        """Return the JPEG file of an image, or of a label if a ``column`` is given."""
        row, side = _whole(given, "row", None), SIDES[_whole(given, "large", 0) > 0]
        if row >= len(self.table):
            raise StoreError(f"row={row} is not in the store, which has {len(self.table)} samples")
        if "column" not in given:
            return self.pictures.image(row, side)
        return self.pictures.label(self._column(given), row, side, _whole(given, "plain", 0) > 0)

    def legend(self, given: Given) -> dict[str, object]:
        """Return the legend of a label."""
        row = _whole(given, "row", None)
        if row >= len(self.table):
            raise StoreError(f"row={row} is not in the store, which has {len(self.table)} samples")
        return {"legend": self.pictures.legend(self._column(given), row)}

    def _column(self, given: Given) -> int:
        column = _whole(given, "column", None)
        if column >= len(self.table.columns):
            raise StoreError(f"column={column} is not in the store, which has {len(self.table.columns)} columns")
        return column


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], viewer: Viewer) -> None:
        self.viewer = viewer
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)


TEXT = "text/plain; charset=utf-8"
FIELDS = 50
"""Parameters that an address may have."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is malformed, or of another method (501 in http.server), in a line of text."""
        self.close_connection = True  # the body of the request is not read
        other = code == 501
        text = "the viewer answers GET and HEAD only" if other else message or "the request is malformed"
        self._send(
            405 if other else code, TEXT, text.encode("utf-8", "replace"), {"Allow": "GET, HEAD"} if other else {}
        )

    def do_GET(self) -> None:
        viewer, parts = self.server.viewer, urlsplit(self.path)
        try:
            given = parse_qs(parts.query, keep_blank_values=True, max_num_fields=FIELDS)
        except ValueError:
            return self._text(400, f"the address has more than {FIELDS} parameters")
        if not viewer.allows(self.headers.get("Host", "")):
            return self._text(403, "this host name is not the viewer's: open the address that clipzoo view printed")
        if parts.path == "/" and _equal(given.get("token", [""])[-1], viewer.token):
            return self._send(200, "text/html; charset=utf-8", page(viewer.title), cookie=True)
        if not self._has_cookie():
            return self._text(403, "open the address that clipzoo view printed: it ends with a token")
        try:
            self._answer(viewer, parts.path, given)
        except ClipzooError as error:
            self._text(404 if parts.path == "/picture" else 400, str(error))

    def _answer(self, viewer: Viewer, path: str, given: Given) -> None:
        if path == "/":
            return self._send(200, "text/html; charset=utf-8", page(viewer.title))
        if path == "/picture":
            return self._send(200, "image/jpeg", viewer.picture(given), {"Cache-Control": "private, max-age=600"})
        if path == "/about":
            return self._json(viewer.about())
        if path == "/progress":
            return self._json(viewer.progress())
        if path == "/rows":
            return self._json(viewer.rows(given))
        if path == "/legend":
            return self._json(viewer.legend(given))
        return self._text(404, "the viewer has no such page")

    def _has_cookie(self) -> bool:
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return False
        held = cookies.get(self._cookie)
        return held is not None and _equal(held.value, self.server.viewer.token)

    @property
    def _cookie(self) -> str:
        return f"clipzoo-view-{self.server.viewer.port}"

    def _json(self, value: object) -> None:
        self._send(200, "application/json", json.dumps(value).encode())

    def _text(self, status: int, text: str) -> None:
        self._send(status, TEXT, text.encode("utf-8", "replace"))

    def _send(
        self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None, cookie: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        if cookie:
            self.send_header(
                "Set-Cookie", f"{self._cookie}={self.server.viewer.token}; HttpOnly; SameSite=Strict; Path=/"
            )
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        try:
            if self.command != "HEAD":
                self.wfile.write(body)
        except ConnectionError:  # the browser scrolled on
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing for a request."""


def page(title: str) -> bytes:
    """Return the page; it has no data but the title."""
    from html import escape

    folder = Path(__file__).parent
    style = (folder.parent / "pages" / "style.css").read_text(encoding="utf-8")
    text = (folder / "page.html").read_text(encoding="utf-8")
    return text.replace("/*style*/", style).replace("{{title}}", escape(title)).encode("utf-8", "replace")


def open_viewer(store: AnyPath | Place, data: AnyPath, host: str = "127.0.0.1", port: int = 0) -> Viewer:
    """Return a viewer of a store and its dataset that listens on a port, and does not serve yet.

    Raises:
        StoreError: the store has no column, belongs to another dataset, or the port is in use.
        DatasetError: the dataset cannot be read.
    """
    return Viewer(store, data, host, port)


def _bracketed(host: str) -> str:
    """Return a host as it is written in an address: an IPv6 address has brackets."""
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())


def _whole(given: Given, name: str, default: int | None) -> int:
    if name not in given and default is not None:
        return default
    text = given.get(name, [""])[-1]
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise StoreError(f"{name}={text!r} is not a whole number of at most 9 digits")
    return int(text)


def _counted(reasons: NDArray[np.int32], names: list[str]) -> list[list[object]]:
    """Return [reason, number of samples] of the 20 most frequent reasons."""
    counts = np.bincount(reasons[reasons >= 0], minlength=len(names))
    return [[names[i], int(counts[i])] for i in np.argsort(-counts, kind="stable")[:20].tolist()]
