"""A remote file or folder such as ``s3://bucket/labels``: the interface of `pathlib.Path`, implemented with fsspec.

Credentials and endpoints are those of fsspec and of each object store: environment variables, profiles,
``~/.config/fsspec``. A missing file is a `FileNotFoundError`, as on a disk. All other failures are a `RemoteError`,
which is not an `OSError`: an unreachable file must stop a run, and is not a damaged file.
"""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypedDict, TypeVar, cast
from urllib.parse import quote, unquote

import fsspec
from fsspec.spec import AbstractFileSystem

from clipzoo.errors import RemoteError, brief

WEB = ("http", "https")
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Protocols with atomic uploads; files are written to no others."""

TRIES, WAIT, TIMEOUT = 4, 1.0, 30.0
"""Attempts, seconds before the second attempt (doubled for each further one), and seconds without data over HTTP that
end an attempt. Some file systems have retries of their own in addition."""

LEAST, MOST = 2**16, 2**22
"""Bytes that are read in advance: after a seek, and at most during sequential reading."""

WHOLE = 2**40
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_LOGINS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE; FSSPEC_S3_ANON=true reads a public bucket",
    "gcs": "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS; FSSPEC_GS_TOKEN=anon "
    "reads a public bucket",
}


T = TypeVar("T")


class _Info(TypedDict, total=False):
    """The metadata of fsspec that are read."""

    name: str
    type: str
    size: int | None
    mimetype: str


@dataclass(frozen=True, order=True)
class Remote:
    """An address; ``inner`` is the part after ``://``, which starts with the host or bucket."""

    protocol: str
    inner: PurePosixPath

    @classmethod
    def parse(cls, address: str) -> Remote:
        """Parse ``protocol://host-or-bucket/path``.

        Raises:
            RemoteError: the protocol is unknown, or nothing follows it.
        """
        protocol, _, rest = address.partition("://")
        if protocol not in fsspec.available_protocols():
            raise RemoteError(
                f"{address!r}: the protocol {protocol}:// is unknown; known are s3://, gs://, https:// and others"
            )
        if not rest.strip("/"):
            raise RemoteError(f"{address!r} names no bucket or host; give {protocol}://NAME/path")
        return cls(protocol, PurePosixPath(rest))

    def __str__(self) -> str:
        return f"{self.protocol}://{self.inner}"

    def __truediv__(self, name: str) -> Remote:
        """Return the file of this name below it; percent-encoded on the web, where ``#`` and ``?`` are special."""
        return Remote(self.protocol, self.inner / (quote(name) if self.protocol in WEB else name))

    @property
    def name(self) -> str:
        """Last component."""
        return self.inner.name

    @property
    def suffix(self) -> str:
        """Extension of the last component, with its dot."""
        return self.inner.suffix

    @property
    def stem(self) -> str:
        """Last component without its extension."""
        return self.inner.stem

    @property
    def parts(self) -> tuple[str, ...]:
        """All components, starting with the host or bucket."""
        return self.inner.parts

    @property
    def parent(self) -> Remote:
        """Parent folder."""
        return Remote(self.protocol, self.inner.parent)

    @property
    def parents(self) -> tuple[Remote, ...]:
        """All parent folders, the innermost first."""
        return tuple(Remote(self.protocol, inner) for inner in self.inner.parents)

    def resolve(self) -> Remote:
        """Return the address itself: there are no links."""
        return self

    def relative_to(self, other: Remote) -> PurePosixPath:
        """Return the decoded path below ``other``; raise `ValueError` if it is elsewhere."""
        below = self.inner.relative_to(other.inner)
        return PurePosixPath(unquote(str(below))) if self.protocol in WEB else below

    def with_name(self, name: str) -> Remote:
        """Return another file of the same folder."""
        return Remote(self.protocol, self.inner.with_name(name))

    # Read ----------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return True if there is a file or folder."""
        return bool(self._info())

    def is_file(self) -> bool:
        """Return True if there is a file."""
        info = self._info()
        return info.get("type") == "file" and not _is_page(info)

    def is_dir(self) -> bool:
        """Return True if there are files below it; on a web server, if it is a page, which may list files."""
        info = self._info()
        return info.get("type") == "directory" or _is_page(info)

    def size(self) -> int:
        """Return its size in bytes; raise `FileNotFoundError` if it does not exist."""
        info = self._info()
        if not info:
            raise _missing(self)
        size = info.get("size")
        if size is None:
            raise RemoteError(f"the server does not report the size of {self}; copy the file to a disk or bucket")
        return int(size)

    def state(self) -> str:
        """Return its metadata, such as size, time and ETag, as text; "" if it does not exist."""
        return " ".join(f"{name}={value}" for name, value in sorted(self._info().items()))

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, or fewer at the end of the file."""
        if size <= 0:
            return b""
        try:
            data = cast(bytes, self._ask("cat_file", start=offset, end=offset + size))
        except RemoteError:
            if offset < self.size():
                raise
            return b""  # most servers refuse a range after the end
        if len(data) > size:
            raise RemoteError(
                f"the server sends all of {self} in answer to a range request; use a server that supports range "
                "requests (nginx, Apache, Caddy, any object store), or copy the files"
            )
        return data

    def read_bytes(self) -> bytes:
        """Return the whole file, by one request."""
        return self.read(0, WHOLE)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Open the file for reading by ranges."""
        assert mode == "rb"
        return io.BufferedReader(RemoteFile(self))

    def below(self) -> dict[str, int]:
        """Return relative path -> bytes of every file below it, sorted; bytes are 0 in listings of web servers.

        Raises:
            FileNotFoundError: it does not exist.
            RemoteError: it is on a web server without listings.
        """
        if self.protocol in WEB and not self.is_dir():
            raise RemoteError(f"{self} cannot be listed: a web server has no folders unless it shows an index page")
        found = cast(dict[str, _Info], self._ask("find", detail=True))
        if not found:
            raise _missing(self)
        names = {self._below(name): info.get("size") or 0 for name, info in found.items() if "?" not in name}
        return {name: names[name] for name in sorted(names) if name}

    def folders(self) -> list[Remote]:
        """Return its direct subfolders; none if it does not exist."""
        try:
            found = cast(list[_Info], self._ask("ls", detail=True))
        except FileNotFoundError:
            return []
        return sorted(self / self._below(one["name"]) for one in found if one["type"] == "directory")

    def glob(self) -> list[Remote]:
        """Return the files that it matches as a pattern with ``*`` and ``[]``, sorted; hidden ones are left out."""
        root = next(one for one in self.parents if not set("*?[") & set(str(one)))
        found = cast(dict[str, _Info], self._ask("glob", detail=True))
        names = [root._below(name) for name, info in found.items() if info["type"] == "file"]
        return sorted(root / name for name in names if "/." not in f"/{name}")

    # Write ---------------------------------------------------------------------------------------------

    def write(self, data: bytes, new: bool = False) -> None:
        """Write a small file atomically; if it must be ``new`` and exists, raise `FileExistsError`."""
        _check_writable(self)
        self._ask("pipe_file", data, mode="create" if new else "overwrite")

    def upload(self, path: Path) -> None:
        """Upload a local file atomically."""
        _check_writable(self)
        system = _system(self.protocol)
        self._tried(lambda: system.put_file(str(path), str(self)))

    def copy(self, source: Remote) -> None:
        """Copy a file within the object store, without downloading it."""
        _check_writable(self)
        source._ask("cp_file", str(self))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            self._ask("rm_file")
        except FileNotFoundError:
            if not missing_ok:
                raise

    # Ask -----------------------------------------------------------------------------------------------

    def _info(self) -> _Info:
        """Return the metadata of fsspec; empty if it does not exist."""
        try:
            return cast(_Info, self._ask("info"))
        except FileNotFoundError:
            return {}

    def _below(self, name: str) -> str:
        """Return the relative path of a name that its file system returned."""
        root = _system(self.protocol)._strip_protocol(str(self)).rstrip("/")
        below = name.removeprefix(root).strip("/")
        return unquote(below) if self.protocol in WEB else below

    def _ask(self, method: str, *args: object, **kwargs: object) -> object:
        system = _system(self.protocol)
        return self._tried(lambda: getattr(system, method)(str(self), *args, **kwargs))

    def _tried(self, call: Callable[[], T]) -> T:
        """Return the result of ``call``; repeat it after temporary failures."""
        for attempt in range(1, TRIES + 1):
            try:
                return call()
            except Exception as raised:  # each file system has its own kinds
                error = _real(raised)
                if attempt == TRIES or not _temporary(error):
                    raise _translated(error, self, attempt) from raised
            time.sleep(WAIT * 2 ** (attempt - 1))
        raise AssertionError


