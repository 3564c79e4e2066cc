"""Columns that experts read: in which order that is done, and a shard's labels of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from clipzoo.errors import ExpertError, StoreError
from clipzoo.experts.base import Expert, ExpertCard
from clipzoo.store import Column, Store, marks_of


def stages(experts: Sequence[Expert], store: Store) -> list[list[Expert]]:
    """The experts in groups, each of which reads columns that are in the store or come from a group before it.

    Each is told what the columns that it reads mean (`Expert.bind`).

    Raises:
        ExpertError: a column that is read is neither there nor made, is not what its reader needs, or a circle.
    """
    made = {expert.card.column for expert in experts}
    known: dict[str, ExpertCard] = {}
    waiting, order = list(experts), []
    while waiting:
        ready = [expert for expert in waiting if not (made - known.keys()) & set(expert.reads)]
        if not ready:
            raise ExpertError(f"{' and '.join(e.card.uri for e in waiting)} read each other's columns; leave one out")
        for expert in ready:
            if expert.reads:
                expert.bind({name: known.get(name) or _card(store, name, expert) for name in expert.reads})
        known |= {expert.card.column: expert.card for expert in ready}
        waiting = [expert for expert in waiting if expert not in ready]
        order.append(ready)
    return order


def _card(store: Store, name: str, reader: Expert) -> ExpertCard:
    try:
        return store.column(*name.split("/", 1)).card
    except (StoreError, TypeError) as error:
        raise ExpertError(
            f"{reader.card.uri} reads the column {name!r}, which is not there ({error}); label it first, or name its "
            "expert in the same call"
        ) from error


def opened(expert: Expert, store: Store, dataset: Mapping[str, Any], shards: Collection[str]) -> tuple[Column, ...]:
    """The columns that an expert reads, all of these shards being in them.

    Raises:
        StoreError: one is of another dataset, or lacks a shard.
    """
    columns = tuple(store.column(*name.split("/", 1)) for name in expert.reads)
    for column in columns:
        column.manifest.belongs(dataset, column.path)
        have = column.committed() if shards else set()
        lacking = [shard for shard in shards if shard not in have]
        if lacking:
            raise StoreError(
                f"{expert.card.uri} reads the column {column.name}, which lacks {len(lacking)} shards, {lacking[0]!r} "
                f"the first; label them first by {column.card.uri}, or name both experts in one call"
            )
    return columns


class Shard:
    """One shard of the columns that an expert reads; ``source`` is `shard_fingerprint` of its samples.

    Raises:
        StoreError: a column's labels are of other samples, or mean something else than its manifest says.
    """

    def __init__(self, columns: Sequence[Column], shard: str, source: str) -> None:
        self._shard, self._columns = shard, []
        for column in columns:
            rows = column.rows(shard)
            marks = marks_of(rows.schema)
            column.check_meaning(shard, marks)
            column.check_pictures(shard, marks, source)
            self._columns.append((column, {row["key"]: row for row in rows.to_pylist()}))

    def labels(self, key: str) -> dict[str, Any]:
        """Column name -> label of a sample, of the columns that have one."""
        return {
            column.name: column.label(self._shard, rows[key])
            for column, rows in self._columns
            if key in rows and rows[key]["size"] is not None
        }
