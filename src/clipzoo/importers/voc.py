"""Existing boxes in Pascal VOC's XML files, found by sample key: ``voc:Annotations/?classes=@names.txt&origin=1``.

The label of the sample ``a/b`` is ``Annotations/a/b.xml``, or ``Annotations/b.xml`` with ``match=stem``. ``difficult``
objects are ignored; parts of objects are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from pydantic import Field

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.experts.base import ExpertCard
from clipzoo.experts.options import ClassNames, split
from clipzoo.importers import _boxes, base
from clipzoo.importers._meaning import PATTERN, PatternOption
from clipzoo.importers._reading.pattern import Pattern
from clipzoo.importers.base import Importer, inside, same_aspect
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.types import MAX_PIXELS, Size

MAX_BYTES = 2**22
"""Most bytes of the annotation of a picture."""


class VocOptions(_boxes.BoxOptions):
    """Options of Pascal VOC's files."""

    classes: ClassNames = Field(description=_boxes.CLASSES)
    origin: Literal["1", "0"] = Field(
        description="1 if the first pixel is 1 and the last one belongs to the box, as Pascal VOC itself counts; 0 if "
        "coordinates are edges that count from 0, as many converters write them"
    )
    match: Literal["key", "stem"] = Field("key", description=_boxes.MATCH)
    pattern: PatternOption = Field(None, description=PATTERN)


def create(name: str) -> Voc:
    """Return the importer of ``folder?classes=…&origin=…``.

    Raises:
        ExpertError: the folder does not exist, or options are missing or invalid.
    """
    folder, _, query = name.partition("?")
    given = split(query)
    options = base.parse(VocOptions, given, "voc", "labels of detection")
    card = base.card(f"voc:{name}", "detection", given, options, Convention(options.classes))
    names = Names(base.folder(folder, f"voc:{name}"), options.match == "stem", options.pattern)
    return Voc(card, names, _boxes.Space(options.classes, options.others), int(options.origin))


@dataclass(frozen=True)
class Names:
    """The names of files, from the keys of samples."""

    folder: Path
    stem: bool
    pattern: Pattern | None

    def path(self, key: str) -> Path:
        """Return the path of a sample's file; `SampleError` if the key is not a valid name of a file."""
        name = key if self.pattern is None else self.pattern(key)
        if name is None:
            raise SampleError(f"no annotation: pattern= does not fit {key!r}", "no-label")
        inside(name)
        return self.folder / ((name.rpartition("/")[2] if self.stem else name) + ".xml")


class Voc(Importer):
    """Existing boxes in a folder of XML files."""

    def __init__(self, card: ExpertCard, names: Names, space: _boxes.Space, origin: int) -> None:
        super().__init__()
        self.card, self.names, self.space, self.origin = card, names, space, origin

    def place(self, key: str) -> str | None:
        """Return the path of the file."""
        path = self.names.path(key)
        return str(path) if path.is_file() else None

    def state(self, key: str) -> str:
        """See `Expert.state`."""
        return files.state(self.names.path(key))

    def hint(self, keys: Sequence[str]) -> str:
        """See `Importer.hint`."""
        by_stem = replace(self.names, stem=True)
        for key in keys:
            with suppress(SampleError, OSError):  # not a valid name of a file
                if by_stem.path(key).is_file():
                    return f"match=stem finds {key!r}"
        return ""

    def look_up(self, key: str, size: Size) -> Detection:
        """See `Importer.look_up`."""
        path = self.names.path(key)
        root = _root(path)
        height, width = _number(root, "size/height", path), _number(root, "size/width", path)
        if not all(1 <= side <= MAX_PIXELS for side in (height, width)):
            raise SampleError(f"the file does not tell the image's width and height: {path}")
        frame = (int(height), int(width))
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
    """Return the root of a file. Document types are refused, since they can name other files or expand."""
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
