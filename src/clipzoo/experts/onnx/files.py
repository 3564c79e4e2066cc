"""The files of an ONNX model: its graph, and those beside it that hold weights.

torch 2.14's exporter writes weights into a second file unless told otherwise (``external_data=True``), and the graph
then is the same to the byte whatever the weights are. The graph says where they are, and is read here by the wire
format of protocol buffers (github.com/onnx/onnx, onnx/onnx.proto and docs/ExternalData.md): the onnx package is not
needed to run a model, and weights inside a graph are skipped.
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
"""Message -> its fields that lead to tensors -> what they are."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""

Buffer = bytes | mmap.mmap


def weights_sha256(model: Path) -> str:
    """Hex digest of a model: of its one file, or of a list of the digests of all its files.

    Raises:
        ExpertError: a file of weights is missing, or outside of the model's folder.
    """
    others = sorted(external(model))
    if not others:
        return sha256(model)
    listed = [f"graph {sha256(model)}\n", *(f"{name} {sha256(_beside(model, name))}\n" for name in others)]
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def external(model: Path) -> set[str]:
    """Where a model's graph says that weights are, as it says it; nothing of a file that is no ONNX model."""
    if not model.stat().st_size:
        return set()
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return set(_locations(data, 0, len(data), "model"))
        except (IndexError, UnicodeDecodeError, RecursionError):  # ONNX Runtime says at loading that it is none
            return set()


def _beside(model: Path, name: str) -> Path:
    """A file of weights; only of the model's own folder, so that a graph cannot have other files read."""
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts
    if outside:
        raise ExpertError(
            f"{model} says that its weights are in {name!r}, outside of its folder, which a model must not; export it "
            "again, or move the file beside it and save it with onnx.save(…, save_as_external_data=True)"
        )
    path = model.parent / name
    if not path.is_file():
        raise ExpertError(
            f"{model} has its weights in {name!r}, which is not beside it: copy both files into one folder, or export "
            "it as one file (torch.onnx.export(…, external_data=False))"
        )
    return path


# The wire format -------------------------------------------------------------------------------------------


def _locations(data: Buffer, start: int, end: int, message: str) -> Iterator[str]:
    """The value of ``location`` of every tensor inside a message."""
    for number, first, last in _fields(data, start, end):
        inner = MESSAGES[message].get(number)
        if inner == "entry":
            entry = {key: data[a:b].decode() for key, a, b in _fields(data, first, last)}
            if entry.get(1) == "location":
                yield entry.get(2, "")
        elif inner:
            yield from _locations(data, first, last, inner)


def _fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of each field of a message that is bytes, text or a message; others are skipped."""
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
                raise IndexError("a field that is longer than its message")
            yield tag >> 3, start, start + length
            start += length
        else:
            raise IndexError(f"no wire type: {kind}")


def _varint(data: Buffer, start: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while start < end and shift < 64:
        byte = data[start]
        value, shift, start = value | (byte & 127) << shift, shift + 7, start + 1
        if byte < 128:
            return value, start
    raise IndexError("a number without an end")