class RemoteFile(io.RawIOBase):
    """A file that is read by ranges, in advance: much during sequential reading, little after a seek."""

    def __init__(self, remote: Remote) -> None:
        self.remote, self.size = remote, remote.size()
        self._at, self._start, self._block, self._ahead = 0, 0, b"", LEAST

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; nothing is read."""
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as `BufferedReader` calls it
        """Fill the buffer, or a part of it."""
        wanted = min(len(buffer), self.size - self._at)
        if wanted <= 0:
            return 0
        at = self._at - self._start
        if not 0 <= at < len(self._block):
            sequential = 0 <= at - len(self._block) <= self._ahead
            self._ahead = min(2 * self._ahead, MOST) if sequential else LEAST
            self._start, self._block, at = self._at, self.remote.read(self._at, max(wanted, self._ahead)), 0
        data = self._block[at : at + wanted]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _system(protocol: str) -> AbstractFileSystem:
    """Return the file system; fsspec keeps one per process (or per thread) and creates another one after a fork."""
    options: dict[str, object] = {"use_listings_cache": False}
    try:
        if protocol in WEB:
            options |= _web_options()
        system: AbstractFileSystem = fsspec.filesystem(protocol, **options)
        return system
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        fix = f"pip install 'clipzoo[{extra}]'" if extra else str(error)
        raise RemoteError(f"{protocol}:// needs a package that is not installed ({error}): {fix}") from error
    except Exception as error:  # such as a host, which is not taken from the address
        raise RemoteError(
            f"{protocol}:// cannot be opened ({brief(error)}). Copy the data to a disk, or to a bucket (s3://, gs://, az://)"
        ) from error


def _web_options() -> dict[str, object]:
    """Return options: no compression, and timeouts that depend on pauses, not on the length of a download."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
    return {"headers": {"Accept-Encoding": "identity"}, "client_kwargs": {"timeout": timeout}}


