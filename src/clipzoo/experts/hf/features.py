"""Features of Hugging Face encoders: the patch tokens of the last layer, as a map.

The image is resized to one size, without keeping its aspect, so that the map covers it whole: processors of encoders
crop its center, and a size that is no multiple of the patch would lose a border.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from clipzoo.errors import ExpertError
from clipzoo.experts.hf.frame import Frame, image_processor_of
from clipzoo.experts.hf.options import sides
from clipzoo.experts.hf.postprocessor import Model, OnePassPostprocessor, Query
from clipzoo.tasks.base import Convention
from clipzoo.tasks.features import Features, unit
from clipzoo.types import Size

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

    from clipzoo.experts.hf.frame import Processor

VISION = {"SiglipModel": "SiglipVisionModel", "CLIPModel": "CLIPVisionModel"}
"""Architecture with a text tower -> class of transformers that loads its vision tower alone."""

FIXED = ("SiglipModel", "SiglipVisionModel", "CLIPModel", "CLIPVisionModel")
"""Architectures that transformers 5.24 runs at their own size only, unless a call interpolates their positions."""


class FeaturesPostprocessor(OnePassPostprocessor):
    """Patch tokens [1,prefix+h·w,C]; class and register tokens are the prefix."""

    auto = "AutoModel"
    options: ClassVar[tuple[str, ...]] = ("size",)
    task = "features"

    def __init__(self, model: Model) -> None:
        config = cast(Mapping[str, object], model.config.get("vision_config") or model.config)
        self.auto = VISION.get(model.architecture, model.architecture)  # type: ignore[misc]
        self.patch, self.size = _whole(config, "patch_size", model), _own_size(model, config)
        if "size" in model.options:
            chosen = sides(model.options, "size")
            if model.architecture in FIXED and chosen != self.size:
                raise ExpertError(
                    f"{model.name}: ?size={model.options['size']}: transformers runs a {model.architecture} only at "
                    f"its own size, {self.size[0]}×{self.size[1]}: remove the option"
                )
            self.size = chosen
        if self.size[0] % self.patch or self.size[1] % self.patch:
            near = [max(round(side / self.patch), 1) * self.patch for side in self.size]
            raise ExpertError(
                f"{model.name}: a size of {self.size[0]}×{self.size[1]} pixels is no multiple of the patch of "
                f"{self.patch} pixels, so that a border of the image would have no features: add "
                f"?size={near[0]}x{near[1]}"
            )
        self.convention = Convention(channels=_whole(config, "hidden_size", model))
        self.settings = {"size": list(self.size), "resize": "squash", "layer": "last_hidden_state"}

    def check(self, processor: Processor) -> None:
        """Make the processor resize images to one size."""
        image_processor = image_processor_of(processor)
        image_processor.do_resize = True
        image_processor.size = {"height": self.size[0], "width": self.size[1]}

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Features:
        """Return the directions of the tokens; unknown where they are not finite."""
        h, w = self.size[0] // self.patch, self.size[1] // self.patch
        tokens = output.last_hidden_state[0, -h * w :].float().cpu().numpy()
        if len(tokens) != h * w:
            raise ExpertError(f"the model returns {len(tokens)} tokens, fewer than {h}×{w}: write a python: expert")
        vectors = np.ascontiguousarray(tokens.T).reshape(-1, h, w)
        return unit(vectors, np.ones((h, w), np.bool_))


def _whole(config: Mapping[str, object], name: str, model: Model) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise ExpertError(
            f"{model.name}: config.json has {name}={value!r}, and features need a whole number: use a model whose "
            "config states it"
        )
    return value


def _own_size(model: Model, config: Mapping[str, object]) -> Size:
    """Return (H, W) of the processor's crop, or of its size, or else of the config."""
    for name in ("crop_size", "size"):
        size = model.preprocessing.get(name)
        if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
            return int(size["height"]), int(size["width"])
    side = _whole(config, "image_size", model)
    return side, side
