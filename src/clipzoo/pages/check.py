"""The page of a dataset check, its table for the terminal, and `check`, which scans a dataset and writes the page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from clipzoo import files
from clipzoo.checking import Findings, groups, scan
from clipzoo.checking.duplicates import NEAR
from clipzoo.checking.findings import ASPECTS, REPEATED, SIDES, Duplicates, Place, side_of
from clipzoo.errors import MAX_FAILURES, ClipzooError, Code, counted
from clipzoo.files import AnyPath
from clipzoo.locations import open_dataset
from clipzoo.pages import _html
from clipzoo.pages.pictures import data_uri
from clipzoo.readers import Entry, Reader
from clipzoo.store import create_file
from clipzoo.types import decode_image

_SIDES = [side_of(least) for least in (0, *SIDES)]
_ASPECTS = [name for _, name in ASPECTS]

SHOWN = 12
"""The number of languages that are listed by name."""

UNDETECTED = "not detected: pip install 'clipzoo[check]'"

CHARACTERS = 300
"""The length at which captions are cut on the page."""


NOT_DOWNLOADED: Code = "not-downloaded"


@dataclass(frozen=True, slots=True)
class Card:
    """A sample on the page; ``image`` is a data URI, or "" where ``note`` says why there is no picture."""

    key: str
    shard: str
    caption: str = ""
    image: str = ""
    note: str = ""


def check(
    data: AnyPath,
    out: AnyPath | None = None,
    *,
    limit: int | None = None,
    progress: bool = True,
    resume: AnyPath | None = None,
) -> Findings:
    """Scan a dataset for broken samples, suspicious captions and duplicates.

    Args:
        data: its location, as `clipzoo.open_dataset` takes it.
        out: the file of a page with counts and example pictures; by default none is written.
        limit: scan this many samples, spread evenly; by default all.
        progress: show a progress bar on standard error.
        resume: folder that keeps the results of finished shards; unchanged shards that it has are not read again. The
            groups of equal and nearly equal pictures are written there, for `clipzoo.split`.

    Returns:
        The findings. After SIGINT or SIGTERM they cover the samples scanned until then, and ``stopped`` is set.

    Raises:
        DatasetError: the dataset cannot be opened, or ``limit`` is below 1.
        StoreError: the page cannot be written.
    """
    page = create_file(files.local(out, "the page")) if out is not None else None
    kept = files.local(resume, "the folder of --resume") if resume is not None else None
    reader = open_dataset(data)
    findings = scan(reader, limit=limit, progress=progress, resume=kept)
    if kept is not None and findings.of_all:
        groups.write(findings, reader, kept)
    if page is not None:
        write(findings, reader, page)
    return findings


def rows(findings: Findings) -> list[tuple[str, str, str]]:
    """Return (finding, count, details) of every finding."""
    total, captioned = findings.usable, findings.captioned
    low, median, high = findings.lengths()
    unscanned = "" if findings.of_all else "a part of the dataset; duplicates in the other part are not found"
    languages = _counted(findings.languages, captioned) if findings.languages or not captioned else UNDETECTED
    return [
        ("samples", f"{findings.seen:,}", unscanned or f"in {counted(findings.shards, 'shard')}"),
        ("usable", f"{total:,}", _share(total, findings.seen) + _consequence(findings)),
        *_broken_rows(findings),
        *_uncaptioned_rows(findings),
        ("formats", "", _counted(findings.formats, total)),
        ("shorter side", "", _counted(findings.sides, total, _SIDES)),
        ("width to height", "", _counted(findings.aspects, total, _ASPECTS)),
        ("scripts", "", _counted(findings.scripts, captioned)),
        ("languages", "", languages),
        ("caption length", f"{median}", f"median length in characters; 90 % have {low} to {high}"),
        ("fields with text", f"{len(findings.fields)}", _counted(findings.fields, total)),
        *_caption_rows(findings),
        *_duplicate_rows(findings),
        *_picture_rows(findings),
    ]


def table(findings: Findings) -> Table:
    """Return the findings as a table for the terminal."""
    terminal = Table(title=escape(findings.location), title_justify="left")
    terminal.add_column("finding")
    terminal.add_column("count", justify="right")
    terminal.add_column("details", overflow="fold")
    for row in rows(findings):
        terminal.add_row(*map(escape, row))
    return terminal


def write(findings: Findings, reader: Reader, out: Path) -> None:
    """Write the page; the samples on it are read again."""
    index = lru_cache(maxsize=4)(reader.index)

    def cards(places: Iterable[Place]) -> list[Card]:
        return [_card(reader, index(shard)[number]) for shard, number in places]

    page = _html.render(
        "check.html",
        title=findings.location,
        findings=findings,
        rows=rows(findings),
        bars=_bars(findings),
        broken=[(kind, one, cards(one.places)) for kind, one in findings.broken.items()],
        suspicious=[(problem, one.count, cards(one.places)) for problem, one in findings.suspicious.items()],
        duplicates=[
            (name, again, [(count, cards(places)) for count, places in again.groups])
            for name, again in _duplicates(findings)
            if again.of
        ],
        sideways=cards(findings.sideways.places),
        flat=cards(findings.flat.places),
        drawn=cards(sorted(findings.drawn)),
    )
    files.write_output(out, page)


def _broken_rows(findings: Findings) -> list[tuple[str, str, str]]:
    listed = []
    for kind, one in sorted(findings.broken.items(), key=lambda pair: -pair[1].count):
        listed.append((kind if kind == NOT_DOWNLOADED else f"broken: {kind}", f"{one.count:,}", one.example))
        listed += [("  can be read as", f"{n:,}", f"{location!r}") for location, n in one.advice.most_common()]
    return listed


def _uncaptioned_rows(findings: Findings) -> list[tuple[str, str, str]]:
    count = findings.uncaptioned.count
    return [("without a caption", f"{count:,}", _share(count, findings.usable))] if count else []


def _caption_rows(findings: Findings) -> list[tuple[str, str, str]]:
    return [
        (f"caption {problem}", f"{one.count:,}", _share(one.count, findings.captioned))
        for problem, one in sorted(findings.suspicious.items(), key=lambda pair: -pair[1].count)
    ]


def _duplicate_rows(findings: Findings) -> list[tuple[str, str, str]]:
    return [
        (name, f"{again.samples:,}", f"{counted(again.samples, 'duplicate')} in {counted(again.of, 'group')}")
        for name, again in _duplicates(findings)
        if again.of
    ]


def _picture_rows(findings: Findings) -> list[tuple[str, str, str]]:
    listed = []
    if findings.sideways.count:
        details = f"by their .json ({findings.sideways.example}, …): add exif=json to the location to read them upright"
        listed.append(("pictures stored sideways", f"{findings.sideways.count:,}", details))
    if findings.flat.count:
        name = "pictures of nearly one color, not compared"
        listed.append((name, f"{findings.flat.count:,}", _share(findings.flat.count, findings.usable)))
    return listed


def _duplicates(findings: Findings) -> list[tuple[str, Duplicates]]:
    return [
        ("equal pictures", findings.equal),
        (f"nearly equal pictures (at most {NEAR} of 64 bits differ)", findings.near),
        (f"captions of {REPEATED} samples or more", findings.repeated),
    ]


def _bars(findings: Findings) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """Return (title, [(name, count, share of the largest)]) of every histogram."""
    histograms: list[tuple[str, Counter[str], Sequence[str]]] = [
        ("Shorter side", findings.sides, _SIDES),
        ("Width to height", findings.aspects, _ASPECTS),
        ("Format", findings.formats, [name for name, _ in findings.formats.most_common()]),
        ("Language of the caption", findings.languages, [name for name, _ in findings.languages.most_common(SHOWN)]),
        ("Script of the caption", findings.scripts, [name for name, _ in findings.scripts.most_common()]),
    ]
    return [
        (title, [(name, counts[name], counts[name] / max(counts.values())) for name in order if counts[name]])
        for title, counts, order in histograms
    ]


def _card(reader: Reader, entry: Entry) -> Card:
    try:
        sample = reader.read(entry)
        caption = sample.caption[:CHARACTERS] + ("…" if len(sample.caption) > CHARACTERS else "")
    except (ClipzooError, OSError) as error:
        return Card(entry.key, entry.shard, note=str(error))
    try:
        image = data_uri(decode_image(sample.image), photo=True)
    except (ClipzooError, MemoryError) as error:
        return Card(entry.key, entry.shard, caption, note=str(error))
    return Card(entry.key, entry.shard, caption, image)


def _consequence(findings: Findings) -> str:
    """Return the consequence for labeling where too many samples are broken, else ""."""
    absent = (
        findings.broken[NOT_DOWNLOADED].count if NOT_DOWNLOADED in findings.broken else 0
    )  # not counted as failures
    present = findings.seen - absent
    broken = present - findings.usable
    if broken <= MAX_FAILURES * present and (findings.usable or not absent):
        return ""
    if not findings.usable:
        most = max(findings.broken.values(), key=lambda one: one.count)
        return f". Most common reason: {most.example}"
    least = math.ceil(100 * broken / present) / 100
    return (
        f". `clipzoo label` stops if more than {MAX_FAILURES:.0%} of the samples fail: repair the dataset, or give "
        f"--max-failures {least:g} (labeling.max_failures in a recipe)"
    )


def _counted(counts: Counter[str], total: int, order: Sequence[str] | None = None) -> str:
    names = order if order is not None else [name for name, _ in counts.most_common(SHOWN)]
    parts = [f"{name}: {_share(counts[name], total)}" for name in names if counts[name]]
    rest = sum(counts.values()) - sum(counts[name] for name in names)
    if rest:
        parts.append(f"others: {_share(rest, total)}")
    return ", ".join(parts) or "–"


def _share(count: int, total: int) -> str:
    if not total:
        return "–"
    share = 100 * count / total
    if share in (0, 100) or 1 <= share <= 99:
        return f"{share:.0f} %"
    return "< 1 %" if share < 1 else "> 99 %"
