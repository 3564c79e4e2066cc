"""Depth of Hugging Face models, as their processors bring it to the image's size."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import numpy as np

from clipzoo.errors import ExpertError
from clipzoo.experts.hf.frame import Frame
from clipzoo.experts.hf.options import choice
from clipzoo.experts.hf.reading import Model, Reading, post
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Along, Depth, Kind


class DepthReading(Reading):
    """A map of depths or disparities."""

    auto = "AutoModelForDepthEstimation"
    options: ClassVar[tuple[str, ...]] = ("kind", "along")
    task = "depth"

    def __init__(self, model: Model) -> None:
        kind = model.options.get("kind") or model.family.kind
        if kind not in get_args(Kind):
            seen = f"?kind={kind} is none of them" if kind else f"the files of a {model.architecture} do not say which"
            raise ExpertError(
                f"what are the depths of {model.name}: {', '.join(get_args(Kind))}? {seen}; see its model card and add "
                "?kind=metric (meters) or ?kind=affine-disparity (relative, nearer is larger) to the URI"
            )
        self.convention = Convention((), kind, choice(model.options, "along", get_args(Along)))  # type: ignore[arg-type]
        self.settings = {}

    def label(self, processor: Any, output: Any, frame: Frame, asked: tuple[int, ...]) -> Depth:
        """Unknown where not finite, or not positive though metric."""
        kind = self.convention.kind
        assert kind is not None, "the convention was checked"
        (found,) = post(processor, "post_process_depth_estimation")(output, [frame.whole])
        values = found["predicted_depth"].float().cpu().numpy()
        values = values.reshape(frame.whole)[frame.place]  # sides of one pixel are squeezed away
        valid = np.isfinite(values)
        if kind == "metric":
            valid &= np.where(valid, values, 0) > 0
        return Depth(np.where(valid, values, 0).astype(np.float32), valid, kind, self.convention.along)
