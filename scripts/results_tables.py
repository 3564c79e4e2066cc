"""Update the tables of README.md and docs/demo.md from benchmarks/results: ``python scripts/results_tables.py``.

The rows after the heading row of each table are replaced in place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipzoo.evaluation.measure import rounded
from clipzoo.pages import words

ROOT = Path(__file__).parent.parent
PAIR = "clipzoo-vs-clip-ft"
MEASURES = {
    "segmentation/miou": "segmentation, mIoU",
    "detection/ap50": "detection, AP50",
    "depth/delta1": "depth, δ1",
    "normals/mean_angle": "surface normals, mean angle",
    "edges/ap": "edges, AP",
    "zero_shot/top1": "zero-shot top-1",
    "retrieval/r5": "retrieval R@5",
}
ARMS = ("clip", "clip-ft", "clipzoo")


@dataclass(frozen=True)
class Table:
    """A table: its file, the beginning of its heading row, the results to show, and its columns."""

    file: str
    head: str
    results: str
    columns: tuple[str, ...]


TABLES = (
    Table("README.md", "| | clip |", "proof", (*ARMS, "difference", "expert", "gap")),
    Table("docs/demo.md", "| measure | position prior |", "proof", (*words.TRIVIAL, *ARMS, "difference", "gap")),
    Table("docs/demo.md", "| measure, ViT |", "proof-vit", (*ARMS, "difference", "expert", "gap")),
    Table(
        "docs/demo.md", "| measure | best trivial baseline |", "demo", ("best", *ARMS, "difference", "expert", "gap")
    ),
)


def rows(table: Table) -> list[str]:
    """Return the rows of a table in Markdown."""
    found = json.loads((ROOT / "benchmarks" / "results" / table.results / "results.json").read_text())
    return [
        f"| {name} | {' | '.join(_cell(found, metric, column, table) for column in table.columns)} |"
        for metric, name in MEASURES.items()
    ]


def _cell(found: Mapping[str, Any], metric: str, column: str, table: Table) -> str:
    verdict = words.judge(found, metric, PAIR)
    assert verdict
    if column == "difference":
        low, high = (words.change(end, verdict.cell["unit"]).split(" ")[0].strip("+°") for end in verdict.cell["ci"])
        return f"{words.change(verdict.cell['mean'], verdict.cell['unit'])} ({low} to {high})"
    if column == "gap":
        closed = words.gap(found, verdict)
        return "–" if closed is None else words.share(closed)
    cells = {**found["baselines"], **found["arms"]}
    means = [
        cells[row][metric]["mean"] for row in (words.TRIVIAL if column == "best" else (column,)) if metric in cells[row]
    ]
    if not means:
        return "–"
    best = max(means) if verdict.cell["direction"] == "higher" else min(means)
    text = f"{rounded(best, 1)}°" if verdict.cell["unit"] else rounded(best, 3).removeprefix("0")
    return f"**{text}**" if column == "clipzoo" and table.file == "README.md" else text


def written(table: Table, text: str) -> str:
    """Return the text of the table's file with updated rows."""
    before, head, after = text.partition(table.head)
    first, rule, rest = after.split("\n", 2)
    body = rest.split("\n\n", 1)
    return before + head + "\n".join([first, rule, *rows(table), "", body[1]])


if __name__ == "__main__":
    for one in TABLES:
        path = ROOT / one.file
        path.write_text(written(one, path.read_text(encoding="utf-8")), encoding="utf-8")
