"""``demo:<split>``: the packaged pictures, unpacked on first use."""

from __future__ import annotations

import tarfile
from importlib import resources
from pathlib import Path

from clipzoo import files
from clipzoo.demo.splits import PROPOSALS, conventions, shares
from clipzoo.errors import DatasetError
from clipzoo.locations import Progress

__all__ = ["PROPOSALS", "SPLITS", "check", "conventions", "pictures", "resolve", "shares"]

ARCHIVE = "rooms.tar.xz"
SPLITS = ("captioned", "probe", "validation", "test", "heldout")


def check(location: str) -> None:
    """Raise `DatasetError` unless the location names a packaged split."""
    if location.removeprefix("demo:") not in SPLITS:
        raise DatasetError(f"{location!r}: no such packaged split; use one of {', '.join(SPLITS)}")


def pictures(location: str) -> int | None:
    """Return None: unpacking takes seconds."""
    return None


def resolve(location: str, cache: Path, progress: Progress) -> Path:
    """Return the benchmark folder of a split, unpacked into ``cache`` with all other splits."""
    out = cache / "demo"
    if not (out / ".complete").exists():
        progress("unpacking", 0, 1)
        _unpack(out)
        progress("unpacking", 1, 1)
    return out / location.removeprefix("demo:")


def _unpack(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    archive = resources.files("clipzoo.demo").joinpath(ARCHIVE)
    with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r:xz") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.10.12 and 3.11.4 has none
        tar.extractall(out)
    files.write(out / ".complete", b"")
