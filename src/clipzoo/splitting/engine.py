"""``split``: check a dataset, assign its samples to parts, and write them; resumed where it was stopped.

Everything is written into a hidden folder next to the output, which takes its place when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import numpy as np

from clipzoo import files
from clipzoo.checking import Findings, groups, scan
from clipzoo.checking.kept import holds_results
from clipzoo.errors import DatasetError
from clipzoo.files import AnyPath
from clipzoo.locations import open_dataset
from clipzoo.progress import Progress, Silent
from clipzoo.readers import Reader
from clipzoo.readers.joined import Joined
from clipzoo.splitting import plan
from clipzoo.splitting.parts import HELDOUT, PARTS, Options, sizes
from clipzoo.splitting.report import REPORT, SplitReport, summary
from clipzoo.splitting.samples import labeled, parts_of
from clipzoo.splitting.writing import write_part
from clipzoo.stopping import Interrupted, signals

VERSION = 2
"""Raised when equal options give other parts."""

_PLAN, _CHECK = "plan.json", "check"


def split(
    data: AnyPath,
    out: AnyPath,
    options: Options | None = None,
    *,
    check: AnyPath | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> SplitReport:
    """Split a dataset into training shards and benchmark folders; groups of near-duplicates stay in one part.

    Args:
        data: its location, as `clipzoo.open_dataset` takes it.
        out: the folder to create.
        options: sizes, classes, series and seed.
        check: folder of ``clipzoo check --resume``, whose results and groups are used.
        force: replace ``out`` if it is the result of an earlier split.
        progress: receiver of progress reports; None shows nothing.

    Returns:
        The report. Every sample of the dataset is in one part, or left out with a reason (``samples.parquet``).

    Raises:
        DatasetError: options are invalid, ``out`` exists, or the dataset cannot be read.
        Interrupted: a signal stopped the split; the same call resumes it.
    """
    options, show = options or Options(), progress or Silent()
    options.check()
    target = files.local(out, "the output of a split")
    target = target.resolve() if target.name in ("", "..") else target
    reader = open_dataset(data)
    _check_output(target, reader, check, force)
    partial = target.with_name(f".{target.name}.partial")
    with files.named(target, partial):
        files.make_folder(partial)
    with files.locked(partial, DatasetError, "two splits must not write into one folder"):
        kept = files.local(check, "the folder of --check") if check is not None else partial / _CHECK
        if check is not None and not holds_results(kept):
            raise DatasetError(
                f"--check {kept} is not a folder of `clipzoo check DATA --resume FOLDER`: give such a folder, or leave "
                "out --check, and the dataset is checked first"
            )
        findings = _scanned(reader, kept, progress is not None)
        report = _planned(findings, reader, partial, kept, options)
        _write_parts(report, reader, partial, show)
        report.out = target
        report.save(partial / REPORT)
        (partial / _PLAN).unlink()
        shutil.rmtree(partial / _CHECK, ignore_errors=True)
        files.sync_folder(partial)
        _publish(partial, target)
    return report


def _check_output(target: Path, reader: Reader, check: AnyPath | None, force: bool) -> None:
    """Raise `DatasetError` if the output cannot be created or replaced, or if it contains an input, or the reverse."""
    whole = target.resolve()
    if Path.cwd().is_relative_to(whole):
        raise DatasetError(
            f"the output {target} is the working folder or contains it, but a split replaces its output by renaming; "
            "give another --out, such as ./split"
        )
    readers = reader.readers.values() if isinstance(reader, Joined) else [reader]
    inputs = [("the dataset", Path(one.location.partition("?")[0])) for one in readers]
    for name, path in [*inputs, *([("the folder of --check", Path(check))] if check is not None else [])]:
        if path.resolve().is_relative_to(whole):
            raise DatasetError(
                f"the output {target} contains {name} {path}, which would be removed when the output is replaced; give "
                "another --out"
            )
        if (name, path) in inputs and path.is_dir() and whole.is_relative_to(path.resolve()):
            raise DatasetError(
                f"the output {target} is inside {name} {path}, which would then contain its own parts; give a folder "
                "elsewhere"
            )
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not force:
        raise DatasetError(f"{target} exists; give another --out, or --force to replace the result of an earlier split")
    if not (target / REPORT).is_file():
        raise DatasetError(
            f"{target} is not the result of a split: it has no {REPORT}. --force does not replace other folders; give "
            "another --out, or remove the folder yourself"
        )


def _scanned(reader: Reader, kept: Path, progress: bool) -> Findings:
    findings = scan(reader, progress=progress, resume=kept)
    if findings.stopped:
        raise Interrupted("stopped; rerun the command to resume", findings.stopped)
    if not findings.usable:
        reasons = ", ".join(f"{kind} ({one.count})" for kind, one in findings.broken.items()) or "it is empty"
        raise DatasetError(
            f"{reader.location} has no usable sample to split: {reasons}; `clipzoo check` shows examples. If captions "
            "are missing and not needed, add ?captions=optional to the location"
        )
    return findings


def _planned(findings: Findings, reader: Reader, partial: Path, kept: Path, options: Options) -> SplitReport:
    """Write the plan, and return its report; a plan of other data or options is removed with its shards."""
    roots, reasons = groups.read(kept, findings, reader) or groups.with_reasons(findings)
    data = labeled(findings, reader, options, roots, reasons)
    parts = parts_of(data, options)
    made_of = {
        "version": VERSION, "options": asdict(options), "checked": groups.checked(findings),
        "parts": hashlib.sha256(parts.tobytes() + data.roots.tobytes() + data.classes.tobytes()).hexdigest(),
        "shards": hashlib.sha256("\n".join(map(reader.stamp, reader.shards)).encode()).hexdigest(),
        "classes": data.classnames,
    }  # fmt: skip
    text = json.dumps(made_of, sort_keys=True, ensure_ascii=True).encode()
    if not (partial / _PLAN).exists() or (partial / _PLAN).read_bytes() != text:
        for part in PARTS:
            shutil.rmtree(partial / part, ignore_errors=True)
        plan.write(partial / plan.TABLE, findings, reader, data, parts, options.shard_size)
        files.write(partial / _PLAN, text)
    rest = int(np.isin(parts, range(PARTS.index(HELDOUT))).sum())
    wanted = sizes(options, rest)
    return summary(partial / plan.TABLE, partial, reader.location, options, wanted, data.classnames)


def _write_parts(report: SplitReport, reader: Reader, partial: Path, progress: Progress) -> None:
    made_of = json.loads((partial / _PLAN).read_bytes())
    total = sum(part.samples for part in report.parts.values())
    done = 0
    with signals() as stop:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.step("writing", done, total)
            stop.check()

        for part in report.parts:
            write_part(partial, part, reader, made_of["classes"], advance)


def _publish(partial: Path, target: Path) -> None:
    """Put the complete folder in its place; an earlier result is moved aside first, and removed afterwards."""
    aside = target.with_name(f".{target.name}.{uuid4().hex[:8]}.old")
    if target.exists():
        target.rename(aside)
    partial.rename(target)
    (target / ".lock").unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
