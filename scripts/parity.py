"""Write docs/parity.md from the output of the tests that compare clipzoo with others: ``python scripts/parity.py``.

The tests call ``record`` of tests/parity_records.py. A package that is missing leaves out its rows, and
tests/test_parity.py then fails. ``python scripts/parity.py RECORDS`` writes the page from a file of records.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "parity.md"
TESTS = (
    "tests/contracts/test_tasks.py::test_miou_is_that_of_torchmetrics",
    "tests/contracts/test_boxes.py::test_average_precision_is_that_of_coco",
    "tests/test_parity.py",
    "tests/test_classification.py",
    "tests/test_export_targets.py::test_the_other_librarys_embeddings_are_the_students",
    "tests/test_export_targets.py::test_graphs_of_heads_give_the_tasks_values_for_any_batch",
)
HEAD = """# Equality with other implementations

This page is written by `scripts/parity.py` from the output of the tests that compare clipzoo with other packages. A
difference is the largest absolute one over all cases of the row, rounded up to one digit; the test fails if it is above
the limit. Models have random weights; small ones are published architectures with fewer and narrower layers. Students
that a target refuses have no row ([export.md](export.md#families)). Top-1 and top-5 are taken from the logits of
clip-benchmark, because its own count (1.6.2) raises an error with this numpy. Edges have no row: they are
compared with the code of BSDS500's authors by `scripts/check_bsds.py`
([evaluation.md](evaluation.md#averaging)).

The run used Python {python}, torch {torch}, numpy {numpy}.
"""


def measured() -> list[dict[str, object]]:
    """Run the tests and return their records."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        path.touch()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not page", *TESTS]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "CLIPZOO_PARITY": str(path)})
        return [json.loads(line) for line in path.read_text().splitlines()]


def rounded(value: float) -> str:
    """Return a difference rounded up to one digit."""
    if value == 0:
        return "0"
    power = math.floor(math.log10(value))
    return f"{math.ceil(value / 10.0**power * (1 - 1e-9)) * 10.0**power:.0e}"


def page(records: list[dict[str, object]]) -> str:
    """Return the text of docs/parity.md."""
    parts = [HEAD.format(python=platform.python_version(), torch=version("torch"), numpy=version("numpy"))]
    for check in dict.fromkeys(str(one["check"]) for one in records):
        rows = [one for one in records if one["check"] == check]
        names = list(dict.fromkeys(name for one in rows for name in one))[4:]
        header = ["case", "compared with", *names, "limit"]
        lines = [f"| {' | '.join(header)} |", "| --- | --- |" + " ---: |" * (len(names) + 1)]
        for one in rows:
            cells = [rounded(float(str(one[name]))) if name in one else "" for name in names]
            lines.append(f"| {' | '.join([str(one['case']), str(one['package']), *cells, str(one['limit'])])} |")
        parts.append(f"## {check}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    given = [json.loads(line) for path in sys.argv[1:] for line in Path(path).read_text().splitlines()]
    PAGE.write_text(page(given or measured()), encoding="utf-8")
