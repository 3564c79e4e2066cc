"""Export of labels in other formats, one file per format.

A file has ``TASKS``, the tasks that the format supports, and ``write``, a `base.Write`; for the rest see
`base.LabelFormatPlugin`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from clipzoo import files
from clipzoo.errors import StoreError
from clipzoo.files import AnyPath, Place
from clipzoo.labeling.exports import _listing
from clipzoo.labeling.exports.base import Labeled, LabelFormatPlugin, Labels
from clipzoo.locations import open_dataset
from clipzoo.plugins import Registry
from clipzoo.progress import Progress, Silent
from clipzoo.readers import fingerprint
from clipzoo.store import Column, Store

__all__ = ["PLUGINS", "Exported", "LabelFormatPlugin", "Labeled", "Labels", "export_labels"]

PLUGINS: Registry[LabelFormatPlugin] = Registry(
    "labeling.exports", ("TASKS", "write"), noun="label format", option="--to"
)

README, LISTED = "README.md", "failures.tsv"
"""Files next to the labels; of a single file their names follow its own. The second one exists only if it has lines."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An export: its columns and path, and the number of images with a label.

    ``left_out`` counts the samples without a written label, ``changed`` the labels that the format could not hold
    unchanged; ``unread`` the shards without labels of a dataset on a network, whose samples are not counted.
    ``listed`` is the file with the reasons, None if all of them are 0.
    """

    column: str
    path: Place
    pictures: int
    left_out: int
    changed: int = 0
    listed: Place | None = None
    unread: int = 0


def export_labels(
    store: AnyPath,
    data: AnyPath,
    to: str,
    out: AnyPath,
    column: str | Sequence[str] = "",
    progress: Progress | None = None,
) -> Exported:
    """Write columns of a store in another format, in pixels of the dataset's images.

    Args:
        store: the store.
        data: the labeled dataset.
        to: the format, the name of a file in this folder.
        out: the output: a file, which is replaced if it exists, or a new folder.
        column: ``<task>/<slug>``, or several for formats that hold several. By default all columns that fit such a
            format; other formats need no name if only one column fits.
        progress: receiver of the number of exported shards.

    Raises:
        PluginError: the format is unknown.
        StoreError: no column or several fit, a column is of another dataset or of other samples, or the output folder
            is not empty.
        DatasetError: the dataset cannot be read.
    """
    plugin = PLUGINS.load(to)
    names = [column] if isinstance(column, str) else list(column)
    chosen = _chosen(Store(store), [name for name in names if name], plugin, to)
    reader = open_dataset(os.fspath(data))
    for one in chosen:
        one.manifest.belongs(fingerprint(reader), one.path)
    target = files.place(out)
    with _listing.waiting() as lines:
        walk = _listing.Walk(chosen, reader, progress or Silent(), lines)
        if getattr(plugin, "FOLDER", False):
            with _new_folder(target) as folder:
                plugin.write(walk, chosen[0], folder)
                listed = _beside(plugin, chosen, folder, target, lines)
        else:
            plugin.write(walk, chosen[0], target)
            listed = _beside(plugin, chosen, target, target, lines)
    where = target / LISTED if listed and getattr(plugin, "FOLDER", False) else listed
    name = ", ".join(one.name for one in chosen)
    return Exported(name, target, walk.pictures, walk.left_out, walk.changed, where, walk.unread)


def _chosen(store: Store, names: Sequence[str], plugin: LabelFormatPlugin, to: str) -> list[Column]:
    """Return the named columns, or those that fit."""
    several = bool(getattr(plugin, "SEVERAL", False))
    fitting = {one.name: one for one in store.columns(needed=True) if one.task in plugin.TASKS}
    wrong = [name for name in names if name not in fitting]
    chosen = [fitting[name] for name in names if name in fitting] if names else list(fitting.values())
    if chosen and not wrong and (several or len(chosen) == 1):
        return chosen
    if not fitting:
        raise StoreError(
            f"the format {to} supports {', '.join(plugin.TASKS)}, and {store.root} has no such column. It has: "
            f"{', '.join(store.names())}. Give another format with --to"
        )
    have = ", ".join(fitting)
    fix = f"--column {wrong[0]} is not one of them" if wrong else "choose one with --column"
    raise StoreError(
        f"the format {to} supports {', '.join(plugin.TASKS)}. {store.root} has these columns of it: {have}; {fix}"
    )


@contextmanager
def _new_folder(target: Place) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target`` at the end of the block; a killed export leaves only itself."""
    if not isinstance(target, Path):
        raise StoreError(
            f"{target} is a remote address, but this format is a folder, which is written on a disk. Export to a "
            "folder and copy it"
        )
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise StoreError(
            f"{target} exists and is not an empty folder. An export writes a new folder, so that it contains no files "
            "of another one. Remove it, or give another --out"
        )
    partial = target.with_name(f".{target.name}.partial")
    with files.named(target, partial):
        files.make_folder(partial)
    with files.locked(partial, StoreError, "two exports would write the same folder"):
        _clear(partial)
        (partial / "content").mkdir()
        try:
            yield partial / "content"
            (partial / "content").replace(target)
        finally:
            shutil.rmtree(partial)


def _clear(folder: Path) -> None:
    """Remove what an interrupted export has left in its folder."""
    shutil.rmtree(folder / "content", ignore_errors=True)


def _beside(
    plugin: LabelFormatPlugin, columns: Sequence[Column], where: Place, target: Place, lines: IO[str]
) -> Place | None:
    """Write the README and the list of changes next to an export, and return the path of the list, if there is one."""
    folder = isinstance(where, Path) and where.is_dir()
    readme, listed = (where / name if folder else where.with_name(f"{where.name}.{name}") for name in (README, LISTED))
    text = getattr(plugin, "readme", None)
    if text is not None:
        files.write(readme, text(columns, str(target)).encode())
    lines.seek(0)
    if not lines.readline():
        listed.unlink(missing_ok=True)  # of an earlier export
        return None
    lines.seek(0)
    partial = files.PartialFile(listed)
    try:
        with partial.path.open("w", encoding="utf-8") as file:
            file.write(_listing.HEADER)
            shutil.copyfileobj(lines, file)
        partial.commit()
    finally:
        partial.discard()
    return listed
