"""Objects and persons by MediaPipe's own models: ``python:litert:Objects``, ``python:litert:Person``, from this folder.

Both come in npm packages that MediaPipe runs in browsers; ``examples/fetch.py`` takes them out. What goes into them and
comes out is said by MediaPipe's graphs: modules/objectron/object_detection_oid_v4_cpu.pbtxt and
modules/selfie_segmentation/selfie_segmentation_cpu.pbtxt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert, clip_boxes_to_image, nms, remove_small_boxes

from clipzoo.errors import ExpertError
from clipzoo.experts import Expert, ExpertCard
from clipzoo.experts.base import sha256
from clipzoo.tasks import Convention
from clipzoo.tasks.detection import STEPS, Detection
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray

FOLDER = Path(__file__).parent


class LiteRT(Expert):
    """A TFLite model of one square picture, run on the CPU; pictures are stretched to its size."""

    batch_size = 1
    name: ClassVar[str]
    task: ClassVar[str]
    convention: ClassVar[Convention]
    revision: ClassVar[str]
    side: ClassVar[int]
    span: ClassVar[tuple[float, float]]
    """What 0 and 255 become."""

    def __init__(self) -> None:
        self.weights = FOLDER / f"{self.name}.tflite"
        if not self.weights.is_file():
            fetch = FOLDER.with_name("fetch.py")
            raise ExpertError(f"{self.weights} is not there: run `python {fetch} {self.name}` once")
        self.card = ExpertCard(
            uri=f"python:litert:{type(self).__name__}",
            task=self.task,
            convention=self.convention,
            license="Apache-2.0",
            revision=self.revision,
            weights_sha256=sha256(self.weights),
            preprocessing={"size": self.side, "fit": "stretch", "span": list(self.span), "resample": "bilinear"},
        )
        self.interpreter: Any = None

    def load(self, device: str = "cpu") -> None:
        """Open the model, with as many threads as torch has."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ExpertError(f"{self.card.uri} needs LiteRT; pip install ai-edge-litert") from error
        self.interpreter = Interpreter(str(self.weights), num_threads=torch.get_num_threads())
        self.interpreter.allocate_tensors()

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        """One label an image; the model takes them one by one."""
        if self.interpreter is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        return [self.label(self._outputs(image), image.shape[:2]) for image in images]

    def _outputs(self, image: ImageArray) -> list[Tensor]:
        square = Image.fromarray(image).resize((self.side, self.side), Image.Resampling.BILINEAR)
        low, high = self.span
        values = np.asarray(square, np.float32) * np.float32((high - low) / 255) + np.float32(low)
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], values[None])
        self.interpreter.invoke()
        found = self.interpreter.get_output_details()
        return [torch.from_numpy(self.interpreter.get_tensor(one["index"])[0]) for one in found]

    @abstractmethod
    def label(self, outputs: Sequence[Tensor], size: tuple[int, int]) -> Any:
        """The label of an image of ``size`` (H, W)."""


class Person(LiteRT):
    """Where persons are, as a mask of 256×256: made for one before a camera, 2 m away at most."""

    name, task, side, span = "person", "segmentation", 256, (0.0, 1.0)
    convention = Convention(classes=("background", "person"))
    revision = "@mediapipe/selfie_segmentation 0.1.1675465747"

    def label(self, outputs: Sequence[Tensor], size: tuple[int, int]) -> Segmentation:
        """Of probabilities [256,256,1], cut at a half."""
        p = outputs[0][..., 0].numpy()
        return Segmentation((p >= 0.5).astype(np.uint16), np.ones(p.shape, np.bool_), float(abs(p - 0.5).mean() + 0.5))


