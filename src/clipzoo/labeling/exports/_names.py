"""Short names of columns in formats that hold several: fields of rows, members of tars."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from clipzoo.errors import StoreError
from clipzoo.store import Column


def of(columns: Sequence[Column]) -> Mapping[str, str]:
    """Return column -> its task, or ``<task>-<slug>`` where several columns have the task; without dots."""
    tasks = Counter(one.task for one in columns)
    names = {
        one.name: one.task if tasks[one.task] == 1 else re.sub(r"[^a-z0-9-]+", "-", f"{one.task}-{one.slug}".lower())
        for one in columns
    }
    for name, count in Counter(names.values()).items():
        if count > 1:
            same = ", ".join(one for one, short in names.items() if short == name)
            raise StoreError(f"the columns {same} would both be called {name!r}. Export them one by one with --column")
    return names
