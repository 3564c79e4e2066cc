"""The page of several runs: values, paired differences, settings that differ, cost and curves."""

from __future__ import annotations

from pathlib import Path

from clipzoo.evaluation.results import RunsComparison
from clipzoo.files import write
from clipzoo.pages import _html, charts, words
from clipzoo.pages.report import _cost as cost_table
from clipzoo.pages.report import _gains_of, _tables


def write_comparison(results: RunsComparison, out: Path, curves: charts.Curves) -> Path:
    """Write the page of ``comparison.json`` with training curves; return its path."""
    gains = [_gains_of(results, pair) for pair in results["differences"]]
    write(
        out,
        _html.render(
            "comparison.html",
            title=f"Comparison of {len(results['runs'])} runs",
            results=results,
            tables=_tables(results),
            gains=[gain for gain in gains if gain["rows"]],
            equal=[gain["pair"] for gain in gains if not gain["rows"] and _is_measured(results, str(gain["pair"]))],
            cost=cost_table(results["cost"]),
            curves=charts.curves(curves),
            words=words,
        ),
    )
    return out


def _is_measured(results: RunsComparison, pair: str) -> bool:
    """Return True if a pair has differences, and each of them has a value."""
    cells = results["differences"][pair].values()
    return bool(cells) and all(cell["mean"] is not None for cell in cells)
