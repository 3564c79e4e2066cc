"""Scores on disk, with the identity of benchmarks and student; they are measured again if one of them has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from clipzoo import files
from clipzoo.errors import DatasetError
from clipzoo.evaluation.arms import RowScores
from clipzoo.evaluation.measure import Scored

DONE = "done"
"""The file that is written last: the identity of benchmarks and student, and the names of the scores."""
STUDENT, PREPROCESSING, LAYERS, STRIDE = "student", "preprocessing", "layers", "label_stride"
ADDED = (STUDENT, PREPROCESSING, LAYERS, STRIDE)
"""Names in an identity that scores of earlier versions do not have; without them, they count as up to date."""


def kept_scores(
    folder: Path,
    measure: Callable[[], Mapping[str, RowScores]],
    identity: Mapping[str, str],
    say: Callable[[str], None],
) -> dict[str, dict[str, Scored]]:
    """Load scores from ``<folder>/<row>/<group>.npz``; measure and save them if they are missing or out of date.

    Args:
        folder: of one arm and seed, or of one split of the baselines.
        measure: returns row -> group -> scores.
        identity: the preset, those of `ADDED` that apply, and split -> identity of its benchmark.
        say: is called with the reason if existing scores are measured again.
    """
    scores, reason = _current(folder, identity)
    if scores is not None:
        return scores
    if reason:
        say(f"the scores in {folder} are measured again: {reason}")
    measured = measure()  # may fail, or be interrupted: the old scores remain until then
    shutil.rmtree(folder, ignore_errors=True)
    names = []
    for row, groups in measured.items():
        for group, scored in groups.items():
            scored.save(folder / row / f"{group}.npz")
            names.append(f"{row}/{group}")
    files.write(folder / DONE, json.dumps({"identity": dict(identity), "scores": names}, indent=1).encode())
    return _load(folder, names)


def _current(folder: Path, identity: Mapping[str, str]) -> tuple[dict[str, dict[str, Scored]] | None, str]:
    """Return the scores, or None and the reason; the reason is empty if nothing was measured yet."""
    path = folder / DONE
    if not path.exists():
        return None, ""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        measured, names = dict(record["identity"]), [str(name) for name in record["scores"]]
    except (ValueError, KeyError, TypeError):
        return None, "their benchmark is not recorded"
    measured = {name: identity.get(name) for name in ADDED} | measured
    changed = [name for name in identity if measured.get(name) != identity[name]]
    if changed:
        return None, f"{', '.join(changed)} {'has' if len(changed) == 1 else 'have'} changed"
    try:
        return _load(folder, names), ""
    except DatasetError as error:
        return None, str(error)


def _load(folder: Path, names: list[str]) -> dict[str, dict[str, Scored]]:
    scores: dict[str, dict[str, Scored]] = {}
    for name in sorted(names):
        row, _, group = name.partition("/")
        scores.setdefault(row, {})[group] = Scored.load(folder / row / f"{group}.npz")
    return scores
