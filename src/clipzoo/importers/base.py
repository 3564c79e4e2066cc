"""The contract of importers: existing labels are found by a sample's key, read, and checked against its image."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from clipzoo import files
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import options
from clipzoo.experts.base import ExpertCard, ExpertInput, SampleExpert
from clipzoo.tasks.base import Convention
from clipzoo.types import Size

log = logging.getLogger(__name__)

FIX = (
    "Label files do not state the meaning of their values. Add it to the URI, as {scheme}:PATH?{name}=…&…, or to "
    "`clipzoo labels import`, as --set {name}=… for each option"
)
"""The advice where options are missing."""


def _column_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise ValueError("use at most 100 letters, digits, '.', '_' and '-', and begin with a letter or digit")
    return text


class ImportOptions(options.Options):
    """Options of labels in any format."""

    license: str = options.license_option("the license of the labels")
    name: Annotated[str, AfterValidator(_column_name)] = Field(
        "",
        validation_alias="as",
        description="the name of the column, truth or any other; by default the format and the name of the source",
    )


K = TypeVar("K", bound=options.Options)


def parse(kind: type[K], given: Mapping[str, str], scheme: str, subject: str) -> K:
    """Return the options of existing labels as a model; see `options.parse`."""
    return options.parse(kind, given, scheme, subject, FIX)


class Notes(Counter[str]):
    """Repairs and suspicious values of labels -> number of cases. The first case of each kind is logged."""

    def take(self, what: str, where: object, times: int = 1) -> None:
        """Count ``times`` cases of ``what``, the first of them at ``where``."""
        if what not in self:
            log.warning("%s (first: %s)", what, where)
        self[what] += times


class Importer(SampleExpert):
    """Existing labels, found by a sample's key.

    ``notes`` counts the repairs and suspicious values of the labels that were read so far.
    """

    imports = True
    distinct = False
    """No two samples of the dataset share a label: `clipzoo.labeling.import_labels` has checked it."""

    def __init__(self) -> None:
        self.notes = Notes()

    def predict_inputs(self, inputs: Sequence[ExpertInput]) -> list[object]:
        """Return the label of each sample.

        Raises:
            SampleError: there is no label, it cannot be read, or it does not match its image or the options.
        """
        return [self.look_up(sample.key, (sample.image.shape[0], sample.image.shape[1])) for sample in inputs]

    @abstractmethod
    def place(self, key: str) -> str | None:
        """Return a unique name of the place of a sample's label; None if there is no label."""

    @abstractmethod
    def look_up(self, key: str, size: Size) -> object:
        """Return the label of one sample whose image has ``size`` (H, W).

        Raises:
            SampleError: see `predict_inputs`.
        """

    def hint(self, keys: Sequence[str]) -> str:
        """Return an option that would find labels for samples without one, some of whose keys are given; or ""."""
        return ""


def card(
    uri: str, task: str, given: Mapping[str, object], chosen: ImportOptions, convention: Convention, sha256: str = ""
) -> ExpertCard:
    """Return the card of existing labels.

    Args:
        uri: of the importer.
        task: of the labels.
        given: option -> text, for the manifest.
        chosen: the same options as a model.
        convention: of the labels.
        sha256: of the single file that contains all labels, if there is one.
    """
    recorded = {option: text for option, text in given.items() if option != "as"}
    name = chosen.name or _default_name(uri, str(given.get("label", "")))
    return ExpertCard(uri, task, convention, chosen.license, weights_sha256=sha256, preprocessing=recorded, name=name)


def _default_name(uri: str, label: str) -> str:
    """Return the name of a column: the format and the source, in characters that a folder name may have."""
    scheme, _, rest = uri.partition(":")
    source = re.sub(r"\.(json|parquet|csv|tsv|tar|txt)$", "", PurePosixPath(rest.partition("?")[0]).name)
    words = "-".join(part for part in (scheme, source, label) if part)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words)[:60].strip("-.")


def folder(text: str, uri: str) -> Path:
    """Return the folder of label files that a URI names.

    Raises:
        ExpertError: there is no such folder, or it is at a remote address.
    """
    path = files.place(text)
    if not isinstance(path, Path):
        raise ExpertError(
            f"{uri}: {text} is a remote address, but single label files are read only from a disk. Copy the folder to "
            "a disk; labels in tars (tars:) or in a table (rows:) can be read from an address (docs/labels.md)"
        )
    if not path.is_dir():
        raise ExpertError(f"{text!r} is not a folder, so there are no labels in it; check the path in {uri}")
    return path


def inside(key: str) -> None:
    """Raise `SampleError` if a key, as a path below a folder, leads out of the folder."""
    if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
        raise SampleError(f"the key leads out of the folder: {key!r}")


def same_aspect(label: Size, image: Size, where: str) -> None:
    """Raise `SampleError` unless a label of one (H, W) can show the whole image of another (H, W).

    Either may be the other one, resized and rounded to whole pixels.
    """
    (h, w), (H, W) = label, image
    if abs(h * W - w * H) > max(h, w, H, W):  # more than a pixel of the smaller one off
        raise SampleError(
            f"another aspect than that of the image: {w}×{h} for {W}×{H}, in {where}; labels show the "
            "whole image as it is displayed, rotated by its EXIF orientation"
        )
