"""Filters and sorting of samples: parameters of an address -> rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipzoo.errors import StoreError
from clipzoo.viewer.scan import Scan
from clipzoo.viewer.table import FAILED, LABELED, Table

FIELDS = "confidence", "valid", "bytes", "classes", "disagreement"
NAMES = {"q", "class", "failed", "reason", "field", "min", "max", "sort", "order"}


@dataclass(frozen=True)
class Query:
    """A request of rows. ``field`` and ``sort`` are ``<field>:<column or pair>``, or "" (``sort`` also "key")."""

    text: str = ""
    column: int = -1
    number: int = -1
    failed: str = ""
    """`any`, `none`, a column's number, or empty."""
    reason: str = ""
    field: str = ""
    least: float = -math.inf
    most: float = math.inf
    sort: str = ""
    descending: bool = False

    @classmethod
    def parse(cls, given: Mapping[str, Sequence[str]]) -> Query:
        """Return the query of an address's parameters.

        Raises:
            StoreError: a parameter is unknown or has no valid value.
        """
        if unknown := sorted(given.keys() - NAMES):
            raise StoreError(f"{unknown[0]!r} is no parameter of the viewer; it has {', '.join(sorted(NAMES))}")
        values = {name: texts[-1] for name, texts in given.items()}
        column, number = -1, -1
        if text := values.get("class", ""):
            first, _, second = text.partition(":")
            column, number = _whole(first, "class"), _whole(second, "class")
        if (order := values.get("order", "asc")) not in ("asc", "desc"):
            raise StoreError(f"order={order!r} is not asc or desc")
        return cls(
            values.get("q", "").strip(), column, number, values.get("failed", ""), values.get("reason", ""),
            values.get("field", ""), _number(values.get("min", ""), -math.inf),
            _number(values.get("max", ""), math.inf),
            values.get("sort", ""), order == "desc",
        )  # fmt: skip

    @property
    def grows(self) -> bool:
        """Return True if the answer may change while the background reads."""
        late = ("classes", "disagreement")
        return bool(self.text) or self.column >= 0 or self.field.startswith(late) or self.sort.startswith(late)


def _whole(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise StoreError(f"{name}={text!r} is not a number of the viewer")
    return int(text)


def _number(text: str, default: float) -> float:
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise StoreError(f"{text!r} is not a number")
    return value


def values(table: Table, scan: Scan, field: str) -> NDArray[np.float64]:
    """Return the values of ``<field>:<number>`` of all rows; NaN where there is none."""
    name, _, text = field.partition(":")
    count = len(scan.pairs) if name == "disagreement" else len(table.columns)
    if name not in FIELDS or (number := _whole(text, "field")) >= count:
        raise StoreError(f"{field!r} is no statistic of this store; {', '.join(FIELDS)} are, with ':' and a number")
    if name == "disagreement":
        return scan.disagreement[number].astype(np.float64)
    cells = table.cells[number]
    if name == "classes":
        known = [rows for rows, _ in scan.classes.get(number, ())]
        counts = np.bincount(np.concatenate([np.zeros(0, np.int32), *known]), minlength=len(table))
        return np.where(counts > 0, counts, np.nan).astype(np.float64)
    found = cells.size if name == "bytes" else cells.valid if name == "valid" else cells.confidence
    return np.where(cells.state == LABELED, found.astype(np.float64), np.nan)


def rows(table: Table, scan: Scan, query: Query) -> NDArray[np.int32]:
    """Return the rows of a query, in its order.

    Raises:
        StoreError: the store has no such column, class or statistic.
    """
    keep = np.ones(len(table), np.bool_)
    if query.text:
        texts = pa.chunked_array(scan.captions, pa.string()), table.keys
        hits = [pc.match_substring(one, query.text, ignore_case=True) for one in texts]
        keep = np.logical_or.reduce([pc.fill_null(hit, False).to_numpy() for hit in hits])
    if query.column >= 0:
        if query.column not in scan.classes:
            raise StoreError(f"column {query.column} of the store has no classes")
        has = np.zeros(len(table), np.bool_)
        has[scan.with_class(query.column, query.number)] = True
        keep &= has
    keep &= _failed(table, query)
    if query.field:
        found = values(table, scan, query.field)
        keep &= (found >= np.float32(query.least)) & (found <= np.float32(query.most))  # 0.9 finds a stored 0.9
    return _sorted(table, scan, query, np.flatnonzero(keep).astype(np.int32))


def _failed(table: Table, query: Query) -> NDArray[np.bool_]:
    """Return where the failures are as the query wants them; a reason selects the samples with this reason."""
    chosen = range(len(table.cells))
    if query.failed not in ("", "any", "none"):
        number = _whole(query.failed, "failed")
        if number >= len(table.cells):
            raise StoreError(f"failed={query.failed!r} is no column of this store")
        chosen = range(number, number + 1)
    keep = np.ones(len(table), np.bool_)
    if query.failed:
        failed = np.logical_or.reduce([table.cells[i].state == FAILED for i in chosen])
        keep = ~failed if query.failed == "none" else failed
    if query.reason:
        text = query.reason.lower()
        hits = []
        for i in chosen:
            known = [n for n, reason in enumerate(table.cells[i].reasons) if text in reason.lower()]
            hits.append(np.isin(table.cells[i].reason, known))
        keep &= np.logical_or.reduce(hits)
    return keep


def _sorted(table: Table, scan: Scan, query: Query, found: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return rows in order; those without a value are last."""
    if not query.sort:
        return found[::-1] if query.descending else found
    if query.sort == "key":
        order = np.asarray(pc.sort_indices(table.keys.take(pa.array(found))), np.int64)
        return found[order[::-1] if query.descending else order]
    by = values(table, scan, query.sort)[found]
    return found[np.argsort(-by if query.descending else by, kind="stable")]
