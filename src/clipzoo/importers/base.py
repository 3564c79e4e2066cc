"""What experts share that predict nothing: they look labels up by a sample's key, or make them of other labels."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from clipzoo import files
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import ExpertCard, ExpertInput, SampleExpert
from clipzoo.tasks.base import Convention
from clipzoo.types import Size

log = logging.getLogger(__name__)


class Notes(Counter[str]):
    """What was repaired in labels, or looks wrong -> how often; the first of each kind is logged, too."""

    def take(self, what: str, where: object, times: int = 1) -> None:
        """Count ``what`` was noticed ``times`` times, at first ``where``."""
        if what not in self:
            log.warning("%s (first: %s)", what, where)
        self[what] += times


class Importer(SampleExpert):
    """Existing labels, found by a sample's key.

    ``notes`` counts the repairs and suspicious values of the labels that were read so far.
    """

    imports = True

    def __init__(self) -> None:
        self.notes = Notes()

    def predict_inputs(self, inputs: Sequence[ExpertInput]) -> list[Any]:
        """The label of each sample.

        Raises:
            SampleError: there is none, it cannot be read, or does not fit its image or what was answered.
        """
        return [self.look_up(sample.key, (sample.image.shape[0], sample.image.shape[1])) for sample in inputs]

    @abstractmethod
    def place(self, key: str) -> str | None:
        """Where the label of the sample with this key is: a name of its own; None if there is none."""

    @abstractmethod
    def look_up(self, key: str, size: Size) -> Any:
        """The label of one sample whose image has ``size`` (H, W).

        Raises:
            SampleError: see `predict_inputs`.
        """

    def hint(self, keys: Sequence[str]) -> str:
        """An answer by which samples that have no label, some of whose keys are given, would find one; or ""."""
        return ""


def card(
    uri: str, task: str, given: Mapping[str, Any], answers: Mapping[str, Any], convention: Convention, sha256: str = ""
) -> ExpertCard:
    """The card of labels that exist.

    Args:
        uri: of their expert.
        task: theirs.
        given: question -> answer, for the manifest.
        answers: the same as fields; of these ``license`` and ``name`` are read.
        convention: what they mean.
        sha256: of the one file that tells all of them, if there is one.
    """
    told = {question: answer for question, answer in given.items() if question != "as"}
    license, name = answers.get("license", "unknown"), answers.get("name", "") or _short(uri, given.get("label", ""))
    return ExpertCard(uri, task, convention, license, weights_sha256=sha256, preprocessing=told, name=name)


def _short(uri: str, label: str) -> str:
    """The name of a column: the format, and what is read, in letters that a folder may have."""
    zoo, _, rest = uri.partition(":")
    source = re.sub(r"\.(json|parquet|csv|tsv|tar|txt)$", "", PurePosixPath(rest.partition("?")[0]).name)
    words = "-".join(part for part in (zoo, source, label) if part)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words)[:60].strip("-.")


def folder(text: str, uri: str) -> Path:
    """The folder of label files that a URI names.

    Raises:
        ExpertError: there is none, or it is an address.
    """
    path = files.place(text)
    if not isinstance(path, Path):
        raise ExpertError(
            f"{uri}: single label files are read from a disk only, and {text} is an address: copy the folder to a "
            "disk; labels in tars (tars:) or in a table (rows:) are read from anywhere (docs/labels.md)"
        )
    if not path.is_dir():
        raise ExpertError(f"{text!r} is no folder, so there are no labels in it; check the path in {uri}")
    return path


def inside(key: str) -> None:
    """Raise `SampleError` if a key, taken as a path below a folder, leads out of it."""
    if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
        raise SampleError(f"the key leads out of the folder: {key!r}")


def same_aspect(label: Size, image: Size, where: str) -> None:
    """Raise `SampleError` unless a label of one (H, W) can show the whole of an image of another."""
    (h, w), (H, W) = label, image
    if abs(h * W - w * H) > max(H, W):  # more than a pixel off
        raise SampleError(
            f"another aspect than that of the image: {w}×{h} for {W}×{H}, in {where}; labels show the whole image as "
            "it is displayed, turned by its EXIF orientation"
        )