def _is_page(info: _Info) -> bool:
    return info.get("mimetype") == "text/html"


def _check_writable(remote: Remote) -> None:
    if remote.protocol not in STORES:
        raise RemoteError(
            f"{remote} cannot be written, because its protocol has no atomic uploads; give a local folder, or an "
            "address of s3://, gs:// or az://"
        )


# Errors ----------------------------------------------------------------------------------------------------


def _status(error: BaseException | None) -> int:
    """Return the HTTP status of an error, or 0."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else 0


def _temporary(error: BaseException) -> bool:
    """Return True if another attempt may succeed."""
    names = {kind.__name__ for kind in type(error).__mro__}
    disconnected = names & {"ClientConnectionError", "ClientPayloadError", "TimeoutError", "FSTimeoutError"}
    return bool(disconnected) or _status(error) in (408, 425, 429) or 500 <= _status(error) < 600


def _real(error: BaseException) -> BaseException:
    """Return the cause of an error: fsspec raises `FileNotFoundError` for every failure of a web server."""
    cause = error.__cause__
    hidden = isinstance(error, FileNotFoundError) and cause is not None
    if hidden and (_temporary(cause) or _status(cause) not in (0, 404, 410)):  # type: ignore[arg-type]
        return cause  # type: ignore[return-value]
    return error


def _missing(remote: Remote, detail: str = "") -> FileNotFoundError:
    text = f"it does not exist: {detail}" if detail and detail != str(remote) else "it does not exist"
    return FileNotFoundError(errno.ENOENT, text, str(remote))


def _translated(error: BaseException, remote: Remote, attempts: int) -> Exception:
    """Return an error for the user in place of one of a file system."""
    if isinstance(error, RemoteError):
        return error
    kind, detail = type(error).__name__, " ".join(str(error).split()) or "no details"
    if isinstance(error, FileExistsError) or "PreconditionFailed" in detail:
        return FileExistsError(errno.EEXIST, "it exists already", str(remote))
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or _status(error) in (404, 410):
        return _missing(remote, "" if remote.name in detail else detail)
    if isinstance(error, PermissionError) or _status(error) in (401, 403) or "Credentials" in kind:
        login = _LOGINS.get(_EXTRAS.get(remote.protocol, ""), "check the address and your permissions")
        return RemoteError(f"{remote}: access was refused ({detail}); {login}")
    if _temporary(error) or "Connect" in kind or "Timeout" in kind:
        times = f", {attempts} times" if attempts > 1 else ""
        return RemoteError(
            f"{remote} cannot be reached{times} ({kind}: {detail}); check the network and the name of the host or "
            "endpoint, and rerun the command, which resumes"
        )
    return RemoteError(f"{remote} cannot be used ({kind}: {detail}); check the address")
