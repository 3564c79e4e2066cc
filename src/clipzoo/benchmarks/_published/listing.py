"""Lists in text files, and the files in folders."""

from __future__ import annotations

import os
import shlex
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from clipzoo.errors import DatasetError
from clipzoo.files import Place
from clipzoo.readers import IMAGES

PICTURES = tuple(f".{name}" for name in IMAGES)
"""Endings of picture files in lower case; their case is ignored."""


def text_of(path: Place) -> str:
    """Return the text of a file without a byte order mark; `DatasetError` if it is not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        name, new = shlex.quote(str(path)), shlex.quote(f"{path}.utf8")
        raise DatasetError(
            f"{path} is not UTF-8 (byte {error.start} is {data[error.start]:#04x}), so its names cannot be read. "
            f"Convert it from its encoding, such as {encoding}: iconv -f {encoding} -t utf-8 {name} > {new} && "
            f"mv {new} {name}"
        ) from error


def lines_of(path: Place) -> list[str]:
    """Return the lines of a file that are not empty, without white space around them; see `text_of`."""
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def inside(folder: Path) -> list[Path]:
    """Return the visible files of a folder, sorted; `DatasetError` if it cannot be listed."""
    for _, _, names in os.walk(folder, onerror=_refuse):
        return [folder / name for name in _visible(names)]
    return []


def below(folder: Path) -> Iterator[Path]:
    """Yield the visible files of a folder and of all folders below it, each folder once.

    Linked folders come last, so that a folder that can also be reached by a link keeps its own name.

    Raises:
        DatasetError: a folder cannot be listed.
    """
    waiting, visited = deque([folder]), set[str]()
    while waiting:
        for path, inner, names in os.walk(waiting.popleft(), onerror=_refuse):
            inner[:] = _visible(inner) if (real := os.path.realpath(path)) not in visited else []
            if real in visited:
                continue
            visited.add(real)
            here = Path(path)
            waiting += [link for name in inner if (link := here / name).is_symlink()]  # os.walk does not follow them
            yield from (here / name for name in _visible(names))


def _visible(names: list[str]) -> list[str]:
    return sorted(name for name in names if name[0] != ".")


def _refuse(error: OSError) -> None:
    raise DatasetError(f"cannot list {error.filename} ({error.strerror}); make it readable, or move it away") from error
