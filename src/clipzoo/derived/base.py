"""The contract of derived experts: labels are computed from other columns of the store."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar, cast

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import ExpertCard, ExpertInput, SampleExpert
from clipzoo.tasks.base import Convention
from clipzoo.types import Size

L = TypeVar("L")


class DerivedExpert(SampleExpert, Generic[L]):
    """Labels computed from the labels ``L`` in the columns that it ``reads``. Its convention is known once it is bound.

    ``preprocessing`` of its card has the options of the URI and the cards of the columns: other weights there make
    another column.
    """

    def __init__(self, uri: str, task: str, reads: Sequence[str], given: Mapping[str, str]) -> None:
        self.card = ExpertCard(uri, task, Convention(), preprocessing=given)
        self.reads = tuple(reads)

    def bind(self, cards: Mapping[str, ExpertCard]) -> None:
        """See `Expert.bind`."""
        read = [cards[name] for name in self.reads]
        self.card = replace(
            self.card,
            convention=self.meaning([card.convention for card in read]),
            license=" and ".join(sorted({card.license for card in read})),
            preprocessing={**self.card.preprocessing, "reads": {card.column: card.to_json() for card in read}},
        )

    def predict_inputs(self, inputs: Sequence[ExpertInput]) -> list[object]:
        """Return the label of each sample.

        Raises:
            SampleError: a column has no label of it, or none from which this one can be computed.
        """
        return [self._derived(sample) for sample in inputs]

    def _derived(self, sample: ExpertInput) -> object:
        missing = [name for name in self.reads if name not in sample.labels]
        if missing:
            raise SampleError(f"no label to read: {missing[0]} has none of this sample")
        size = (sample.image.shape[0], sample.image.shape[1])
        return self.derive([cast(L, sample.labels[name]) for name in self.reads], size)

    @abstractmethod
    def meaning(self, read: Sequence[Convention]) -> Convention:
        """Return the convention of the labels from those of the columns; `ExpertError` if these do not fit."""

    @abstractmethod
    def derive(self, read: Sequence[L], size: Size) -> object:
        """Return the label, from those of the columns, of a sample whose image has ``size`` (H, W)."""


def split_name(name: str, zoo: str) -> tuple[str, str]:
    """Return task and slug of ``<task>/<slug>``; `ExpertError` if the text is not of this form."""
    task, slash, slug = name.partition("/")
    if not (task and slash and slug) or "/" in slug:
        raise ExpertError(
            f"{zoo}: {name!r} is not the name of a column. Write {zoo}:<task>/<slug>, as `clipzoo labels ls` lists them"
        )
    return task, slug
