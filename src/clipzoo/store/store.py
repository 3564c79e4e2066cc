"""A store: columns of labels on disk, next to the unchanged dataset.

    LABELS/<task>/<expert slug>/manifest.json       meaning and origin of the labels
                                runs.jsonl          one line per start, shard and end: cost and software
                                <shard>.tar         members <key>.<ext>, one per label
                                <shard>.parquet     one row per sample; written last, as the commit mark

Tars and parquets contain no times, owners or versions: equal labels give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from clipzoo import files, tasks
from clipzoo.errors import StoreError
from clipzoo.experts.base import ExpertCard
from clipzoo.files import AnyPath, Place, locked
from clipzoo.store.column import Column
from clipzoo.store.manifest import MANIFEST, Manifest, safe_name, writing
from clipzoo.tasks import png

HEADLESS = (
    f"has shards and no {MANIFEST}, so it is not read: copy the file from the original folder, rerun the command that "
    "made the column, which keeps its shards, or remove the folder"
)
"""Sentence about a folder of `Store.headless`, which is its subject."""


class Store:
    """A folder of columns, or the address of one: s3://bucket/labels."""

    def __init__(self, root: AnyPath | Place) -> None:
        self.root = files.place(root)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    @classmethod
    def of(cls, given: Store | AnyPath | Place) -> Store:
        """Return a store as it is, or that at a path or address."""
        return given if isinstance(given, Store) else cls(given)

    def columns(self, needed: bool = False) -> list[Column]:
        """Return all columns, sorted by task and slug.

        Raises:
            StoreError: a manifest is damaged, or there is no column although one is ``needed``.
        """
        columns = []
        for column in self.each(needed).values():
            if isinstance(column, StoreError):
                raise column
            columns.append(column)
        return columns

    def each(self, needed: bool = False) -> dict[str, Column | StoreError]:
        """Return ``<task>/<slug>`` -> the column, or the error in its manifest, sorted by name.

        Raises:
            StoreError: there is no column although one is ``needed``.
        """
        names = self.names()
        if needed and not names:
            why = (
                "the folder does not exist"
                if not self.root.exists()
                else "it has no column (TASK/EXPERT/manifest.json)"
            )
            if lost := self.headless():
                why += f", but {', '.join(lost)} has shards without a manifest"
            raise StoreError(
                f"there is no label store at {str(self.root)!r}: {why}. Check the path. `clipzoo labels ls FOLDER` "
                "lists the columns of a store, `clipzoo label DATA --expert URI --out FOLDER` makes one"
            )
        return {name: self._opened(name) for name in names}

    def _opened(self, name: str) -> Column | StoreError:
        try:
            return Column(self.root / name)
        except StoreError as error:
            return error

    def column(self, task: str, slug: str = "") -> Column:
        """Return a column, by task and slug or by its name ``<task>/<slug>``.

        Raises:
            StoreError: there is no column of this name; the message lists the existing ones.
        """
        return Column(self._folder(task, slug))

    def _folder(self, task: str, slug: str) -> Place:
        path = self.root / task / slug
        if not safe_name(f"{task}/{slug}") or not (path / MANIFEST).exists():
            name = f"{task}/{slug}" if slug else task
            raise StoreError(f"{self.root} has no column {name}; it has: {', '.join(self.names()) or 'none'}")
        return path

    def names(self) -> list[str]:
        """Return ``<task>/<slug>`` of every column, from its folder, including damaged ones."""
        return ["/".join(path.parts[-3:-1]) for path in files.nested(self.root, MANIFEST)]

    def headless(self) -> list[str]:
        """Return ``<task>/<slug>`` of folders with rows of shards and without a manifest."""
        parts = [name.split("/") for name in files.below(self.root, ".parquet") if not name.startswith(".")]
        return sorted({"/".join(part[:2]) for part in parts if len(part) > 2} - set(self.names()))

    def remove(self, task: str, slug: str) -> None:
        """Delete a column. Nothing outside the store is changed, also if the store contains links.

        On a disk the column disappears in one step: if the process is killed, a folder ``.removed-…`` remains that
        is not a column. In an object store shards are removed one by one: if that is stopped, call this again.

        Raises:
            StoreError: there is no such column, it is in use, or it is a link.
        """
        path = self._folder(task, slug)
        if path.resolve() != self.root.resolve() / task / slug:
            raise StoreError(f"{path} is a link to {path.resolve()}. Remove the link, or the column in its own store")
        with locked(path, StoreError, "a run would continue on the removed column"), writing(path):
            files.remove_folder(path, self.root, MANIFEST)

    def create(
        self,
        card: ExpertCard,
        dataset: Mapping[str, object],
        other_dataset: bool = False,
        codec: str | None = None,
    ) -> Column:
        """Return the column of an expert over a dataset. Create it if it does not exist, or has no label of its expert.

        Args:
            card: the expert and the convention of its labels.
            dataset: `clipzoo.readers.fingerprint` of the dataset.
            other_dataset: also return a column over another dataset; the caller then calls `update_dataset`.
            codec: one of `png.CODECS`; by default that of the column, and `png.DEFAULT` for a new one.

        Raises:
            StoreError: the column has labels of another expert or dataset (the message names the field), or links point
                out of the store.
            PluginError: there is no such task.
        """
        tasks.get(card.task)
        if not safe_name(f"{card.task}/{card.slug}"):
            raise StoreError(
                f"the URI {card.uri!r} gives no valid folder name ({card.slug!r}). Give the expert a plain URI"
            )
        files.check_inside(self.root, f"{card.task}/{card.slug}", StoreError)
        path = self.root / card.task / card.slug
        if codec not in (None, *png.CODECS):
            raise StoreError(f"the codec {codec!r} is unknown. Use one of {', '.join(png.CODECS)}")
        fresh = Manifest.of(card, dataset, codec or png.DEFAULT)
        if (path / MANIFEST).exists():
            held = Manifest.read(path)
            if held.digest != fresh.digest and Column(path).void():
                self.remove(card.task, card.slug)  # no labels of two experts can be mixed
                fresh.write(path)
                return Column(path)
            held.same_expert(fresh, path)
            if codec not in (None, held.codec):
                raise StoreError(
                    f"{path} has labels of the codec {held.codec!r}, not {codec!r}, and a column has one codec. Omit "
                    "the codec, or write to another store"
                )
            if not other_dataset:
                held.belongs(dataset, path)
        else:
            fresh.write(path)
        return Column(path)
