"""The layout of CLIP_benchmark: tars of ``<key>.jpg|png|webp`` with ``<key>.cls`` (class index) or
``<key>.txt``.

Beside the tars, or one folder above them (``test/0.tar``): ``classnames.txt``, a name a line, and
``zeroshot_classification_templates.txt``, a template a line with ``{c}``. A ``.txt`` holds one caption a
line.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from clipzoo import files
from clipzoo.errors import DatasetError
from clipzoo.evaluation.datasets.base import Benchmark
from clipzoo.files import AnyPath, Place

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp")
PLAIN = ("{c}",)


def read(location: AnyPath | Place, split: str = "test", limit: int | None = None) -> Benchmark:
    """Read the pictures of ``location``, or of its folder ``split`` if the tars lie there.

    Raises:
        DatasetError: no tar, no picture, or a class index without a name.
    """
    root, (folder, shards) = files.place(location), shards_of(location, split)
    found = [sample for shard in shards for sample in _samples(shard)][:limit]
    images = tuple(next(m[e] for e in IMAGES if e in m) for _, m in found)
    targets = tuple(int(m["cls"]) for _, m in found if "cls" in m)
    names = _lines(folder, "classnames.txt")
    _check(root, found, targets, names)
    captions = tuple(_captions(members) for _, members in found)
    templates = _lines(folder, "zeroshot_classification_templates.txt") or PLAIN
    return Benchmark(tuple(key for key, _ in found), images, targets, captions, names, templates)


def shards_of(location: AnyPath | Place, split: str = "test") -> tuple[Place, list[Place]]:
    """The folder of the tars, ``location`` or its folder ``split``, and the tars; `DatasetError` if there is none."""
    root = files.place(location)
    for folder in (root / split, root):
        if names := [name for name in sorted(files.below(folder, ".tar")) if "/" not in name]:
            return folder, [folder / name for name in names]
    raise DatasetError(f"neither {root} nor its folder {split!r} holds a .tar; give the folder of the shards")


def _captions(members: dict[str, bytes]) -> tuple[str, ...]:
    lines = members.get("txt", b"").decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _samples(shard: Place) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, extension -> bytes) of every picture of a tar, in order."""
    samples: dict[str, dict[str, bytes]] = {}
    with files.near(shard), files.opened(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            data = tar.extractfile(member) if member.isfile() else None
            if data is not None:
                key = f"{folder}/{stem}" if folder else stem
                samples.setdefault(key, {})[extension.lower()] = data.read()
    return ((key, members) for key, members in samples.items() if any(e in members for e in IMAGES))


def _lines(folder: Place, name: str) -> tuple[str, ...]:
    """The lines of a file beside the shards or one folder above; none if it is in neither place."""
    for path in (folder / name, folder.parent / name):
        if path.is_file():
            return tuple(line for line in path.read_bytes().decode("utf-8").splitlines() if line.strip())
    return ()


def _check(
    root: Place, found: list[tuple[str, dict[str, bytes]]], targets: tuple[int, ...], names: tuple[str, ...]
) -> None:
    if not found:
        raise DatasetError(f"the tars of {root} hold no picture; known extensions: {', '.join(IMAGES)}")
    if targets and len(targets) != len(found):
        lacking = len(found) - len(targets)
        raise DatasetError(f"{lacking} of {len(found)} pictures of {root} have no .cls; add them")
    if targets and not set(targets) <= set(range(len(names))):
        raise DatasetError(
            f"{root} has classes from {min(targets)} to {max(targets)}, classnames.txt {len(names)} lines; "
            "indices count lines from 0"
        )
