"""The report of a split: ``split.json``, and its table for the terminal."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from clipzoo import files
from clipzoo.errors import counted
from clipzoo.splitting import plan
from clipzoo.splitting.parts import HELDOUT, PARTS, Options

REPORT = "split.json"

LEFT_OUT = "left out"


@dataclass
class PartReport:
    """A part: its numbers of samples, of wanted samples, of shards and of groups; its classes.

    ``wanted`` is None for ``heldout``. ``groups`` counts groups of two or more, ``grouped`` their samples, ``largest``
    the samples of the largest one.
    """

    samples: int = 0
    wanted: int | None = None
    shards: int = 0
    groups: int = 0
    grouped: int = 0
    largest: int = 0
    classes: dict[str, int] = field(default_factory=dict)


@dataclass
class SplitReport:
    """Destinations of all samples of a dataset.

    Attributes:
        out: the folder.
        data: location of the dataset.
        samples: number of its samples; each is in one part or left out.
        parts: name -> part.
        left_out: code of the reason -> samples in no part.
        reasons: reason of a group -> its samples.
        options: of the split.
    """

    out: Path
    data: str
    samples: int = 0
    parts: dict[str, PartReport] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    options: Options = field(default_factory=Options)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        values = {name: value for name, value in asdict(self).items() if name != "out"}
        files.write(path, json.dumps(values, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def summary(
    table: Path, out: Path, data: str, options: Options, wanted: list[int], classnames: tuple[str, ...]
) -> SplitReport:
    """Return the report of a plan."""
    report = SplitReport(out, data, options=options)
    left_out: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    groups: dict[str, Counter[int]] = {part: Counter() for part in PARTS}
    classes: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    shards: dict[str, set[str]] = {part: set() for part in PARTS}
    for row in plan.rows(table):
        report.samples += 1
        if not row["part"]:
            left_out[row["reason"].partition(":")[0]] += 1
            continue
        part = report.parts.setdefault(row["part"], PartReport())
        part.samples += 1
        shards[row["part"]].add(row["shard"])
        if row["class_index"] is not None:
            classes[row["part"]][classnames[row["class_index"]]] += 1
        if row["group"] is not None:
            groups[row["part"]][row["group"]] += 1
            reasons[row["reason"]] += 1
    for name, part in report.parts.items():
        part.wanted = None if name == HELDOUT else wanted[PARTS.index(name)]
        part.shards, part.groups = len(shards[name]), len(groups[name])
        part.grouped, part.largest = groups[name].total(), max(groups[name].values(), default=0)
        part.classes = {one: classes[name][one] for one in classnames if classes[name][one]}
    report.parts = {name: report.parts[name] for name in PARTS if name in report.parts}
    report.left_out, report.reasons = dict(left_out.most_common()), dict(sorted(reasons.items()))
    return report


def terminal_table(report: SplitReport) -> Table:
    """Return the report as a table for the terminal."""
    table = Table(title=escape(f"{report.data}: {counted(report.samples, 'sample')}"), title_justify="left")
    for name in ("part", "samples", "share", "wanted", "classes", "groups"):
        table.add_column(name, justify="left" if name == "part" else "right", overflow="fold")
    for name, part in report.parts.items():
        groups = (
            f"{part.groups:,} ({counted(part.grouped, 'sample')}, largest {part.largest:,})" if part.groups else "0"
        )
        table.add_row(
            name,
            f"{part.samples:,}",
            f"{part.samples / report.samples:.1%}",
            "–" if part.wanted is None else f"{part.wanted:,}",
            f"{len(part.classes):,}" if part.classes else "–",
            groups,
        )
    for code, count in report.left_out.items():
        table.add_row(f"{LEFT_OUT}: {escape(code)}", f"{count:,}", f"{count / report.samples:.1%}", "–", "–", "–")
    return table


def notes(report: SplitReport) -> list[str]:
    """Return sentences on parts that differ from the request, and on classes that cannot be learned or prompted."""
    found = []
    for name, part in report.parts.items():
        if part.wanted is not None and part.samples != part.wanted:
            largest = max(one.largest for one in report.parts.values())
            found.append(
                f"{name} has {counted(part.samples, 'sample')} instead of {part.wanted:,}: groups stay together, "
                f"and the largest one has {counted(largest, 'sample')}"
            )
    every = {one for name in report.parts if name != HELDOUT for one in report.parts[name].classes}
    for name, what in (("train", "training"), ("probe", "probe")):
        known = report.parts[name].classes if name in report.parts else {} if name == "train" else every
        absent = sorted(every.difference(known))
        if absent:
            number = counted(len(absent), "class", "classes")
            found.append(f"{number} without a {what} sample: {', '.join(absent[:10])}")
    if every and all(one.isdecimal() for one in every):
        found.append(
            f"the classes are numbers, such as {min(every)}, and prompts need names: write one name per line, in the "
            "same order, into classnames.txt of each part"
        )
    return found
