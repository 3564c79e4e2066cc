"""Records of equality checks: tests write them to the file $CLIPZOO_PARITY, which scripts/parity.py makes a page of."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

VARIABLE = "CLIPZOO_PARITY"


def record(check: str, case: str, package: str, differences: Mapping[str, float], limit: float) -> None:
    """Append a row to the file, if there is one, and assert that no difference is larger than the limit.

    Args:
        check: the section of docs/parity.md.
        case: the row.
        package: that was compared with, whose version is recorded.
        differences: quantity -> largest absolute difference.
        limit: largest difference that is allowed.
    """
    assert differences
    assert max(differences.values()) <= limit, (check, case, differences)
    if VARIABLE not in os.environ:
        return
    row = {"check": check, "case": case, "package": f"{package} {version(package)}", "limit": limit, **differences}
    with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
