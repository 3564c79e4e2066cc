"""From a location of the embedded default to a folder on disk, unpacked or rendered at first use."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

from clipzoo import files
from clipzoo.demo.render import WITH_TRUTH, conventions, render_split
from clipzoo.demo.rooms import SPLITS
from clipzoo.errors import DatasetError
from clipzoo.tasks.base import Convention

PACKED = "rooms.tar.xz"
PACKAGED = ("captioned", "probe", "validation", "test", "heldout")
_ROOMS = re.compile(r"rooms:(\w+)\?count=(\d+)")
_FOLDER = re.compile(r"(?!\w+://).+|(?!https?://)[^*?\[{]+", re.DOTALL)
"""What may be a folder with others in it: a path, or an address in a store that is no pattern."""

Progress = Callable[[str, int, int], None]
"""(what, done, total)."""


def check(location: str) -> bool:
    """Whether a location is of the embedded default; raises `DatasetError` if it names a split that is not."""
    if location.startswith("demo:"):
        if location.removeprefix("demo:") not in PACKAGED:
            raise DatasetError(f"{location!r}: no such packaged split; there are: {', '.join(PACKAGED)}")
        return True
    if location.startswith("rooms:"):
        match = _ROOMS.fullmatch(location)
        if match is None or match[1] not in SPLITS:
            raise DatasetError(f"{location!r} is not rooms:<split>?count=N with a split out of {', '.join(SPLITS)}")
        return True
    return False


def shared(one: str, other: str) -> bool:
    """Whether two locations of the embedded default have pictures in common: those of one split."""
    return check(one) and check(other) and _split(one) == _split(other)


def meanings(location: str) -> dict[str, Convention]:
    """Task -> what the true labels of a location of the embedded default mean; empty where it has none."""
    return conventions() if _split(location) in WITH_TRUTH else {}


def _split(location: str) -> str:
    match = _ROOMS.fullmatch(location)
    return match[1] if match else location.removeprefix("demo:")


def locate(location: str, cache: Path, progress: Progress = lambda what, done, total: None) -> str:
    """The folder of a dataset location; a location that is not of the embedded default is given back as it is.

    Args:
        location: ``demo:<split>``, ``rooms:<split>?count=N``, or anything else.
        cache: where packaged and rendered data is put; found there again by the next call.
        progress: told what is being made.

    Raises:
        DatasetError: a split or form that does not exist.
    """
    check(location)
    if location.startswith("demo:"):
        return str(_unpacked(cache, progress) / location.removeprefix("demo:"))
    if match := _ROOMS.fullmatch(location):
        split, count = match[1], int(match[2])
        out = cache / f"rooms-{split}-{count}"
        render_split(split, count, out, on_progress=lambda done: progress(f"rendering {split}", done, count))
        return str(out)
    return location


def locate_data(location: str, cache: Path, progress: Progress = lambda what, done, total: None) -> str:
    """As `locate`, for what a reader opens: of a benchmark folder, its ``images/``."""
    found = locate(location, cache, progress)
    images = files.place(found) / "images" if _FOLDER.fullmatch(found) else None
    return str(images) if images and images.is_dir() else found


def locate_beside(location: str, store: str) -> str:
    """As `locate_data`, with packaged data in the folder of a label store; in the user's cache if that is remote.

    Raises:
        DatasetError: as `locate_data`, or what is there leads out of the store by a link.
    """
    cache = _beside(store)
    if check(location):
        files.check_inside(cache.parent, cache.name, DatasetError)
    return locate_data(location, cache)


@contextmanager
def looked_at(location: str, store: str) -> Iterator[str]:
    """As `locate_beside`, for who changes nothing: what is not there yet is there while the block lasts."""
    with TemporaryDirectory(prefix="clipzoo-look-") as scratch:
        cache = _beside(store)
        yield locate_data(location, cache if cache.is_dir() else Path(scratch))


def _beside(store: str) -> Path:
    return Path.home() / ".cache" / "clipzoo" if "://" in store else Path(store, ".data")


def to_render(location: str) -> int | None:
    """How many pictures ``rooms:<split>?count=N`` means; None for any other location."""
    match = _ROOMS.fullmatch(location)
    return int(match[2]) if match else None


def locate_model(model: str) -> str:
    """``demo:clip`` as OpenCLIP's ``local-dir:`` of the packaged start; other models are given back as they are."""
    if model != "demo:clip":
        return model
    return f"local-dir:{resources.files('clipzoo.demo') / 'clip'}"


def _unpacked(cache: Path, progress: Progress) -> Path:
    out = cache / "demo"
    if not (out / ".complete").exists():
        progress("unpacking", 0, 1)
        out.mkdir(parents=True, exist_ok=True)
        with (
            resources.files("clipzoo.demo").joinpath(PACKED).open("rb") as file,
            tarfile.open(fileobj=file, mode="r:xz") as archive,
        ):
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # not in 3.10 before 12, 3.11 before 4
            archive.extractall(out)
        files.write(out / ".complete", b"")
        progress("unpacking", 1, 1)
    return out
