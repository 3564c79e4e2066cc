"""Labels of online columns: a frozen expert labels the pictures of each batch, instead of a store.

The expert sees the whole picture, as in labeling, and its label gets the view of the sample, as stored labels do. So a
stored and an online label of one sample differ only by the quantization of the store.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clipzoo.errors import ClipzooError, ExpertError, shell_word
from clipzoo.experts import Expert, ExpertInput
from clipzoo.experts.calls import check_label, one_each, reason
from clipzoo.tasks import Task
from clipzoo.tasks import get as get_task
from clipzoo.tasks.base import Target
from clipzoo.types import Size, View

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Picture:
    """A sample as its expert sees it, the view that its labels get, and its shard."""

    sample: ExpertInput
    view: View
    shard: str = ""


class OnlineColumn:
    """The expert of a column, loaded in the training process when it is first needed.

    Args:
        expert: not loaded; it reads no other columns.
        device: on which it runs, in PyTorch's notation.
        stride: image pixels per target pixel.
    """

    def __init__(self, expert: Expert, device: str = "cpu", stride: int = 2) -> None:
        check_online(expert)
        self.expert, self.device, self.stride = expert, device, stride
        self.remedy = f"Run `clipzoo experts check {shell_word(expert.card.uri)}`, which tests the expert"
        self._loaded = False
        self._most = expert.batch_size

    @property
    def task(self) -> Task[object]:
        """The task of the labels; `PluginError` if it is unknown."""
        return get_task(self.expert.card.task)

    def targets(self, pictures: Sequence[Picture], size: Size) -> tuple[Target, dict[int, str]]:
        """Return the target of a batch at ``size`` (H, W), and index -> reason of each picture without a label.

        The random state does not change.

        Raises:
            ExpertError: the expert cannot be loaded.
            DeviceError: the GPU has failed.
        """
        cuda = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(cuda), torch.no_grad():
            self._load()
            labels, reasons = self._labels([picture.sample for picture in pictures])
        pairs = zip(labels, pictures, strict=True)
        task = self.task
        viewed = [None if label is None else task.view(task.taught(label), p.view.at(size)) for label, p in pairs]
        return task.collate(viewed, size), reasons

    def _load(self) -> None:
        if self._loaded:
            return
        try:
            self.expert.load(self.device)
        except ClipzooError:
            raise
        except Exception as error:  # an expert is third-party code
            raise ExpertError(
                f"{self.expert.card.uri} cannot be loaded on {self.device}: {type(error).__name__}: {error}. "
                f"{self.remedy}"
            ) from error
        self._loaded = True

    def _labels(self, samples: Sequence[ExpertInput]) -> tuple[list[object], dict[int, str]]:
        """Return a label per sample, None where there is a reason (by index) that it has none."""
        labels: list[object] = [None] * len(samples)
        reasons: dict[int, str] = {}
        by_size = defaultdict[tuple[int, ...], list[int]](list)
        for row, sample in enumerate(samples):
            by_size[sample.image.shape].append(row)
        for rows in by_size.values():
            inputs = [samples[row] for row in rows]
            found = one_each(self._predicted, inputs, self.device, lambda: self._most, self._shrink)
            for row, label in zip(rows, found, strict=True):
                if isinstance(label, Exception):
                    reasons[row] = reason(label)
                else:
                    labels[row] = label
        return labels, reasons

    def _predicted(self, samples: Sequence[ExpertInput]) -> list[object]:
        """Return a label per sample; `LabelError` if one is not sound."""
        found = list(self.expert.predict_inputs(samples))
        for label in found:
            check_label(self.task, label, self.expert.card.convention)
        return found

    def _shrink(self, size: int) -> None:
        self._most = size
        log.warning("%s: out of memory. Its batches now have at most %d images", self.expert.card.uri, size)


def check_online(expert: Expert) -> None:
    """Raise `ExpertError` if an expert cannot label during training."""
    uri = expert.card.uri
    fix = "Remove online: true from its column, so that its labels are stored before training"
    if expert.reads:
        raise ExpertError(
            f"{uri} cannot label online: it reads the labels of {', '.join(expert.reads)}, and only stored ones can be "
            f"read. {fix}"
        )
    if expert.imports:
        raise ExpertError(f"{uri} cannot label online: it reads existing labels, and predicts none. {fix}")
