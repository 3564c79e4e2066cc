"""Surface normals of Hugging Face models, resized to the image by their processors' post-processing.

Neither transformers 5.24 nor the authors' code states where the axes of Sapiens2 and TIPSv2 point, so the URI does:
``?frame=``. Pictures of TIPSv2's authors show x left, y up, z toward the viewer (docs/experts.md). ``clipzoo experts
check`` compares a frame with the 47 others on rendered scenes and names wrong axes.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, ClassVar

from clipzoo.errors import ExpertError
from clipzoo.experts.frames import parse_frame, unit_normals
from clipzoo.experts.hf.frame import Frame, image_processor_of
from clipzoo.experts.hf.postprocessor import Model, OnePassPostprocessor, Query, post_process
from clipzoo.tasks.base import Convention
from clipzoo.tasks.normals import Normals

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

    from clipzoo.experts.hf.frame import Processor


class NormalsPostprocessor(OnePassPostprocessor):
    """A map of surface normals."""

    auto = "AutoModelForNormalEstimation"
    options: ClassVar[tuple[str, ...]] = ("frame",)
    task = "normals"

    def __init__(self, model: Model) -> None:
        self.frame = model.options.get("frame", "")
        if not self.frame:
            raise ExpertError(
                f"the files of {model.name} do not say where the axes of its normals point. Add "
                "?frame=x-right,y-up,z-toward to the URI (for TIPSv2 ?frame=x-left,y-up,z-toward) and run `clipzoo "
                "experts check URI`, which names the axes that are wrong on rendered scenes"
            )
        try:
            parse_frame(self.frame)
        except ValueError as error:
            raise ExpertError(f"?frame={self.frame}: {error}") from error
        self.convention = Convention()
        self.settings = {"frame": self.frame}

    def unpads(self, processor: Processor) -> bool:
        """Return true: Sapiens2 pads, and its post-processing removes this padding."""
        return True

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Normals:
        """Return unit vectors; unknown where the model gives none."""
        function = post_process(processor, "post_process_normal_estimation")
        pads = getattr(image_processor_of(processor), "do_pad", False)
        removes = pads and "source_sizes" in inspect.signature(function).parameters
        (result,) = function(output, **{"source_sizes" if removes else "target_sizes": [frame.size]})
        return unit_normals(result["normals"].float().cpu().numpy(), self.frame)
