"""Families of Hugging Face models: what tells that a model is of one, what it gives, and who says so.

The table decides: the first row that fits a model's architecture, config and name is its family. No published weights
were run through any of them; architectures with random weights were (``tests/test_hf*.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Family
from clipzoo.tasks.depth import Kind

Form = Literal["depth", "semantic", "masks", "boxes", "owl", "grounding"]
Mode = Literal["semantic", "instance", "panoptic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HfFamily(Family):
    """A family, how its outputs are read, and which models are of it.

    Attributes:
        form: how its outputs are read (``hf.READINGS``).
        architectures: names of classes of transformers; ``*`` stands for any beginning.
        like: a regular expression that the beginning of the hub id fits.
        when: values that the config or the image processor's settings have.
        kind: of depths; None where files do not tell it.
        mode: what masks were trained to be; None where files do not tell it.
        threshold: the score that the library asks of objects by default.
    """

    form: Form
    architectures: tuple[str, ...]
    like: str = ""
    when: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind | None = None
    mode: Mode | None = None
    threshold: float = 0.5

    def fits(self, architecture: str, name: str, told: Mapping[str, Any]) -> bool:
        """Whether a model is of this family: its architecture, hub id, and the values in its files."""
        named = any(
            architecture.endswith(own[1:]) if own[0] == "*" else architecture == own for own in self.architectures
        )
        return named and bool(re.match(self.like, name)) and all(told.get(k) == v for k, v in self.when.items())


def family_of(architecture: str, name: str, told: Mapping[str, Any]) -> HfFamily:
    """The family of a model.

    Raises:
        ExpertError: none of the table's, or one that is `REFUSED`.
    """
    if architecture in REFUSED:
        raise ExpertError(f"{name} is a {architecture}, whose outputs cannot be read; write a python: expert for it")
    for family in FAMILIES:
        if family.fits(architecture, name, told):
            return family
    ends = sorted({own for family in FAMILIES for own in family.architectures if own[0] == "*"})
    raise ExpertError(
        f"{name} is a {architecture}, which gives neither depth nor classes of pixels nor boxes; architectures that do "
        f"are {', '.join(ends)}, and those that docs/experts.md lists"
    )


# Rows --------------------------------------------------------------------------------------------------------

EOMT = ("EomtForUniversalSegmentation", "EomtDinov3ForUniversalSegmentation")
ANY_SEMANTIC = ("*ForSemanticSegmentation",)
REFUSED = frozenset({"OmDetTurboForObjectDetection"})
"""Would fit a row of any others, but is told by a text what to find, in a form that nothing here reads."""

LIBRARY = "github.com/huggingface/transformers, src/transformers/models"


def _depth(name: str, architecture: str, kind: Kind | None, source: str, **more: Any) -> HfFamily:
    gives = f"{kind} along z" if kind else "its files do not tell the kind, so ?kind= is asked for; along z unless told"
    return HfFamily(name, "depth", gives, source, form="depth", architectures=(architecture,), kind=kind, **more)


def _semantic(name: str, architectures: tuple[str, ...], source: str) -> HfFamily:
    gives = (
        "of every pixel the best class of id2label; void where that is a class called void, unlabeled, ignore or N/A"
    )
    return HfFamily(name, "segmentation", gives, source, form="semantic", architectures=architectures)


def _masks(name: str, architectures: tuple[str, ...], source: str, **more: Any) -> HfFamily:
    gives = (
        "masks with classes of id2label: by votes (semantic), as segments (panoptic; unknown where none is sure), or "
        "as a detection instances with boxes and masks"
    )
    return HfFamily(name, "segmentation", gives, source, form="masks", architectures=architectures, **more)


def _boxes(name: str, architectures: tuple[str, ...], source: str, **more: Any) -> HfFamily:
    gives = "boxes with classes of id2label, each with a score; those of classes that mean 'not known' ignored"
    return HfFamily(name, "detection", gives, source, **{"form": "boxes", "architectures": architectures, **more})


def _prompted(name: str, architectures: tuple[str, ...], form: Form, threshold: float, source: str) -> HfFamily:
    gives = "boxes with classes of ?classes=, whose names are its prompts, each with a score"
    return HfFamily(name, "detection", gives, source, form=form, architectures=architectures, threshold=threshold)


FAMILIES: tuple[HfFamily, ...] = (
    _depth(
        "DPT of Intel (MiDaS 3 and 3.1)", "DPTForDepthEstimation", "affine-disparity",
        "pytorch.org/hub/intelisl_midas_v2: relative inverse depth; Ranftl et al., arXiv 1907.01341, section 5",
        like=r"Intel/dpt-(?!.*(nyu|kitti))",
    ),
    _depth(
        "DPT", "DPTForDepthEstimation", None,
        "Ranftl et al., arXiv 2103.13413, section 4.1: relative, and fine-tuned to meters on NYUv2 and KITTI",
    ),
    _depth(
        "Depth Anything 2, metric", "DepthAnythingForDepthEstimation", "metric",
        "github.com/DepthAnything/Depth-Anything-V2, metric_depth/dataset/hypersim.py: distances made depths along z",
        when={"depth_estimation_type": "metric"},
    ),
    _depth(
        "Depth Anything 1 and 2", "DepthAnythingForDepthEstimation", "affine-disparity",
        "Yang et al., arXiv 2401.10891, section 3.1 (disparity, up to scale and shift), and arXiv 2406.09414",
    ),
    _depth(
        "Prompt Depth Anything, metric", "PromptDepthAnythingForDepthEstimation", "metric",
        f"{LIBRARY}/prompt_depth_anything/configuration_prompt_depth_anything.py: depth_estimation_type; trained with "
        "a sensor's coarse depth beside the picture (Lin et al., arXiv 2412.14015), which it does without here",
        when={"depth_estimation_type": "metric"},
    ),
    _depth(
        "TIPSv2 with a DPT head", "Tipsv2DptForDepthEstimation", "metric",
        f"{LIBRARY}/tipsv2_dpt/configuration_tipsv2_dpt.py: min_depth and max_depth in meters",
    ),
    _depth(
        "ZoeDepth", "ZoeDepthForDepthEstimation", "metric",
        "Bhat et al., arXiv 2302.12288: metric depth, trained on the z of NYUv2 and KITTI",
    ),
    _depth(
        "GLPN", "GLPNForDepthEstimation", "metric",
        "Kim et al., arXiv 2201.07436, section 3.3: meters up to max_depth; of NYUv2 (4.1) or KITTI (6.1)",
    ),
    _depth(
        "Depth Pro", "DepthProForDepthEstimation", "metric",
        "github.com/apple/ml-depth-pro, src/depth_pro/depth_pro.py, infer(): depth [m], by the predicted field of view",
        when={"use_fov_model": True},
    ),
    _depth(
        "Depth Pro without its field of view", "DepthProForDepthEstimation", "affine-depth",
        "github.com/apple/ml-depth-pro, src/depth_pro/depth_pro.py: canonical inverse depth, meters but for the focal "
        "length",
    ),
    _depth("any other …ForDepthEstimation", "*ForDepthEstimation", None, "the model's card"),
    _semantic(
        "SegFormer", ("SegformerForSemanticSegmentation",),
        f"Xie et al., arXiv 2105.15203; {LIBRARY}/segformer/image_processing_segformer.py",
    ),
    _semantic(
        "BEiT", ("BeitForSemanticSegmentation",),
        f"Bao et al., arXiv 2106.08254, section 3.2; {LIBRARY}/beit/image_processing_beit.py",
    ),
    _semantic(
        "UperNet", ("UperNetForSemanticSegmentation",),
        f"Xiao et al., arXiv 1807.10221; {LIBRARY}/segformer/image_processing_segformer.py",
    ),
    _semantic(
        "DPT, semantic", ("DPTForSemanticSegmentation",),
        f"Ranftl et al., arXiv 2103.13413, section 4.2; {LIBRARY}/dpt/image_processing_dpt.py",
    ),
    _semantic("any other …ForSemanticSegmentation", ANY_SEMANTIC, "the model's card"),
    _masks(
        "MaskFormer", ("MaskFormerForInstanceSegmentation",),
        f"Cheng et al., arXiv 2107.06278, section 3.4; {LIBRARY}/maskformer/image_processing_maskformer.py",
    ),
    _masks(
        "Mask2Former", ("Mask2FormerForUniversalSegmentation",),
        f"Cheng et al., arXiv 2112.01527; {LIBRARY}/mask2former/image_processing_mask2former.py",
    ),
    _masks(
        "OneFormer", ("OneFormerForUniversalSegmentation",),
        f"Jain et al., arXiv 2211.06220, section 3.1: told which; {LIBRARY}/oneformer/image_processing_oneformer.py",
    ),
    _masks(
        "EoMT, semantic", EOMT,
        f"Kerssies et al., arXiv 2503.19108; {LIBRARY}/eomt/image_processing_eomt.py: windows of semantic models",
        when={"do_split_image": True}, mode="semantic", threshold=0.8,
    ),
    _masks(
        "EoMT", EOMT,
        f"Kerssies et al., arXiv 2503.19108; {LIBRARY}/eomt/image_processing_eomt.py", threshold=0.8,
    ),
    _masks(
        "DETR, panoptic", ("DetrForSegmentation",),
        f"Carion et al., arXiv 2005.12872, section 4.4; {LIBRARY}/detr/image_processing_detr.py", mode="panoptic",
    ),
    _boxes(
        "DETR", ("DetrForObjectDetection",),
        f"Carion et al., arXiv 2005.12872, section 3; {LIBRARY}/detr/image_processing_detr.py: the last is no object",
    ),
    _boxes(
        "Conditional DETR", ("ConditionalDetrForObjectDetection",),
        f"Meng et al., arXiv 2108.06152; {LIBRARY}/conditional_detr/image_processing_conditional_detr.py: sigmoid",
    ),
    _boxes(
        "Deformable DETR", ("DeformableDetrForObjectDetection",),
        f"Zhu et al., arXiv 2010.04159; {LIBRARY}/deformable_detr/image_processing_deformable_detr.py: sigmoid",
    ),
    _boxes(
        "RT-DETR 1 and 2", ("RTDetrForObjectDetection", "RTDetrV2ForObjectDetection"),
        "Zhao et al., arXiv 2304.08069, and Lv et al., arXiv 2407.17140; "
        f"{LIBRARY}/rt_detr/image_processing_rt_detr.py",
    ),
    _boxes(
        "D-FINE", ("DFineForObjectDetection",),
        f"Peng et al., arXiv 2410.13842; {LIBRARY}/rt_detr/image_processing_rt_detr.py",
    ),
    _boxes(
        "YOLOS", ("YolosForObjectDetection",),
        f"Fang et al., arXiv 2106.00666; {LIBRARY}/yolos/image_processing_yolos.py: the last logit is no object",
    ),
    _prompted(
        "OWL-ViT", ("OwlViTForObjectDetection",), "owl", 0.1,
        f"Minderer et al., arXiv 2205.06230, section 3; {LIBRARY}/owlvit/image_processing_owlvit.py",
    ),
    _prompted(
        "OWLv2", ("Owlv2ForObjectDetection",), "owl", 0.1,
        f"Minderer et al., arXiv 2306.09683; {LIBRARY}/owlv2/image_processing_owlv2.py: boxes of the padded square",
    ),
    _prompted(
        "Grounding DINO", ("GroundingDinoForObjectDetection", "MMGroundingDinoForObjectDetection"), "grounding", 0.25,
        "Liu et al., arXiv 2303.05499, section 3.5: a logit for each token of the text; tokens belong to classes as in "
        "github.com/IDEA-Research/GroundingDINO, demo/test_ap_on_coco.py, which takes their mean and not the surest",
    ),
    _boxes("any other …ForObjectDetection", ("*ForObjectDetection",), "the model's card"),
)  # fmt: skip