class Objects(LiteRT):
    """Boxes of 23 classes of OpenImages: an SSD over MobileNetV2 (Liu et al. 2016, arXiv 1512.02325)."""

    name, task, side, span = "objects", "detection", 300, (-1.0, 1.0)
    convention = Convention(
        classes=(
            "Bicycle", "Boot", "Laptop", "Person", "Chair", "Cattle", "Desk", "Cat", "Computer mouse",
            "Computer monitor", "Box", "Mug", "Coffee cup", "Stationary bicycle", "Table", "Bottle", "High heels",
            "Vehicle", "Footwear", "Dog", "Book", "Camera", "Car",
        )  # the package's object_detection_oidv4_labelmap.txt, less its first line, ???
    )  # fmt: skip
    revision = "@mediapipe/objectron 0.4.1675468480"

    def label(self, outputs: Sequence[Tensor], size: tuple[int, int]) -> Detection:
        """Of raw boxes [1917,4] and class logits [1917,24], the first of which is none of the classes.

        An anchor has its best class. Classes overlap (Mug, Coffee cup; Vehicle, Car), so of boxes that do the best one
        stays, whatever its class.
        """
        raw, logits = outputs
        scores, ids = logits[:, 1:].sigmoid().max(1)
        rows = (scores >= FLOOR).nonzero()[:, 0]
        H, W = size
        boxes = clip_boxes_to_image(decoded(raw[rows], ANCHORS[rows]) * torch.tensor([W, H, W, H]), size)
        seen = remove_small_boxes(boxes, 2 / STEPS)
        best = seen[nms(boxes[seen], scores[rows[seen]], OVERLAP)]
        kept = rows[best]
        return Detection(
            size,
            boxes[best].numpy(),
            ids[kept].numpy().astype(np.uint16),
            scores[kept].numpy(),
            (scores[kept] < THRESHOLD).numpy(),
        )


THRESHOLD, FLOOR, OVERLAP = 0.5, 0.3, 0.4
"""Scores from which a box is an object, and below which it is nothing; the overlap of which one box is left."""

GRIDS = (19, 10, 5, 3, 2, 1)
"""Cells along a side of the feature maps: 300 pixels by strides of 16 to 512."""


def anchors() -> Tensor:
    """Float32 [1917,4]: center x, y, width, height in shares of the picture; map by map, row by row, cell by cell.

    Squares grow from 0.2 to 0.95 of the picture, and each map has one more, between its own and the next map's; the
    finest has three boxes a cell, of which the square is of 0.1 (MediaPipe: calculators/tflite/ssd_anchors_calculator).
    """
    scales = [*np.linspace(0.2, 0.95, len(GRIDS)), 1.0]
    found = []
    for cells, (scale, larger) in zip(GRIDS, pairwise(scales), strict=True):
        shapes = [(scale, ratio) for ratio in (1, 2, 1 / 2, 3, 0.3333)] + [(np.sqrt(scale * larger), 1)]
        if cells == GRIDS[0]:
            shapes = [(0.1, 1), *shapes[1:3]]
        sides = np.array([(size * np.sqrt(ratio), size / np.sqrt(ratio)) for size, ratio in shapes])
        y, x = (np.mgrid[:cells, :cells].reshape(2, -1, 1) + 0.5) / cells
        centers = np.broadcast_to(np.stack([x, y], -1), (cells**2, len(sides), 2))
        found.append(np.concatenate([centers, np.broadcast_to(sides, centers.shape)], -1).reshape(-1, 4))
    return torch.from_numpy(np.concatenate(found).astype(np.float32))


ANCHORS = anchors()


def decoded(raw: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [N,4] xyxy, of raw [N,4] (center y, x, height, width) and their anchors, in shares of the picture."""
    y, x, h, w = (raw / torch.tensor([10.0, 10.0, 5.0, 5.0])).unbind(1)
    boxes = torch.stack([x, y, w.exp(), h.exp()], 1) * anchors[:, [2, 3, 2, 3]]
    boxes[:, :2] += anchors[:, :2]
    return box_convert(boxes, "cxcywh", "xyxy")
