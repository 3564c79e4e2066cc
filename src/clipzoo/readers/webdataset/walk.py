"""Headers of a plain tar, read by offset and checked in bulk.

About 2 µs a member, where `tarfile` takes 25 µs. Only what common writers write is read here: regular files and folders
with long names of PAX or GNU tar. Everything else raises `OddTar`, and `tarfile` reads the shard instead
(`clipzoo.readers.webdataset.tar`), so that both ways give the same members and faults. Rules follow CPython 3.11's
`tarfile.TarInfo.frombuf`, `_proc_pax` and `_proc_gnulong`.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from tarfile import AREGTYPE, BLOCKSIZE, DIRTYPE, GNUTYPE_LONGNAME, REGTYPE, XHDTYPE

import numpy as np
from numpy.typing import NDArray

from clipzoo.readers.base import Span

WINDOW = 8 * BLOCKSIZE
"""Bytes of one read: a caption, its JSON and the next image's header often lie within it."""

CHUNK = 4096
"""Headers that are checked together."""

PART = 2**20
"""Bytes that are read together after the end mark."""

NAME_BYTES = 2**16
"""The largest long name or PAX record that is read here."""

_FILES, _LONG = (REGTYPE, AREGTYPE), (XHDTYPE, GNUTYPE_LONGNAME)
_SPECIAL = re.compile(rb"size|linkpath|hdrcharset|GNU\..*")
"""PAX keywords that change how a member is read."""

