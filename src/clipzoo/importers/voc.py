"""Boxes of Pascal VOC's XML files: ``voc:Annotations/?classes=@names.txt&origin=1``, labels that exist, by sample key.

The label of the sample ``a/b`` is ``Annotations/a/b.xml``, or ``Annotations/b.xml`` by ``match=stem``. ``difficult``
makes a box ignored; parts of objects are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.experts import _boxes
from clipzoo.experts._answers import PATTERN, answer, chosen, parse_pattern, split
from clipzoo.experts._pattern import Pattern
from clipzoo.experts.base import ExpertCard
from clipzoo.importers import base as _keyed
from clipzoo.importers.base import Importer, inside, same_aspect
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.types import MAX_PIXELS, Size

MAX_BYTES = 2**22
"""A larger file is no picture's annotation."""

REQUIRED = {
    "classes": "names in the order of ids, as aeroplane,bicycle, or @names.txt with a name a line",
    "origin": "1 if the first pixel is 1 and the last one belongs to the box, as Pascal VOC itself counts; 0 if "
    "coordinates are edges that count from 0, as many converters write them",
}
OPTIONAL = {"match": _boxes.MATCH, "pattern": PATTERN, **_boxes.OPTIONAL}
PARSERS = {**_boxes.PARSERS, "origin": chosen("origin", ("1", "0")), "pattern": parse_pattern}


def create(name: str) -> Voc:
    """The expert of ``folder?classes=…&origin=…``.

    Raises:
        ExpertError: the folder is not there, or the URI leaves a question open.
    """
    folder, _, query = name.partition("?")
    given = split(query)
    answers = answer(given, REQUIRED, OPTIONAL, PARSERS, "voc", "detection")
    card = _keyed.card(f"voc:{name}", "detection", given, answers, Convention(answers["classes"]))
    space = _boxes.Space(answers["classes"], answers.get("others", ""))
    place = _keyed.folder(folder, f"voc:{name}")
    names = Names(place, answers.get("match") == "stem", answers.get("pattern"))
    return Voc(card, names, space, int(answers["origin"]))


@dataclass(frozen=True)
class Names:
    """Which file is a sample's."""

    folder: Path
    stem: bool
    pattern: Pattern | None

    def path(self, key: str) -> Path:
        """The file's path; `SampleError` if the key is no name that a file could have."""
        name = key if self.pattern is None else self.pattern(key)
        if name is None:
            raise SampleError(f"no annotation: pattern= does not fit {key!r}", "no-label")
        inside(name)
        return self.folder / ((name.rpartition("/")[2] if self.stem else name) + ".xml")


class Voc(Importer):
    """Looks boxes up in a folder of XML files."""

    def __init__(self, card: ExpertCard, names: Names, space: _boxes.Space, origin: int) -> None:
        super().__init__()
        self.card, self.names, self.space, self.origin = card, names, space, origin

    def place(self, key: str) -> str | None:
        """The file's path."""
        path = self.names.path(key)
        return str(path) if path.is_file() else None

    def state(self, key: str) -> str:
        """See `Expert.state`."""
        return files.state(self.names.path(key))

    def hint(self, keys: Sequence[str]) -> str:
        """See `Importer.hint`."""
        by_stem = replace(self.names, stem=True)
        for key in keys:
            with suppress(SampleError, OSError):  # no name that a file could have
                if by_stem.path(key).is_file():
                    return f"match=stem finds {key!r}"
        return ""

    def look_up(self, key: str, size: Size) -> Detection:
        """See `Importer.look_up`."""
        path = self.names.path(key)
        root = _root(path)
        told = (_number(root, "size/height", path), _number(root, "size/width", path))
        if not all(1 <= side <= MAX_PIXELS for side in told):
            raise SampleError(f"the file does not tell the image's width and height: {path}")
        frame = (int(told[0]), int(told[1]))
        same_aspect(frame, size, str(path))
        objects = _boxes.Objects(self.space, frame)
        for one in root.findall("object"):
            name = (one.findtext("name") or "").strip()
            if objects.wanted(name):
                x0, y0, x1, y1 = (_number(one, f"bndbox/{side}", path) for side in ("xmin", "ymin", "xmax", "ymax"))
                difficult = (one.findtext("difficult") or "0").strip() == "1"
                objects.add(name, (x0 - self.origin, y0 - self.origin, x1, y1), difficult)
        return objects.label()


def _root(path: Path) -> Element:
    """The root of a file of any encoding; document types, by which files can name others or grow, are refused."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SampleError(f"no annotation: cannot read {path}: {error.strerror}", "no-label") from error
    if len(text) > MAX_BYTES:
        raise SampleError(f"too large for a picture's annotation: {path}")
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        raise SampleError(f"a document type, which is not read: {path}; remove its <!DOCTYPE …>") from error
    except (ParseError, LookupError, ValueError, RecursionError) as error:
        raise SampleError(f"cannot read the annotation: {path}: {error}") from error
    return root


def _number(element: Element, name: str, path: Path) -> float:
    text = element.findtext(name)
    try:
        return float(text or "")
    except ValueError as error:
        raise SampleError(f"no number in <{name}>: {text!r} in {path}") from error
