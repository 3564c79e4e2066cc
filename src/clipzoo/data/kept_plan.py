"""A plan kept in a run's folder, ``plan.parquet``, with what it was made of beside it, ``plan.json``."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clipzoo import files
from clipzoo.data.plan import Plan
from clipzoo.errors import CheckpointError
from clipzoo.readers import fingerprint
from clipzoo.readers.base import Reader
from clipzoo.store import TAR_MARK, Column

log = logging.getLogger(__name__)

PLAN, MADE_OF = "plan.parquet", "plan.json"

MEANING, TARS = "meaning", "tars"
"""Fields of a column in plan.json that earlier clipzoos did not write: `Manifest.digest`, and a digest of the checksums
of its shards' labels."""


def kept_plan(
    folder: Path, reader: Reader, columns: Mapping[str, Column], join: Callable[[], Plan], trained: bool
) -> Plan:
    """The plan in ``folder``, made by ``join`` and kept there if there is none, or dataset or labels have changed.

    Args:
        folder: the run's.
        reader: the dataset.
        columns: name -> labels.
        join: makes the plan.
        trained: arms were trained on the plan that is there: it is not made anew.

    Raises:
        CheckpointError: the files are damaged, or what they were made of has changed and arms were trained on it.
    """
    path, beside = folder / PLAN, folder / MADE_OF
    made_of = {"dataset": fingerprint(reader)} | {name: _labels(column) for name, column in columns.items()}
    if not (path.exists() and beside.exists()):
        return _made(join(), path, beside, made_of)
    known = _known(beside)
    changed = [name for name, now in made_of.items() if known.get(name) != _comparable(now, known.get(name))]
    if not changed:
        plan = Plan.load(path)
        moved, current = plan.moved(reader)
        if not moved:
            if current.places != plan.places:
                current.save(path)
            if known != made_of:
                _adopt(path, beside, made_of)
            return current
        changed = [f"the samples of {len(moved)} shards, {moved[0]!r} the first,"]
    if trained:
        raise CheckpointError(
            f"{', '.join(changed)} changed since {path} was made ({known}, now {made_of}), and arms were trained on "
            f"what was: give another --out, or delete {path}, {beside.name}, arms and scores to train anew"
        )
    return _made(join(), path, beside, made_of)


def _made(plan: Plan, path: Path, beside: Path, made_of: Mapping[str, Any]) -> Plan:
    beside.unlink(missing_ok=True)  # killed in between, the plan is made again
    plan.save(path)
    files.write(beside, json.dumps(made_of, indent=2).encode())
    return Plan.load(path)


def _labels(column: Column) -> dict[str, Any]:
    """What tells a column's labels from others of the same name, without reading them."""
    shards = sorted(column.committed())
    marks = files.ahead(column.marks, shards, files.threads(column.path))
    told = [[shard, one.get(TAR_MARK, "")] for shard, one in zip(shards, marks, strict=True)]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return {**column.manifest.counts.model_dump(), MEANING: column.manifest.digest, TARS: digest}


def _known(beside: Path) -> dict[str, Any]:
    try:
        known = json.loads(beside.read_bytes())
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        raise CheckpointError(
            f"{beside} is damaged: it does not tell what {PLAN} was made of. Delete both files; the same command makes "
            "them anew of the dataset and the labels"
        )
    return known


def _comparable(now: dict[str, Any], known: Any) -> dict[str, Any]:
    """What is now, without what was not kept then."""
    return {name: value for name, value in now.items() if name not in (MEANING, TARS) or name in (known or {})}


def _adopt(path: Path, beside: Path, made_of: Mapping[str, Any]) -> None:
    """Say that an old plan tells less, and keep what is now."""
    log.warning(
        "%s was made by a clipzoo that did not keep checksums of labels and samples: whether they are still the same "
        "is known by counts and by the first shard only; changes from now on are noticed", path,
    )  # fmt: skip
    files.write(beside, json.dumps(made_of, indent=2).encode())
