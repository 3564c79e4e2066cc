"""TensorBoard: files in the folder ``tensorboard`` of a training, for ``tensorboard --logdir``."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from clipzoo.training.tracking.base import TrackedRun, Tracker
from clipzoo.types import ImageArray

REQUIRES = "tensorboard"


class _TensorBoard:
    def __init__(self, run: TrackedRun) -> None:
        self.board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: ImageArray) -> None:
        self.board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self.board.close()


def open(run: TrackedRun) -> Tracker:
    """Return the writer of a run; steps that are repeated replace those of the interrupted process."""
    return _TensorBoard(run)
