"""Boxes of Pascal VOC's XML files: ``voc:Annotations/?classes=@names.txt&origin=1``, labels that exist, by sample key.

The label of the sample ``a/b`` is ``Annotations/a/b.xml``, or ``Annotations/b.xml`` by ``match=stem``. ``difficult``
makes a box ignored; parts of objects are passed over.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from clipzoo import files
from clipzoo.errors import SampleError
from clipzoo.experts import _boxes
from clipzoo.experts._answers import answer, chosen, split
from clipzoo.experts.base import ExpertCard
from clipzoo.importers import base as _keyed
from clipzoo.importers.base import KeyedExpert, inside, same_aspect
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
OPTIONAL = {"match": _boxes.MATCH, **_boxes.OPTIONAL}
PARSERS = {**_boxes.PARSERS, "origin": chosen("origin", ("1", "0"))}


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
    return Voc(card, place, space, int(answers["origin"]), answers.get("match") == "stem")


class Voc(KeyedExpert):
    """Looks boxes up in a folder of XML files."""

    def __init__(self, card: ExpertCard, folder: Path, space: _boxes.Space, origin: int, stem: bool) -> None:
        self.card, self.folder, self.space, self.origin, self.stem = card, folder, space, origin, stem

    def place(self, key: str) -> str | None:
        """The file's path."""
        path = self._path(key)
        return str(path) if path.is_file() else None

    def state(self, key: str) -> str:
        """See `KeyedExpert.state`."""
        return files.state(self._path(key))

    def look_up(self, key: str, size: Size) -> Detection:
        """See `KeyedExpert.look_up`."""
        path = self._path(key)
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

    def _path(self, key: str) -> Path:
        inside(key)
        return self.folder / ((key.rpartition("/")[2] if self.stem else key) + ".xml")


def _root(path: Path) -> ElementTree.Element:
    """The root of a file; nothing that a document type could name is followed."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SampleError(f"no annotation: cannot read {path}: {error.strerror}") from error
    try:
        if len(text) > MAX_BYTES or "<!" in text.decode("utf-8").replace("<!--", ""):
            raise SampleError(f"too large, or with a document type, which is not read: {path}")
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, UnicodeDecodeError, LookupError, ValueError, RecursionError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(f"cannot read the annotation: {path}: {error}") from error


def _number(element: ElementTree.Element, name: str, path: Path) -> float:
    text = element.findtext(name)
    try:
        return float(text or "")
    except ValueError as error:
        raise SampleError(f"no number in <{name}>: {text!r} in {path}") from error
