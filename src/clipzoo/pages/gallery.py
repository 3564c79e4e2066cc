"""A store to look at: its manifests, and a page of images with their labels that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import jinja2
from PIL import Image

from clipzoo import files, tasks
from clipzoo.errors import ClipzooError, StoreError
from clipzoo.files import AnyPath, Place
from clipzoo.labeling.plan import spread
from clipzoo.labeling.samples import read_image
from clipzoo.readers import Entry, Reader, fingerprint, open_dataset
from clipzoo.store import Column, Store, create_file
from clipzoo.types import Failure, ImageArray

SIDE = 240
"""The longer side of a picture on the page, in pixels."""

LISTED = 200
"""So many failures of a column are listed."""

BLEND = 0.65
"""The label's share in its picture; the image shows through the rest."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """What `inspect` found: a card a column, keys shown, and failures as (column, shard, key, reason)."""

    path: Path
    cards: list[dict[str, str]]
    shown: list[str]
    failures: list[tuple[str, str, str, str]]


@dataclass
class _Picture:
    """One row of the page."""

    key: str
    shard: str
    caption: str = ""
    error: str = ""
    image: str = ""
    labels: list[dict[str, str]] = field(default_factory=list)


def inspect(store_root: AnyPath | Place, data: AnyPath, out_html: AnyPath, count: int = 24) -> Gallery:
    """Write the columns' cards and ``count`` samples with their labels as one HTML file.

    Samples are spread evenly over the committed shards. Failures are listed, up to 200 a column.

    Raises:
        StoreError: the store has no column, ``count`` is below 1, or the page cannot be written.
        DatasetError: the dataset cannot be read.
    """
    if count < 1:
        raise StoreError(f"count={count} is no number of samples to show; give 1 or more")
    columns = Store(store_root).columns(needed=True)
    reader = open_dataset(data)
    cards = [card(column) for column in columns]
    identity = fingerprint(reader)
    for column in columns:
        column.manifest.belongs(identity, column.path)
    out = create_file(files.local(out_html, "the page"))
    pictures = [_picture(reader, entry, columns) for entry in _chosen(reader, columns, count)]
    failures = [failure for column in columns for failure in _failures(column)]
    page = _TEMPLATE.render(cards=cards, columns=[c.name for c in columns], pictures=pictures, failures=failures)
    files.deliver(out, page.encode("utf-8", "replace"))
    return Gallery(out, cards, [picture.key for picture in pictures], failures)


def card(column: Column) -> dict[str, str]:
    """A column's manifest in words: heading -> what it says, in the order of the card."""
    manifest = column.manifest
    counts, expert = manifest.counts, manifest.expert
    convention = {k: f"{len(v)} names" if k == "classes" else v for k, v in manifest.convention.items()}
    per_label = counts.bytes / counts.labels if counts.labels else 0.0
    return {
        "column": column.name,
        "expert": str(expert.get("uri", "")),
        "convention": ", ".join(f"{name}: {value}" for name, value in convention.items()) or "–",
        "license": str(expert.get("licence", "unknown")),
        "weights": str(expert.get("weights_sha256", ""))[:12] or "–",
        "shards": str(counts.shards),
        "labels": str(counts.labels),
        "failures": str(counts.failures),
        "bytes a label": f"{per_label:,.0f}",
        "seconds": f"{manifest.seconds:,.1f}",
        "images/s": f"{(counts.labels + counts.failures) / manifest.seconds:,.1f}" if manifest.seconds else "–",
    }


def _chosen(reader: Reader, columns: Sequence[Column], count: int) -> Sequence[Entry]:
    """Usable entries, spread evenly over the shards that any column has."""
    done = set[str]().union(*(column.committed() for column in columns))
    shards = spread([shard for shard in reader.shards if shard in done], count)
    found: list[Entry] = []
    for shard in shards:
        found += spread([entry for entry in reader.index(shard) if entry.error is None], count)
    return spread(found, count)


def _picture(reader: Reader, entry: Entry, columns: Sequence[Column]) -> _Picture:
    found = read_image(reader, entry)
    if isinstance(found, Failure):
        return _Picture(entry.key, entry.shard, error=found.detail)
    sample, image = found
    labels = [_overlay(column, entry, image) for column in columns]
    return _Picture(entry.key, entry.shard, sample.caption, image=_data_url(_small(image)), labels=labels)


def _overlay(column: Column, entry: Entry, image: ImageArray) -> dict[str, str]:
    """The label over its image as a data URL, or the reason why there is none."""
    try:
        rows = {row["key"]: row for row in column.rows(entry.shard).to_pylist()}
        if entry.key not in rows:
            return {"error": "the sample has no row"}
        row = rows[entry.key]
        picture = tasks.get(column.task).render(column.label(entry.shard, row), column.convention)
    except ClipzooError as error:
        return {"error": str(error)}
    under = _small(image)
    over = Image.fromarray(picture).resize(under.size, Image.Resampling.NEAREST)
    seen = f"{row['valid_share']:.0%} known"
    if row["confidence"] is not None:
        seen += f", confidence {row['confidence']:.2f}"
    return {"image": _data_url(Image.blend(under, over, BLEND)), "note": seen}


def _small(image: ImageArray) -> Image.Image:
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE))
    return picture


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _failures(column: Column) -> list[tuple[str, str, str, str]]:
    return [(column.name, shard, key, failure.detail) for shard, key, failure in islice(column.failures(), LISTED)]


_TEMPLATE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string("""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Labels</title>
<style>
 body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1b1f24; background: #fff }
 table { border-collapse: collapse; margin: 1rem 0 2rem } th, td { padding: .35rem .8rem; text-align: left;
 border-bottom: 1px solid #d8dee4; vertical-align: top; overflow-wrap: anywhere }
 .row { display: flex; flex-wrap: wrap; gap: .75rem; padding: 1rem 0; border-top: 1px solid #d8dee4 }
 figure { margin: 0; width: 240px } figcaption { font-size: 13px; overflow-wrap: anywhere }
 img { max-width: 100%; display: block; border-radius: 4px } .key, .note { color: #59636e } .error { color: #b3261e }
</style></head><body>
<h1>Labels</h1>
<table>{% for name in cards[0] %}
<tr><th>{{ name }}</th>{% for card in cards %}<td>{{ card[name] }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% for picture in pictures %}<div class="row">
<figure>{% if picture.image %}<img src="{{ picture.image }}" alt="{{ picture.caption }}">{% endif %}
<figcaption>{{ picture.caption }} <span class="key">{{ picture.shard }}/{{ picture.key }}</span>
{% if picture.error %}<span class="error">{{ picture.error }}</span>{% endif %}</figcaption></figure>
{% for label in picture.labels %}{% set name = columns[loop.index0] %}<figure>
{% if label.image is defined %}<img src="{{ label.image }}" alt="{{ name }}">
<figcaption>{{ name }} <span class="note">{{ label.note }}</span></figcaption>
{% else %}<figcaption>{{ name }} <span class="error">{{ label.error }}</span></figcaption>{% endif %}</figure>
{% endfor %}</div>
{% endfor %}
{% if failures %}<h2>Without a label</h2>
<table><tr><th>column</th><th>shard</th><th>key</th><th>reason</th></tr>
{% for failure in failures %}<tr>{% for part in failure %}<td>{{ part }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endif %}
</body></html>
""")
