"""A file or folder behind an address, as ``s3://bucket/labels``: what is asked of a `pathlib.Path`, answered by fsspec.

Credentials and endpoints are fsspec's and each store's own: environment variables, profiles, ``~/.config/fsspec``.
What is not there is a `FileNotFoundError`, as on a disk; whatever else goes wrong is a `RemoteError`, which is no
`OSError`: what cannot be reached must stop a run, and never be taken for a damaged file.
"""

from __future__ import annotations

import errno
import io
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import fsspec

from clipzoo.errors import RemoteError

WEB = ("http", "https")
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Where an upload appears whole or not at all; nothing is written elsewhere."""

TRIES, WAIT, TIMEOUT = 4, 1.0, 30.0
"""Attempts, seconds before the second one (doubled each time), and, over HTTP, seconds without a byte that end one.
Some file systems try again by themselves, before that."""

LEAST, MOST = 2**16, 2**22
"""Bytes that are read ahead: after a jump, and while reading goes on in order."""

WHOLE = 2**40
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_LOGINS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE; FSSPEC_S3_ANON=true reads a public bucket",
    "gcs": "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS; FSSPEC_GS_TOKEN=anon "
    "reads a public bucket",
}


@dataclass(frozen=True, order=True)
class Remote:
    """An address; ``inner`` is what follows ``://``, the host or bucket first."""

    protocol: str
    inner: PurePosixPath

    @classmethod
    def parse(cls, address: str) -> Remote:
        """Take ``protocol://host-or-bucket/path`` apart.

        Raises:
            RemoteError: no file system has this protocol, or nothing follows it.
        """
        protocol, _, rest = address.partition("://")
        if protocol not in fsspec.available_protocols():
            raise RemoteError(f"{address!r}: {protocol}:// is not known; there are s3://, gs://, https:// and others")
        if not rest.strip("/"):
            raise RemoteError(f"{address!r} names no bucket or host; give {protocol}://NAME/path")
        return cls(protocol, PurePosixPath(rest))

    def __str__(self) -> str:
        return f"{self.protocol}://{self.inner}"

    def __truediv__(self, name: str) -> Remote:
        """The file of this name below it; on the web, where ``#`` and ``?`` mean something else, percent-encoded."""
        return Remote(self.protocol, self.inner / (quote(name) if self.protocol in WEB else name))

    @property
    def name(self) -> str:
        """The last part."""
        return self.inner.name

    @property
    def suffix(self) -> str:
        """The last part's ending, with its dot."""
        return self.inner.suffix

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return self.inner.stem

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts, the host or bucket first."""
        return self.inner.parts

    @property
    def parent(self) -> Remote:
        """The folder that holds it."""
        return Remote(self.protocol, self.inner.parent)

    @property
    def parents(self) -> tuple[Remote, ...]:
        """Every folder that holds it, the nearest first."""
        return tuple(Remote(self.protocol, inner) for inner in self.inner.parents)

    def resolve(self) -> Remote:
        """Itself: there are no links."""
        return self

    def relative_to(self, other: Remote) -> PurePosixPath:
        """The path below ``other``, as names of files; `ValueError` if it is not there."""
        below = self.inner.relative_to(other.inner)
        return PurePosixPath(unquote(str(below))) if self.protocol in WEB else below

    def with_name(self, name: str) -> Remote:
        """Another one in the same folder."""
        return Remote(self.protocol, self.inner.with_name(name))

    # Read ----------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return bool(self._info())

    def is_file(self) -> bool:
        """Whether a file is there."""
        info = self._info()
        return info.get("type") == "file" and not _is_page(info)

    def is_dir(self) -> bool:
        """Whether files lie below it; on a web server, whether it shows a page, which may list them."""
        info = self._info()
        return info.get("type") == "directory" or _is_page(info)

    def size(self) -> int:
        """Its bytes; `FileNotFoundError` if it is not there."""
        info = self._info()
        if not info:
            raise _missing(self)
        if info.get("size") is None:
            raise RemoteError(f"the server does not tell the size of {self}; copy the file to a disk or bucket")
        return int(info["size"])

    def state(self) -> str:
        """All that is told of it without reading it, as size, time and ETag; "" if it is not there."""
        return " ".join(f"{name}={value}" for name, value in sorted(self._info().items()))

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, or fewer where the file ends before."""
        if size <= 0:
            return b""
        try:
            data: bytes = self._ask("cat_file", start=offset, end=offset + size)
        except RemoteError:
            if offset < self.size():
                raise
            return b""  # a range behind the end is an error of most servers
        if len(data) > size:
            raise RemoteError(
                f"the server gives the whole of {self} where a part is asked for; use one that answers range requests "
                "(nginx, Apache, Caddy, any object store), or copy the files"
            )
        return data

    def read_bytes(self) -> bytes:
        """All of it, by one request."""
        return self.read(0, WHOLE)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """A file to read from, by ranges."""
        assert mode == "rb"
        return io.BufferedReader(RemoteFile(self))

    def below(self) -> dict[str, int]:
        """Path below it -> bytes of every file, sorted; bytes are 0 where a web server lists them.

        Raises:
            FileNotFoundError: nothing is there. RemoteError: it is a web server that shows no list.
        """
        if self.protocol in WEB and not self.is_dir():
            raise RemoteError(f"{self} cannot be listed: a web server has no folders unless it shows an index page")
        found: dict[str, dict[str, Any]] = self._ask("find", detail=True)
        if not found:
            raise _missing(self)
        names = {self._below(name): info.get("size") or 0 for name, info in found.items() if "?" not in name}
        return {name: names[name] for name in sorted(names) if name}

    def folders(self) -> list[Remote]:
        """The folders right below it; none if there is nothing."""
        try:
            found = self._ask("ls", detail=True)
        except FileNotFoundError:
            return []
        return sorted(self / self._below(one["name"]) for one in found if one["type"] == "directory")

    def glob(self) -> list[Remote]:
        """The visible files whose addresses fit it, as a pattern with ``*`` and ``[]``; sorted."""
        root = next(one for one in self.parents if not set("*?[") & set(str(one)))
        found = self._ask("glob", detail=True)
        names = [root._below(name) for name, info in found.items() if info["type"] == "file"]
        return sorted(root / name for name in names if "/." not in f"/{name}")

    # Write ---------------------------------------------------------------------------------------------

    def write(self, data: bytes, new: bool = False) -> None:
        """Put a small file there, whole or not at all; `FileExistsError` if it must be ``new`` and is not."""
        self._writable()
        self._ask("pipe_file", data, mode="create" if new else "overwrite")

    def upload(self, path: Path) -> None:
        """Put a local file there, whole or not at all."""
        self._writable()
        system = _system(self.protocol)
        self._tried(lambda: system.put_file(str(path), str(self)))

    def copy(self, source: Remote) -> None:
        """Put a file of the same store there, without its bytes passing here."""
        self._writable()
        source._ask("cp_file", str(self))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            self._ask("rm_file")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _writable(self) -> None:
        if self.protocol not in STORES:
            raise RemoteError(
                f"{self} cannot be written: a file must appear whole or not at all; give a folder of a disk, or "
                "s3://, gs:// or az://"
            )

    # Ask -----------------------------------------------------------------------------------------------

    def _info(self) -> dict[str, Any]:
        """What fsspec knows of it; empty if nothing is there."""
        try:
            info: dict[str, Any] = self._ask("info")
        except FileNotFoundError:
            return {}
        return info

    def _below(self, name: str) -> str:
        """A path below this one, from the name by which its file system calls it."""
        root = _system(self.protocol)._strip_protocol(str(self)).rstrip("/")
        below = name.removeprefix(root).strip("/")
        return unquote(below) if self.protocol in WEB else below

    def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        system = _system(self.protocol)
        return self._tried(lambda: getattr(system, method)(str(self), *args, **kwargs))

    def _tried(self, call: Any) -> Any:
        """What ``call`` gives; tried again where another attempt may help."""
        for attempt in range(1, TRIES + 1):
            try:
                return call()
            except Exception as raised:  # each file system has its own kinds
                error = _real(raised)
                if attempt == TRIES or not _passing(error):
                    raise _told(error, self, attempt) from raised
            time.sleep(WAIT * 2 ** (attempt - 1))
        raise AssertionError


