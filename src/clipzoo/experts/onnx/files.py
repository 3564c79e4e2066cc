"""The files of an ONNX model: its graph, and files of weights in the same folder.

torch 2.14's exporter writes weights into a second file by default (``external_data=True``). Graphs of models with
different weights are then equal to the byte, so the digest of a model covers all of its files. The graph names the
files of weights. It is read here in the wire format of protocol buffers (github.com/onnx/onnx, onnx/onnx.proto and
docs/ExternalData.md), since running a model does not need the onnx package; weights inside a graph are skipped.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from clipzoo.errors import ExpertError
from clipzoo.experts.base import sha256

MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Message -> numbers of its fields that lead to tensors -> their messages."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""

Buffer = bytes | mmap.mmap


def weights_sha256(model: Path) -> str:
    """Return the hex digest of a model: of its one file, or of a list of the digests of all its files.

    Raises:
        ExpertError: a file of weights is missing, or outside the model's folder.
    """
    names = sorted(external(model))
    if not names:
        return sha256(model)
    lines = [f"graph {sha256(model)}\n"]
    lines += [f"{name} {sha256(_weights_file(model, name))}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def external(model: Path) -> set[str]:
    """Return the names of files of weights in a model's graph; none for a file that is not an ONNX model."""
    if not model.stat().st_size:
        return set()
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return set(_locations(data, 0, len(data), "model"))
        except (
            IndexError,
            UnicodeDecodeError,
            RecursionError,
        ):  # ONNX Runtime reports at loading that it is not a model
            return set()


def _weights_file(model: Path, name: str) -> Path:
    """Return the path of a file of weights; a graph must not make clipzoo read files outside the model's folder."""
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts
    if outside:
        raise ExpertError(
            f"{model} has its weights in {name!r}, outside its folder, which is refused for security: export it again, "
            "or move the file into the folder and save the model with onnx.save(…, save_as_external_data=True)"
        )
    path = model.parent / name
    if not path.is_file():
        raise ExpertError(
            f"{model} has its weights in {name!r}, which is not in its folder: copy both files into one folder, or "
            "export the model as one file (torch.onnx.export(…, external_data=False))"
        )
    return path


# The wire format -------------------------------------------------------------------------------------------


def _locations(data: Buffer, start: int, end: int, message: str) -> Iterator[str]:
    """Yield the value of ``location`` of every tensor inside a message."""
    for number, first, last in _fields(data, start, end):
        inner = MESSAGES[message].get(number)
        if inner == "entry":
            entry = {key: data[a:b].decode() for key, a, b in _fields(data, first, last)}
            if entry.get(1) == "location":
                yield entry.get(2, "")
        elif inner:
            yield from _locations(data, first, last, inner)


def _fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of a message that is bytes, text or a message; others are skipped."""
    while start < end:
        tag, start = _varint(data, start, end)
        kind = tag & 7
        if kind == VARINT:
            _, start = _varint(data, start, end)
        elif kind in (FIXED64, FIXED32):
            start += 8 if kind == FIXED64 else 4
        elif kind == BYTES:
            length, start = _varint(data, start, end)
            if start + length > end:
                raise IndexError("a field is longer than its message")
            yield tag >> 3, start, start + length
            start += length
        else:
            raise IndexError(f"unknown wire type: {kind}")


def _varint(data: Buffer, start: int, end: int) -> tuple[int, int]:
    """Return a number stored as 7 bits per byte, lowest bits first, and the position after it."""
    value = shift = 0
    while start < end and shift < 64:
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, start
    raise IndexError("a number has no end")
