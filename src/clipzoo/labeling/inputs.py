"""Columns that derived experts read: the order of labeling, and a shard's labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from clipzoo.errors import ExpertError, StoreError, counted
from clipzoo.experts.base import Expert, ExpertCard
from clipzoo.labeling._tuning import Tuning
from clipzoo.store import Column, Manifest, Store
from clipzoo.store.rows import Row


def stages(experts: Sequence[Expert], store: Store, tuning: Tuning = Tuning()) -> list[list[Expert]]:  # noqa: B008
    """Return the experts in groups. Each group reads only columns of the store or of earlier groups.

    Experts are bound to the cards of the columns that they read (`Expert.bind`), as ``tuning`` changes them.

    Raises:
        ExpertError: a column is missing, is not what its reader needs, or experts read each other's columns.
    """
    read = {name for expert in experts for name in expert.reads}
    known: dict[str, ExpertCard] = {}
    waiting, order = list(experts), []
    while waiting:
        later = {expert.card.column for expert in waiting}
        ready = [expert for expert in waiting if not later & set(expert.reads)]
        if not ready:
            raise ExpertError(
                f"{' and '.join(e.card.uri for e in waiting)} read each other's columns. Remove one of them"
            )
        for expert in ready:
            if expert.reads:
                expert.bind({name: known.get(name) or _card(store, name, expert) for name in expert.reads})
        known |= {one.card.column: _known(store, tuning.card(one)) for one in ready if one.card.column in read}
        waiting = [expert for expert in waiting if expert not in ready]
        order.append(ready)
    return order


def _known(store: Store, card: ExpertCard) -> ExpertCard:
    """Return the card in the manifest of an expert's column if it is of the same expert, else its own ``card``."""
    try:
        column = store.column(card.task, card.slug)
        column.manifest.same_expert(Manifest.of(card, {}), column.path)
    except StoreError:
        return card
    return column.card


def _card(store: Store, name: str, reader: Expert) -> ExpertCard:
    try:
        return store.column(*name.split("/", 1)).card
    except (StoreError, TypeError) as error:
        raise ExpertError(
            f"{reader.card.uri} reads the column {name!r}, which does not exist ({error}). Label it first, or name its "
            "expert in the same call"
        ) from error


def read_columns(expert: Expert, store: Store) -> tuple[Column, ...]:
    """Return the columns that an expert reads, without checks."""
    return tuple(store.column(*name.split("/", 1)) for name in expert.reads)


def open_columns(
    expert: Expert, store: Store, dataset: Mapping[str, object], shards: Collection[str]
) -> tuple[Column, ...]:
    """Return the columns that an expert reads, after a check of these ``shards``.

    Raises:
        StoreError: a column is of another dataset, or does not have one of the ``shards``.
    """
    columns = read_columns(expert, store)
    for column in columns:
        column.manifest.belongs(dataset, column.path)
        have = column.committed() if shards else set()
        missing = [shard for shard in shards if shard not in have]
        if missing:
            raise StoreError(
                f"{expert.card.uri} reads the column {column.name} with {counted(len(missing), 'missing shard')}, the "
                f"first is {missing[0]!r}. Label this column first with {column.card.uri}, or name both experts in one "
                "call"
            )
    return columns


class Shard:
    """One shard of the columns that an expert reads; ``source`` is `shard_fingerprint` of its samples.

    Raises:
        StoreError: a column's labels are of other samples, or were made under another manifest.
    """

    def __init__(self, columns: Sequence[Column], shard: str, source: str) -> None:
        self._shard = shard
        self._columns = list[tuple[Column, dict[str, Row]]]()
        for column in columns:
            self._columns.append((column, column.checked(shard, source)))

    def labels(self, key: str) -> dict[str, object]:
        """Return column name -> label of a sample, for the columns that have one."""
        return {
            column.name: column.label(self._shard, rows[key])
            for column, rows in self._columns
            if key in rows and rows[key]["size"] is not None
        }