_RECORD = re.compile(rb"([1-9][0-9]*) ([^=\n]+)=")
_NUMBERS = ((100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (148, 156), (329, 337), (337, 345))
"""Fields of a header that hold octal numbers."""

_USUAL = np.frombuffer(b"0000000\0" * 3 + b"00000000000\0" * 2 + b"000000\0\0", np.uint8)
"""Numbers of usual headers; others differ in the lowest bits of digits, and by a space for a zero byte at the end."""
_FREE = np.where(_USUAL > 0, 0xF8, 0xFF - ord(" ")).astype(np.uint8)

_CLASS = np.full(256, 2, np.uint8)
_CLASS[ord("0") : ord("8")] = 0
_CLASS[[0, ord(" ")]] = 1
_BINARY = (0o200, 0o377)
_OCTAL = 8 ** np.arange(5, -1, -1)
NAME, SIZE, SUM, KIND, PREFIX = 100, 124, 148, 156, 345
"""Bytes of a name, and places of fields in a header."""
REGULAR = REGTYPE[0]


class OddTar(Exception):  # noqa: N818 – no error: the shard is read by `tarfile`
    """A tar, or a part of it, that is not read here."""


@dataclass(slots=True)
class Chunk:
    """Headers in a row, not yet checked, and the places of their data."""

    headers: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    long: dict[int, str] = field(default_factory=dict)
    """Number of a header -> name from the header before."""
    skipped: set[int] = field(default_factory=set)
    """Numbers of folders, and of headers that hold the name of the next one."""

    def names(self) -> list[str]:
        """Return the name of each header; raise `OddTar` unless all are as common writers write them."""
        block = b"".join(self.headers)
        table = np.frombuffer(block, np.uint8).reshape(-1, BLOCKSIZE)
        if not (_numbers_are_plain(table) and _sums_agree(table)):
            raise OddTar
        fields = np.frombuffer(block, np.dtype({"names": ["name"], "formats": ["S100"], "itemsize": BLOCKSIZE}))
        stored = b"\0".join(fields["name"].tolist())
        if stored.count(b"\0") != len(self.headers) - 1:  # a zero byte within a name
            raise OddTar
        names = stored.decode("utf-8", "surrogateescape").split("\0")
        for row in np.flatnonzero(table[:, PREFIX]).tolist():
            prefix = _decoded(self.headers[row][PREFIX:500].partition(b"\0")[0])
            names[row] = f"{prefix}/{names[row]}"
        for row, name in self.long.items():
            names[row] = name
        if not stored.isascii():
            _decoded("\0".join(names).encode("utf-8", "surrogateescape"))
        return names


def walk(file: io.FileIO) -> Iterator[tuple[list[str], list[Span]]]:
    """Yield (names, spans) of regular files, many at a time, to the end mark of the tar.

    Raises:
        OddTar: the tar is damaged, or has something that only `tarfile` reads.
    """
    for chunk in _chunks(file.fileno()):
        names = chunk.names()
        if not chunk.skipped:
            yield names, chunk.spans
        else:
            kept = [row for row in range(len(names)) if row not in chunk.skipped]
            yield [names[row] for row in kept], [chunk.spans[row] for row in kept]


def _chunks(number: int) -> Iterator[Chunk]:
    """Yield the headers of an open file in chunks, and check the end mark."""
    end, at, window, first = os.fstat(number).st_size, 0, b"", 0
    chunk = Chunk()
    headers, spans = chunk.headers, chunk.spans
    name: str | None = None  # given by the header before; "" if it gives none
    while True:
        start = at - first
        if start + BLOCKSIZE > len(window):
            window, first, start = os.pread(number, WINDOW, at), at, 0
        header = window[start : start + BLOCKSIZE]
        try:
            size = int(header[124:135], 8)
        except ValueError:  # the end mark has no size
            break
        data = at + BLOCKSIZE
        at = data + -(-size // BLOCKSIZE) * BLOCKSIZE
        if size < 0 or at > end:
            raise OddTar
        if name is not None or header[KIND] != REGULAR:
            kind, name = _noted(chunk, header, size, name), None
            if kind in _LONG:
                name = _long_name(kind, os.pread(number, at - data, data), size)
        headers.append(header)
        spans.append((data, size))
        if len(headers) >= CHUNK:
            yield chunk
            chunk = Chunk()
            headers, spans = chunk.headers, chunk.spans
    if name is not None or len(header) < BLOCKSIZE or header.strip(b"\0") or not _is_empty(number, at):
        raise OddTar
    if headers:
        yield chunk


def _noted(chunk: Chunk, header: bytes, size: int, name: str | None) -> bytes:
    """Note in the chunk what differs from a regular file with a short name; return the kind of the header.

    ``name`` is given by the header before, "" if it gives none.
    """
    kind, row = header[KIND : KIND + 1], len(chunk.headers)
    if kind in _FILES:
        if kind == AREGTYPE and header[:NAME].rstrip(b"\0").endswith(b"/"):  # a folder of an old tar
            raise OddTar
    elif (kind == DIRTYPE and size == 0) or (kind in _LONG and name is None and size <= NAME_BYTES):
        chunk.skipped.add(row)
    else:
        raise OddTar
    if name:
        chunk.long[row] = name
    return kind


def _is_empty(number: int, at: int) -> bool:
    """Return True if an open file has only zeros from ``at``."""
    while data := os.pread(number, PART, at):
        if data.strip(b"\0"):
            return False
        at += len(data)
    return True


def _long_name(kind: bytes, blocks: bytes, size: int) -> str:
    """Return the name in the data of a header that precedes the member's own, or "" if it has only other records."""
    if blocks[size:].strip(b"\0"):
        raise OddTar
    return _pax_path(blocks[:size]) if kind == XHDTYPE else _name(blocks.partition(b"\0")[0])


def _pax_path(data: bytes) -> str:
    """Return the path in PAX records, which must follow each other without gaps; "" if they have none."""
    at, path = 0, ""
    while at < len(data):
        found = _RECORD.match(data, at)
        if found is None:
            raise OddTar
        end = at + int(found[1])
        if not found.end() < end <= len(data) or data[end - 1 : end] != b"\n" or _SPECIAL.fullmatch(found[2]):
            raise OddTar
        if found[2] == b"path":
            path = _name(data[found.end() : end - 1].rstrip(b"/"))
        at = end
    return path


def _name(stored: bytes) -> str:
    if not stored or b"\0" in stored:
        raise OddTar
    return _decoded(stored)


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise OddTar from None


def _numbers_are_plain(table: NDArray[np.uint8]) -> bool:
    """Return True if number fields are octal digits before zero bytes and spaces, or binary, which has no faults."""
    usual = (table[:, 100:156] ^ _USUAL) & _FREE
    if not usual.any() and not table[:, 329:345].any():
        return True
    classes = _CLASS[table[:, 100:345]]
    for start, stop in _NUMBERS:
        values = classes[:, start - 100 : stop - 100]
        plain = (values[:, 1:] >= values[:, :-1]).all(1) & (values[:, -1] < 2)
        if start != SIZE:
            plain |= np.isin(table[:, start], _BINARY)
        if not plain.all():
            return False
    return bool((classes[:, SIZE + 11 - 100] == 1).all())


def _sums_agree(table: NDArray[np.uint8]) -> bool:
    """Return True if each header's checksum, of six octal digits, is the sum of its bytes."""
    digits = table[:, SUM : SUM + 6].astype(np.int64) - ord("0")
    sums = (
        table.sum(1, dtype=np.uint32).astype(np.int64) - table[:, SUM : SUM + 8].sum(1, dtype=np.int64) + 8 * ord(" ")
    )
    ends = table[:, SUM + 6 : SUM + 8]
    return bool((digits >= 0).all() and np.isin(ends, (0, ord(" "))).all() and (digits @ _OCTAL == sums).all())
