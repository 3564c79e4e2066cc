"""A run's saved plan: ``plan.arrow``, and the state of dataset and labels in ``plan.json``."""

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

PLAN, NEXT, OLD_PLAN, MADE_OF = "plan.arrow", "plan-next.arrow", "plan.parquet", "plan.json"

CAPTIONS = "captions"
"""Caption fields whose members the plan has; absent if the dataset was opened without."""

MEANING, TARS = "meaning", "tars"
"""Fields of a column in plan.json that older files do not have: `Manifest.digest`, and a digest of the checksums of its
shards' labels."""


def kept_plan(
    folder: Path, reader: Reader, columns: Mapping[str, Column], join: Callable[[Path], Plan], trained: bool
) -> Plan:
    """Return the plan saved in ``folder``. Build and save it if there is none, or if dataset or labels have changed.

    Args:
        folder: of the run.
        reader: the dataset.
        columns: name -> labels.
        join: builds the plan and writes it to a path.
        trained: arms were trained on the saved plan, so it must not be replaced.

    Raises:
        CheckpointError: the files are damaged, or dataset or labels have changed after arms were trained.
    """
    state_file, old = folder / MADE_OF, folder / OLD_PLAN
    path = folder / PLAN if (folder / PLAN).exists() or not old.exists() else old
    made_of = {"dataset": fingerprint(reader)} | {name: _labels(column) for name, column in columns.items()}
    if reader.drawn:
        made_of[CAPTIONS] = {"fields": [*reader.drawn]}
    if not (path.exists() and state_file.exists()):
        return _save(folder, join, made_of)
    known = _load_state(state_file)
    changed = [name for name, now in made_of.items() if known.get(name) != _comparable(now, known.get(name))]
    if not changed:
        plan = Plan.load(path)
        shards, current = plan.changed_shards(reader)
        if not shards:
            if current.places != plan.places:
                current.save(path)
            if known != made_of:
                _update_state(path, state_file, made_of)
            return current
        changed = [f"the samples of {len(shards)} shards (the first is {shards[0]!r})"]
    if trained:
        raise CheckpointError(
            f"{', '.join(changed)} changed since {path} was made ({known}, now {made_of}), but arms were trained on "
            f"the old data. Give another --out, or delete {path}, {state_file.name}, arms, scores, ablations and "
            "advice to train again"
        )
    return _save(folder, join, made_of)


def differing(one: Path, other: Path) -> list[str]:
    """Return the names, "dataset" and columns, in which the plans of two folders were made of other data or labels.

    Names that only one of them has, and folders without a plan, are left out.
    """
    states = [_load_state(folder / MADE_OF) if (folder / MADE_OF).exists() else {} for folder in (one, other)]
    first, second = states
    return [name for name in first if name in second and not _agree(first[name], second[name])]


def _agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return _comparable(one, other) == _comparable(other, one)


def _save(folder: Path, join: Callable[[Path], Plan], made_of: Mapping[str, Any]) -> Plan:
    draft = folder / NEXT
    plan = join(draft)  # a join that fails leaves the old plan and its state
    (folder / MADE_OF).unlink(missing_ok=True)  # if the process is killed here, the plan is built again
    draft.replace(folder / PLAN)
    (folder / OLD_PLAN).unlink(missing_ok=True)
    files.write(folder / MADE_OF, json.dumps(made_of, indent=2).encode())
    return plan


def _labels(column: Column) -> dict[str, Any]:
    """Return what identifies a column's labels, without reading them."""
    shards = sorted(column.committed())
    marks = files.map_ahead(column.marks, shards, files.threads(column.path))
    checksums = [[shard, one.get(TAR_MARK, "")] for shard, one in zip(shards, marks, strict=True)]
    digest = hashlib.sha256(json.dumps(checksums).encode()).hexdigest()[:16]
    return {**column.manifest.counts.model_dump(), MEANING: column.manifest.digest, TARS: digest}


def _load_state(state_file: Path) -> dict[str, Any]:
    try:
        known = json.loads(state_file.read_bytes())
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        raise CheckpointError(
            f"{state_file} is damaged. Delete it and the plan next to it, and rerun the command: both are made again"
        )
    return known


def _comparable(now: dict[str, Any], known: Any) -> dict[str, Any]:
    """Return the current state, without fields that the saved one does not have."""
    return {name: value for name, value in now.items() if name not in (MEANING, TARS) or name in (known or {})}


def _update_state(path: Path, state_file: Path, made_of: Mapping[str, Any]) -> None:
    """Warn that an old plan has no checksums, and save the current ones."""
    log.warning(
        "%s was made by an older clipzoo, which stored no checksums of labels and samples: earlier changes were "
        "detected by counts and the first shard only. Changes from now on are detected", path,
    )  # fmt: skip
    files.write(state_file, json.dumps(made_of, indent=2).encode())
