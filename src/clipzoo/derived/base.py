"""What experts share whose labels are made of the labels in other columns of the store."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import ExpertCard, ExpertInput, SampleExpert
from clipzoo.tasks.base import Convention
from clipzoo.types import Size


class DerivedExpert(SampleExpert):
    """Labels made of the labels in the columns that it ``reads``; what they mean is known once it is bound.

    Its card tells under ``preprocessing`` what the URI answers and whose labels were read: other weights there make
    another column here.
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

    def predict_inputs(self, inputs: Sequence[ExpertInput]) -> list[Any]:
        """The label of each sample.

        Raises:
            SampleError: a column has none of it, or none from which this one could be made.
        """
        return [self._made(sample) for sample in inputs]

    def _made(self, sample: ExpertInput) -> Any:
        lacking = [name for name in self.reads if name not in sample.labels]
        if lacking:
            raise SampleError(f"no label to read: {lacking[0]} has none of this sample")
        size = (sample.image.shape[0], sample.image.shape[1])
        return self.derive([sample.labels[name] for name in self.reads], size)

    @abstractmethod
    def meaning(self, read: Sequence[Convention]) -> Convention:
        """What the labels mean, from what those in the columns do; `ExpertError` if nothing sound can be made."""

    @abstractmethod
    def derive(self, read: Sequence[Any], size: Size) -> Any:
        """The label, from those in the columns, of a sample whose image has ``size`` (H, W)."""


def split_name(name: str, zoo: str) -> tuple[str, str]:
    """``<task>/<slug>`` taken apart; `ExpertError` if it is none."""
    task, slash, slug = name.partition("/")
    if not (task and slash and slug) or "/" in slug:
        raise ExpertError(
            f"{zoo}: {name!r} names no column; write {zoo}:<task>/<slug>, as `clipzoo labels ls` lists them"
        )
    return task, slug
