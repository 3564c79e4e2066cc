"""Conditions on the statistics of labels, such as ``valid > 0.3 and confidence >= 0.5``: parsed, never executed."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from clipzoo import plugins
from clipzoo.errors import RecipeError

STATISTICS = {"valid": "valid_share", "confidence": "confidence", "bytes": "size"}
"""Name in a condition -> column of the store's rows: share of the image with a label, mean confidence, bytes."""

SHARES = ("valid", "confidence")
"""Statistics that are between 0 and 1."""

COMPARISONS = {
    ">": pc.greater, ">=": pc.greater_equal, "<": pc.less, "<=": pc.less_equal, "==": pc.equal, "!=": pc.not_equal,
}  # fmt: skip

_CLAUSE = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|==|!=|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True, slots=True)
class Where:
    """A parsed condition: clauses (name, comparison, number), all of which must hold.

    A statistic that the store does not have, such as the confidence of an expert that reports none, meets its clauses.
    """

    text: str
    clauses: tuple[tuple[str, str, float], ...]

    @classmethod
    def parse(cls, text: str) -> Where:
        """Return the condition of a text.

        Raises:
            RecipeError: the text is not of the form ``NAME COMPARISON NUMBER and …``, a name is unknown, or a share is
                compared with a number outside of [0, 1].
        """
        clauses = []
        for part in re.split(r"\band\b", text):
            found = _CLAUSE.fullmatch(part)
            if found is None:
                where = "" if part.strip() == text.strip() else f" in {text!r}"
                raise RecipeError(
                    f"{part.strip()!r}{where} is not a condition: write NAME COMPARISON NUMBER, such as "
                    f"valid > 0.3, and join several by `and`. Names are {', '.join(STATISTICS)}; comparisons are "
                    f"{' '.join(COMPARISONS)}"
                )
            name, comparison, number = found.groups()
            if name not in STATISTICS:
                raise RecipeError(f"{text!r}: labels have no statistic {name!r}; {plugins.hint(name, STATISTICS)}")
            if name in SHARES and not 0 <= float(number) <= 1:
                raise RecipeError(
                    f"{text!r}: {name} is a share from 0 to 1, so {number} is no limit; write it as a share"
                )
            clauses.append((name, comparison, float(number)))
        return cls(text, tuple(clauses))

    def mask(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return for each row of the store whether it meets all clauses, bool [N]."""
        met = pa.chunked_array([pa.repeat(True, len(rows))])
        for name, comparison, number in self.clauses:
            if STATISTICS[name] in rows.column_names:
                values = rows[STATISTICS[name]].cast(pa.float64())
                met = pc.and_(met, pc.fill_null(COMPARISONS[comparison](values, number), True))
        return met
