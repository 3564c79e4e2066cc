"""Members of an uncompressed tar by their headers; nothing is unpacked, and every header is validated."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from itertools import islice, repeat

from clipzoo import files
from clipzoo.files import Place, read_at
from clipzoo.readers.base import CAPTION_BYTES, Span
from clipzoo.readers.webdataset.walk import OddTar, walk
from clipzoo.types import Failure

Member = tuple[str, Span | None, Failure | None, bool]
"""A file of a tar: (name, span, fault, plain). A shard has many, and a class would take longer to make.

The name is without a leading ``./``; bytes that are not UTF-8 are U+FFFD; "" marks the end of a truncated tar. The
span is None if the file's bytes, or the rest of the tar, are missing. The fault is the reason why it may not be used,
or None. ``plain`` is True for a regular file; one without an extension is not part of a sample.
"""


def members(path: Place) -> Iterator[Member]:
    """Yield every member except folders; the last member of a truncated or damaged tar has a fault.

    Plain tars on a disk are read by `walk`, and others by `tarfile`: the members are the same.
    """
    count = 0
    try:
        for part in _walked(path):
            yield from part
            count += len(part)
    except OddTar:
        yield from islice(by_tarfile(path), count, None)


def _walked(path: Place) -> Iterator[list[Member]]:
    with files.open_raw(path) as file:
        if not isinstance(file, io.FileIO):
            raise OddTar
        for names, spans in walk(file):
            text = "\0".join(["", *names])
            if any(mark in text for mark in ("\\", "..", "./", "\0/", "\ufffd")):
                printable = [_printable(name) for name in names]
                yield [(n, s, _unsafe(n), "\\" not in n) for n, s in zip(printable, spans, strict=True)]
            else:
                yield [*zip(names, spans, repeat(None), repeat(True))]


def by_tarfile(path: Place) -> Iterator[Member]:
    """Yield the `members` as `tarfile` reads them."""
    size = files.size(path)
    try:
        for header in _headers(path):
            if header.isdir():
                continue
            name = _printable(header.name)
            if header.offset_data + (header.size if header.isreg() else 0) > size:
                cut = _cut(f"its member {name!r} extends past the end of the file, {size} bytes")
                yield name, None, cut, False
                return
            plain = header.isreg() and "\\" not in name
            yield name, (header.offset_data, header.size), _refused(header, name), plain
    except (tarfile.TarError, OSError, ValueError) as error:
        yield "", None, _cut(str(error)), True


class _HeaderFile(io.BufferedReader):
    """A tar of which only headers are read: `tarfile` would read any size that the header of a long name claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= CAPTION_BYTES:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return super().read(size)


def _headers(path: Place) -> Iterator[tarfile.TarInfo]:
    """Yield member headers; raise `tarfile.ReadError` at the end of an incomplete archive."""
    size = files.size(path)
    with _HeaderFile(files.open_raw(path)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # do not keep the headers of 10⁵ samples in memory
            if member.size < 0:  # the walk would go backwards, without end
                raise tarfile.ReadError(f"the member {member.name!r} claims a size of {member.size} bytes")
            yield member
        end = tar.offset
    mark = read_at(path, end, tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE or mark.strip(b"\0"):
        raise tarfile.ReadError(f"no end mark at byte {min(end, size)} of {size}")
    for at in range(end, size, CAPTION_BYTES):
        if read_at(path, at, CAPTION_BYTES).strip(b"\0"):
            raise tarfile.ReadError(f"there is data after the end mark at byte {end}, as in concatenated tars")


def _refused(header: tarfile.TarInfo, name: str) -> Failure | None:
    """Return the reason why a member may not be used, or None."""
    if not header.isreg() or header.issparse():
        kind = "link" if header.issym() or header.islnk() else "device" if header.isdev() else "special file"
        return Failure("unsafe-name", f"its member {name!r} is a {kind}; only regular files are read")
    return _unsafe(name)


def _unsafe(name: str) -> Failure | None:
    """Return the reason why a file of this name may not be used, or None."""
    if name.startswith("/") or ".." in name.split("/") or "\\" in name:
        detail = f"its member {name!r} points outside the shard; rename it without '..', '/' in front or '\\'"
        return Failure("unsafe-name", detail)
    if "\ufffd" in name:
        return Failure("unsafe-name", f"the name of its member {name!r} is not UTF-8; rename it")
    return None


def is_kept(name: str) -> bool:
    """Return True if a member of this name is read under the same name, and may be used."""
    return "\0" not in name and _printable(name) == name and _unsafe(name) is None


def _printable(name: str) -> str:
    """Return the member's name without a leading './'; bytes that are not UTF-8 become U+FFFD."""
    clean = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    while clean.startswith("./"):
        clean = clean[2:]
    return clean


def _cut(reason: str) -> Failure:
    return Failure(
        "truncated",
        f"the shard is truncated or damaged here ({reason}); the samples before are used: "
        "fetch or write the shard again for the rest",
    )
