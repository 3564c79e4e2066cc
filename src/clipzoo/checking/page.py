"""The findings as a table for the terminal, and as one HTML file with pictures of examples and no external resource."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from clipzoo.checking.duplicates import NEAR
from clipzoo.checking.findings import ASPECTS, REPEATED, SIDES, Findings, Place, side_of
from clipzoo.errors import MAX_FAILURES, ClipzooError, Code
from clipzoo.files import deliver
from clipzoo.pages.pictures import data_uri
from clipzoo.readers import Entry, Reader
from clipzoo.types import decode_image

_SIDES = [side_of(least) for least in (0, *SIDES)]
_ASPECTS = [name for _, name in ASPECTS]

SHOWN = 12
"""Languages that are told one by one."""

UNTOLD = "not told: pip install 'clipzoo[check]'"

NOT_DOWNLOADED: Code = "not-downloaded"

CHARACTERS = 300
"""A longer caption is cut on the page."""


@dataclass(frozen=True, slots=True)
class Card:
    """A sample on the page; ``image`` is a data URI, or "" where there is no picture, and ``note`` says why."""

    key: str
    shard: str
    caption: str = ""
    image: str = ""
    note: str = ""


def rows(found: Findings) -> list[tuple[str, str, str]]:
    """(what, how many, in words) of every finding."""
    low, middle, high = found.lengths()
    part = "" if found.of_all else "a part of the dataset; what comes again outside of it is not seen"
    listed: list[tuple[str, str, str]] = [
        ("samples", f"{found.seen:,}", part or f"in {_many(found.shards, 'shard')}"),
        ("usable", f"{found.usable:,}", _share(found.usable, found.seen) + _refused(found)),
    ]
    for kind, one in sorted(found.broken.items(), key=lambda pair: -pair[1].count):
        what = kind if kind == NOT_DOWNLOADED else f"broken: {kind}"
        listed.append((what, f"{one.count:,}", one.example))
        listed += [("  can be read as", f"{n:,}", f"{location!r}") for location, n in one.advice.most_common()]
    listed += [
        ("formats", "", _counted(found.formats, found.usable)),
        ("shorter side", "", _counted(found.sides, found.usable, _SIDES)),
        ("width to height", "", _counted(found.aspects, found.usable, _ASPECTS)),
        ("scripts", "", _counted(found.scripts, found.usable)),
        ("languages", "", _counted(found.languages, found.usable) if found.languages or not found.usable else UNTOLD),
        ("caption length", f"{middle}", f"characters in the middle; 90 % have {low} to {high}"),
    ]
    for odd, one in sorted(found.suspicious.items(), key=lambda pair: -pair[1].count):
        listed.append((f"caption {odd}", f"{one.count:,}", _share(one.count, found.usable)))
    for name, again in _again(found):
        if again.of:
            listed.append((name, f"{again.samples:,}", f"more than needed, in {_many(again.of, 'group')}"))
    if found.sideways.count:
        turned = f"by their .json ({found.sideways.example}, …): exif=json behind the location reads them upright"
        listed.append(("pictures stored sideways", f"{found.sideways.count:,}", turned))
    if found.flat.count:
        listed.append(
            (
                "pictures of nearly one color, not compared",
                f"{found.flat.count:,}",
                _share(found.flat.count, found.usable),
            )
        )
    return listed


def table(found: Findings) -> Table:
    """The findings for the terminal."""
    made = Table(title=escape(found.location), title_justify="left")
    for name, options in (("what", {}), ("count", {"justify": "right"}), ("", {"overflow": "fold"})):
        made.add_column(name, **options)  # type: ignore[arg-type]
    for row in rows(found):
        made.add_row(*map(escape, row))
    return made


def write(found: Findings, reader: Reader, out: Path) -> None:
    """Write the page; samples that are shown are read once more."""
    entry = lru_cache(maxsize=4)(reader.index)

    def cards(places: Iterable[Place]) -> list[Card]:
        return [_card(reader, entry(shard)[number]) for shard, number in places]

    environment = Environment(
        loader=PackageLoader("clipzoo.checking", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template("page.html").render(
        found=found,
        rows=rows(found),
        bars=_bars(found),
        broken=[(kind, one, cards(one.places)) for kind, one in found.broken.items()],
        suspicious=[(odd, one.count, cards(one.places)) for odd, one in found.suspicious.items()],
        again=[(name, again, [(n, cards(p)) for n, p in again.groups]) for name, again in _again(found) if again.of],
        sideways=cards(found.sideways.places),
        flat=cards(found.flat.places),
        drawn=cards(sorted(found.drawn)),
        style=Markup(files("clipzoo.pages").joinpath("page.css").read_text(encoding="utf-8")),
    )
    deliver(out, html.encode("utf-8", "replace"))


def _again(found: Findings) -> list[tuple[str, Any]]:
    return [
        ("equal pictures", found.equal),
        (f"nearly equal pictures (at most {NEAR} of 64 bits differ)", found.near),
        (f"captions that {REPEATED} samples or more share", found.repeated),
    ]


def _bars(found: Findings) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """(title, (name, count, share of the largest) …) of every histogram."""
    histograms: list[tuple[str, Counter[str], Sequence[str]]] = [
        ("Shorter side", found.sides, _SIDES),
        ("Width to height", found.aspects, _ASPECTS),
        ("Format", found.formats, [name for name, _ in found.formats.most_common()]),
        ("Language of the caption", found.languages, [name for name, _ in found.languages.most_common(SHOWN)]),
        ("Script of the caption", found.scripts, [name for name, _ in found.scripts.most_common()]),
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


def _refused(found: Findings) -> str:
    """What follows where so many are broken that labeling would stop."""
    absent = found.broken[NOT_DOWNLOADED].count if NOT_DOWNLOADED in found.broken else 0  # not counted as failures
    seen = found.seen - absent
    broken = seen - found.usable
    if broken <= MAX_FAILURES * seen and (found.usable or not absent):
        return ""
    if not found.usable:
        most = max(found.broken.values(), key=lambda one: one.count)
        return f"; nothing can be labeled or trained on, mostly as {most.example}"
    least = math.ceil(100 * broken / seen) / 100
    return (
        f"; `clipzoo label` stops where more than {MAX_FAILURES:.0%} fail: give --max-failures {least:g} (in a recipe "
        "labeling.max_failures), or mend the dataset"
    )


def _counted(counts: Counter[str], total: int, order: Sequence[str] | None = None) -> str:
    names = order if order is not None else [name for name, _ in counts.most_common(SHOWN)]
    told = [f"{name}: {_share(counts[name], total)}" for name in names if counts[name]]
    rest = sum(counts.values()) - sum(counts[name] for name in names)
    return ", ".join(told + ([f"others: {_share(rest, total)}"] if rest else [])) or "–"


def _many(count: int, of: str) -> str:
    return f"{count:,} {of}{'s' if count != 1 else ''}"


def _share(count: int, total: int) -> str:
    if not total:
        return "–"
    share = 100 * count / total
    return f"{share:.0f} %" if share in (0, 100) or 1 <= share <= 99 else "< 1 %" if share < 1 else "> 99 %"
