"""Depth of Hugging Face models, resized to the image by their processors' post-processing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, get_args

import numpy as np

from clipzoo.errors import ExpertError
from clipzoo.experts.hf.frame import Frame
from clipzoo.experts.hf.options import choice
from clipzoo.experts.hf.postprocessor import Model, OnePassPostprocessor, Query, post_process
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Along, Depth, Kind

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

    from clipzoo.experts.hf.frame import Processor


class DepthPostprocessor(OnePassPostprocessor):
    """A map of depth or disparity."""

    auto = "AutoModelForDepthEstimation"
    options: ClassVar[tuple[str, ...]] = ("kind", "along")
    task = "depth"

    def __init__(self, model: Model) -> None:
        kind = model.options.get("kind") or model.family.kind
        if kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            if kind:
                problem = f"?kind={kind} is none of {known}"
            else:
                problem = f"the files of a {model.architecture} do not say which kind of depth it predicts ({known})"
            raise ExpertError(
                f"{model.name}: {problem}. Read its model card and add ?kind=metric (meters) or ?kind=affine-disparity "
                "(relative, nearer is larger) to the URI"
            )
        self.convention = Convention((), kind, choice(model.options, "along", get_args(Along)))  # type: ignore[arg-type]
        self.settings = {}

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Depth:
        """Return the depth; unknown where it is not finite, or metric and not positive."""
        kind = self.convention.kind
        assert kind is not None, "the convention was checked"
        (result,) = post_process(processor, "post_process_depth_estimation")(output, [frame.canvas_pixels])
        values = result["predicted_depth"].float().cpu().numpy()
        values = values.reshape(frame.canvas_pixels)[frame.crop]  # transformers squeezes sides of one pixel
        valid = np.isfinite(values)
        if kind == "metric":
            valid &= np.where(valid, values, 0) > 0
        return Depth(np.where(valid, values, 0).astype(np.float32), valid, kind, self.convention.along)