class RemoteFile(io.RawIOBase):
    """A file read by ranges, ahead of what is asked: more while reading goes on in order, little after a jump."""

    def __init__(self, where: Remote) -> None:
        self.where, self.size = where, where.size()
        self._at, self._start, self._block, self._ahead = 0, 0, b"", LEAST

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte; nothing is read."""
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read at most as many bytes as the buffer has."""
        wanted = min(len(buffer), self.size - self._at)
        if wanted <= 0:
            return 0
        at = self._at - self._start
        if not 0 <= at < len(self._block):
            onward = 0 <= at - len(self._block) <= self._ahead
            self._ahead = min(2 * self._ahead, MOST) if onward else LEAST
            self._start, self._block, at = self._at, self.where.read(self._at, max(wanted, self._ahead)), 0
        data = self._block[at : at + wanted]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _system(protocol: str) -> Any:
    """The file system; fsspec keeps one a process (a thread, where it cannot be shared) and makes another in a fork."""
    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        if protocol in WEB:
            options |= _web_options()
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        how = f"pip install 'clipzoo[{extra}]'" if extra else str(error)
        raise RemoteError(f"{protocol}:// needs a package that is not installed ({error}): {how}") from error


def _web_options() -> dict[str, Any]:
    """Bytes as they lie there, and time-outs by silence, not by the length of a download."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
    return {"headers": {"Accept-Encoding": "identity"}, "client_kwargs": {"timeout": timeout}}


def _is_page(info: dict[str, Any]) -> bool:
    return info.get("mimetype") == "text/html"


# Errors ----------------------------------------------------------------------------------------------------


def _status(error: BaseException | None) -> int:
    """The HTTP status that an error carries, or 0."""
    found = getattr(error, "status", None) or getattr(error, "code", None)
    return found if isinstance(found, int) else 0


def _passing(error: BaseException) -> bool:
    """Whether another attempt may help."""
    names = {kind.__name__ for kind in type(error).__mro__}
    gone = names & {"ClientConnectionError", "ClientPayloadError", "TimeoutError", "FSTimeoutError"}
    return bool(gone) or _status(error) in (408, 425, 429) or 500 <= _status(error) < 600


def _real(error: BaseException) -> BaseException:
    """The error itself: fsspec calls whatever goes wrong when it asks a web server for a file "not found"."""
    cause = error.__cause__
    hidden = isinstance(error, FileNotFoundError) and cause is not None
    if hidden and (_passing(cause) or _status(cause) not in (0, 404, 410)):  # type: ignore[arg-type]
        return cause  # type: ignore[return-value]
    return error


def _missing(where: Remote, told: str = "") -> FileNotFoundError:
    text = f"nothing is there: {told}" if told and told != str(where) else "nothing is there"
    return FileNotFoundError(errno.ENOENT, text, str(where))


def _told(error: BaseException, where: Remote, attempts: int) -> Exception:
    """What a file system's error means to the user."""
    if isinstance(error, RemoteError):
        return error
    kind, said = type(error).__name__, " ".join(str(error).split()) or "no more is known"
    if isinstance(error, FileExistsError) or "PreconditionFailed" in said:
        return FileExistsError(errno.EEXIST, "it is there already", str(where))
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or _status(error) in (404, 410):
        return _missing(where, "" if where.name in said else said)
    if isinstance(error, PermissionError) or _status(error) in (401, 403) or "Credentials" in kind:
        login = _LOGINS.get(_EXTRAS.get(where.protocol, ""), "check the address and your rights")
        return RemoteError(f"{where}: access was refused ({said}); {login}")
    if _passing(error) or "Connect" in kind or "Timeout" in kind:
        times = f", {attempts} times" if attempts > 1 else ""
        return RemoteError(
            f"{where} cannot be reached{times} ({kind}: {said}); check the network and the name of the host or "
            "endpoint, and run the same again: what is done is kept"
        )
    return RemoteError(f"{where} cannot be used ({kind}: {said}); check the address")
