"""The contract of experts: a card that is known without weights, loading, and predictions in batches."""

from __future__ import annotations

import hashlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from clipzoo import files
from clipzoo.errors import ExpertError
from clipzoo.files import Place
from clipzoo.tasks.base import Convention
from clipzoo.types import ImageArray

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

NOT_FINITE = (
    "{} are not finite: no label can be read from NaN or infinity. Check the weights, and use float32 or bfloat16 if "
    "the model runs in float16"
)
"""The message of an error about outputs of a model."""


@dataclass(frozen=True, slots=True)
class ExpertCard:
    """The identity of an expert and the meaning of its labels; copied into the manifest of its column.

    ``name`` is the name of its folder in a store; by default it is made from the URI. ``files_sha256`` is a digest of
    all files but the weights that determine labels: revisions with equal digests of both make equal labels. It is ""
    if not all of them are known.
    """

    uri: str
    task: str
    convention: Convention
    license: str = "unknown"
    revision: str = ""
    weights_sha256: str = ""
    preprocessing: Mapping[str, object] = field(default_factory=dict)
    name: str = ""
    files_sha256: str = ""

    @property
    def slug(self) -> str:
        """The name of the expert's folder in a store; for a long URI its beginning and a digest."""
        if self.name:
            return self.name
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.uri).strip("-.")
        return name if len(name) <= 200 else f"{name[:187]}-{hashlib.sha256(self.uri.encode()).hexdigest()[:12]}"

    @property
    def column(self) -> str:
        """The name of its column in a store: ``<task>/<slug>``."""
        return f"{self.task}/{self.slug}"

    def to_json(self) -> dict[str, object]:
        """The fields but ``name`` as plain JSON values, the convention by its own `to_json`.

        The license is spelled ``licence``, as stores of format 1 spell it, and ``files_sha256`` is left out if empty.
        """
        values = {**asdict(self), "convention": self.convention.to_json(), "licence": self.license}
        unused = ("name", "license", *(() if self.files_sha256 else ("files_sha256",)))
        for name in unused:
            del values[name]
        return values


@dataclass(frozen=True, slots=True)
class ExpertInput:
    """One sample as the input of an expert.

    Attributes:
        key: of the sample.
        image: uint8 H×W×3 RGB, as `clipzoo.types.decode_image` returns it.
        caption: of the sample; empty if it has none.
        labels: column name -> label of the sample, for the columns that the expert ``reads``; without an entry where
            the sample has no label.
    """

    key: str
    image: ImageArray
    caption: str = ""
    labels: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Family:
    """The meaning of the labels of a family of models, with the public source of this statement.

    Attributes:
        name: of the family, as its authors write it.
        task: of its labels.
        gives: kind and axis of depth, frame of normals, label space and void, in the words of `docs/labels.md`.
        source: a paper with its section, or a file of a public repository.
        seen: published weights were run through clipzoo; otherwise only the architecture was.
    """

    name: str
    task: str
    gives: str
    source: str
    seen: bool = False


class Expert(ABC):
    """A model that predicts labels of one task.

    ``card`` is known before weights are loaded; ``batch_size`` is its usual batch size. An expert that needs more of a
    sample than its image (its key, caption, or labels of the columns that it ``reads``) sets ``needs_sample`` and
    overrides `predict_inputs`.
    """

    card: ExpertCard
    batch_size: int = 16
    needs_sample: bool = False
    reads: tuple[str, ...] = ()
    """Columns of the same store, ``<task>/<slug>``, whose labels are its input."""
    calls: tuple[str, ...] = ("forward",)
    """The methods of `module` that `predict` calls: labeling compiles them and sets their precision."""
    imports: bool = False
    """Existing labels are read, not predicted."""

    def bind(self, cards: Mapping[str, ExpertCard]) -> None:  # noqa: B027  # most read nothing
        """Receive the cards of the columns that it ``reads``, by name; called before its own card is used.

        Raises:
            ExpertError: the expert cannot read these labels.
        """

    @abstractmethod
    def load(self, device: str = "cpu") -> None:
        """Load the weights. Heavy imports are made here."""

    @abstractmethod
    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        """Return one label of ``card.task`` per image; all images (uint8 H×W×3 RGB) have one size."""

    @property
    def module(self) -> nn.Module | None:
        """The torch module that `predict` calls; each `load` creates a new one.

        An expert that overrides this lets labeling choose the memory layout and, for weights in float32, the precision.
        Weights of other types would have neither precision in autocast. If `predict` calls the module by another method
        than ``forward``, the expert also sets ``calls``.
        """
        return None

    def predict_inputs(self, inputs: Sequence[ExpertInput]) -> list[object]:
        """Return one label per sample; called by labeling."""
        return self.predict([sample.image for sample in inputs])

    def state(self, key: str) -> str:
        """Return a text that changes when the stored label of a sample changes; "" for labels that are predicted.

        Raises:
            SampleError: the key is not a valid name of a label.
        """
        return ""


class SampleExpert(Expert):
    """An expert that needs the whole sample: an image alone does not determine its label."""

    needs_sample = True
    batch_size = 1

    def load(self, device: str = "cpu") -> None:
        """Load nothing."""

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        """Raise `ExpertError`: use `predict_inputs`."""
        raise ExpertError(f"{self.card.uri} needs whole samples. Call predict_inputs(inputs)")


def sha256(path: Place) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits; `OSError` if it cannot be read."""
    digest = hashlib.sha256()
    with files.open_file(path) as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def fetching(what: str, folder: object) -> None:
    """Log that a download into a cache begins."""
    log.warning("fetching %s into %s", what, folder)
