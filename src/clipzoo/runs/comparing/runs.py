"""Several finished runs on one page: rows on the same images, paired differences, settings, cost and curves."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from clipzoo import files
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.evaluation.arms import RowScores, comparison, strict
from clipzoo.evaluation.results import Apart, RunsComparison
from clipzoo.pages.comparison import write_comparison
from clipzoo.runs.comparing.saved import Saved
from clipzoo.runs.results import curve
from clipzoo.store.manifest import software


def compare_runs(folders: Sequence[Path], out: Path) -> Path:
    """Compare finished runs on ``test``; the first is the reference. Nothing is measured.

    Args:
        folders: of the runs, at least two.
        out: folder of ``comparison.json`` and ``page.html``.

    Returns:
        the path of the page.

    Raises:
        RecipeError: a folder is given twice, or there are too many.
        CheckpointError: a run has not been measured, or none can be compared with the first one.
    """
    resolved = [folder.resolve() for folder in folders]
    if repeated := [str(folder) for folder, path in zip(folders, resolved, strict=True) if resolved.count(path) > 1]:
        raise RecipeError(f"{repeated[0]} is given twice; give each run once")
    if len(folders) > len(string.ascii_uppercase):
        raise RecipeError(f"{len(folders)} runs are given, and a page has at most 26; compare fewer")
    runs = [Saved(letter, folder) for letter, folder in zip(string.ascii_uppercase, folders, strict=False)]
    rows, apart = _rows(runs)
    pairs = [(f"{run.letter} {arm}", f"A {arm}") for run in runs[1:] for arm in run.results["arms"]]
    pairs = [(a, b) for a, b in pairs if _groups(rows.get(a, {})) & _groups(rows.get(b, {}))]
    if not pairs:
        reasons = (
            "; ".join(sorted({f"{one['row']}: {one['reason']}" for one in apart})) or "no arm has a common measure"
        )
        raise CheckpointError(
            f"{folders[0]} and the other runs have nothing to compare ({reasons}). Measure them on the same benchmarks "
            "with the same preset: `clipzoo eval RUN --set evaluation.test=…`"
        )
    results = cast(RunsComparison, strict(_results(runs, rows, pairs, apart)))
    files.write(out / "comparison.json", json.dumps(results, indent=1, allow_nan=False).encode())
    logs = {
        f"{run.letter} {arm}": {seed: curve(run.folder.training(arm, seed)) for seed in run.results["seeds"]}
        for run in runs
        for arm in ("clip-ft", "clipzoo")
        if arm in run.results["arms"]
    }
    return write_comparison(results, out / "page.html", logs)


def _results(
    runs: Sequence[Saved], rows: dict[str, dict[int, RowScores]], pairs: list[tuple[str, str]], apart: list[Apart]
) -> dict[str, object]:
    return {
        "runs": {run.letter: {"folder": str(run.path), "recipe": run.recipe.name} for run in runs},
        **comparison(rows, {}, pairs=pairs),
        "apart": apart,
        "settings": _settings(runs),
        "cost": {f"{run.letter} {name}": one for run in runs for name, one in run.results["cost"].items()},
        "versions": software(),
    }


def _rows(runs: Sequence[Saved]) -> tuple[dict[str, dict[int, RowScores]], list[Apart]]:
    """Return "LETTER row" -> seed -> scores that can be compared with the first run's, and those that cannot."""
    first: dict[str, tuple[Saved, tuple[str, ...], object]] = {}
    rows: dict[str, dict[int, RowScores]] = {}
    apart: list[Apart] = []
    for run in runs:
        for row, seeds in run.scores("test").items():
            for seed, groups in seeds.items():
                for group, scored in groups.items():
                    other, keys, convention = first.setdefault(group, (run, scored.keys, scored.convention))
                    reason = _difference(other, run, group)
                    if not reason and (keys, convention) != (scored.keys, scored.convention):
                        reason = f"its images or label space are not those of {other.letter}"
                    if not reason:
                        rows.setdefault(f"{run.letter} {row}", {}).setdefault(seed, {})
                        cast(dict[str, object], rows[f"{run.letter} {row}"][seed])[group] = scored
                    elif seed == min(seeds):
                        name = next(iter(scored.measures))
                        value = scored.compute()[name]
                        apart.append({"row": f"{run.letter} {row}", "measure": name, "value": value, "reason": reason})
    return rows, apart


def _groups(row: dict[int, RowScores]) -> set[str]:
    """Return the groups of measures that any seed of a row has."""
    return {group for scores in row.values() for group in scores}


def _difference(first: Saved, run: Saved, group: str) -> str:
    """Return the reason why two runs cannot be compared in a group; empty if they can."""
    ours, theirs = run.protocol(group, "test"), first.protocol(group, "test")
    changed = [name for name in ours if ours[name] != theirs[name] or ours[name] == "not recorded"]
    if not changed:
        return ""
    benchmarks = [name for name in changed if name in ("test", "probe", "validation")]
    others = [f"{name} is {ours[name]}, not {theirs[name]}" for name in changed if name not in benchmarks]
    return "; ".join([*(f"{name} is another benchmark" for name in benchmarks), *others]) + f" (run {first.letter})"


def _settings(runs: Sequence[Saved]) -> dict[str, dict[str, object]]:
    """Return dotted path -> run -> value of every setting in which two recipes differ; a missing one is left out."""
    every = {run.letter: run.settings() for run in runs}
    paths = dict.fromkeys(path for settings in every.values() for path in settings)
    table = {path: {letter: settings[path] for letter, settings in every.items() if path in settings} for path in paths}
    return {
        path: values
        for path, values in table.items()
        if len(values) < len(runs) or len({json.dumps(value, sort_keys=True) for value in values.values()}) > 1
    }
