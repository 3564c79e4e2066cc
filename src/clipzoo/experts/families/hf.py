"""Families of Hugging Face models: how a model is recognized, what its labels mean, and a public source for it.

The first row of the table that fits a model's architecture, config and name is its family. Only architectures with
random weights were run (``tests/test_hf*.py``), no published weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Family

if TYPE_CHECKING:
    from clipzoo.tasks.depth import Kind  # with PyTorch

Form = Literal[
    "depth", "normals", "semantic", "masks", "boxes", "instances", "owl", "grounding", "omdet", "concepts",
    "boundaries", "features",
]  # fmt: skip
Mode = Literal["semantic", "instance", "panoptic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HfFamily(Family):
    """A family of models with one form of output.

    Attributes:
        form: form of its outputs, which selects the postprocessor (``hf.POSTPROCESSORS``).
        architectures: class names of transformers; a leading ``*`` matches any beginning.
        name_pattern: regular expression that must match the beginning of the hub id.
        when: required values of the config or the image processor's settings.
        kind: kind of its depth; None if the files of a model do not state it.
        mode: what its masks were trained to be; None if the files of a model do not state it.
        threshold: default score threshold of the library for objects.
    """

    form: Form
    architectures: tuple[str, ...]
    name_pattern: str = ""
    when: Mapping[str, object] = field(default_factory=dict)
    kind: Kind | None = None
    mode: Mode | None = None
    threshold: float = 0.5

    def fits(self, architecture: str, name: str, values: Mapping[str, object]) -> bool:
        """Return true if a model with this architecture, hub id and values in its files is in this family."""
        if not any(_matches(architecture, pattern) for pattern in self.architectures):
            return False
        return bool(re.match(self.name_pattern, name)) and all(values.get(key) == v for key, v in self.when.items())


def _matches(architecture: str, pattern: str) -> bool:
    return architecture.endswith(pattern[1:]) if pattern[0] == "*" else architecture == pattern


def family_of(architecture: str, name: str, values: Mapping[str, object]) -> HfFamily:
    """Return the family of a model.

    Raises:
        ExpertError: no family fits, or the model is one of `REFUSED`.
    """
    stated = " ".join(str(value) for value in (architecture, name, values.get("model_type"), values.get("model_name")))
    for pattern, reason in REFUSED.items():
        if re.search(pattern, stated):
            raise ExpertError(f"{name}: {reason}")
    for family in FAMILIES:
        if family.fits(architecture, name, values):
            return family
    endings = sorted({pattern for family in FAMILIES for pattern in family.architectures if pattern[0] == "*"})
    raise ExpertError(
        f"{name} is a {architecture}, which predicts neither depth, normals, classes of pixels, boxes nor masks, and "
        f"whose features clipzoo does not read: use a model of {', '.join(endings)} or of an architecture that "
        "docs/experts.md lists"
    )


# Rows --------------------------------------------------------------------------------------------------------

EOMT = ("EomtForUniversalSegmentation", "EomtDinov3ForUniversalSegmentation")
ANY_SEMANTIC = ("*ForSemanticSegmentation",)
REFUSED: Mapping[str, str] = {
    r"(?i)depth[-_]?anything[-_]?v?3|(?:^|[ /])da3\b": (
        "transformers 5.24 has no Depth Anything 3, so its files cannot be loaded: use Depth Anything 2 "
        "(hf:depth-anything/Depth-Anything-V2-Small-hf), or write a python: expert around the package depth_anything_3 "
        "(docs/experts.md)"
    ),
    "^Sapiens2For(?:Pointmap|Pose|ImageMatting|Matting)": (
        "points, poses and mattes of Sapiens2 are no labels of clipzoo: use its models of normals or segmentation"
    ),
}
"""Pattern of an architecture, name or type of model -> the reason why it is refused before a download."""

HEADS: Mapping[str, Mapping[str, str]] = {
    "Tipsv2DptForDensePrediction": {
        "depth": "Tipsv2DptForDepthEstimation",
        "normals": "Tipsv2DptForNormalEstimation",
        "segmentation": "Tipsv2DptForSemanticSegmentation",
    },
}
"""Architecture with several heads -> task of ``?task=`` -> architecture with one of them, which loads the files."""

LIBRARY = "github.com/huggingface/transformers, src/transformers/models"


class _More(TypedDict, total=False):
    """Further conditions of a family."""

    name_pattern: str
    when: Mapping[str, object]
    mode: Mode | None
    threshold: float


def _depth(name: str, architecture: str, kind: Kind | None, source: str, **more: Unpack[_More]) -> HfFamily:
    gives = f"{kind} along z" if kind else "the kind of ?kind=, since files do not state it; along z unless ?along=ray"
    return HfFamily(name, "depth", gives, source, form="depth", architectures=(architecture,), kind=kind, **more)


def _semantic(name: str, architectures: tuple[str, ...], source: str) -> HfFamily:
    gives = "the best class of id2label for every pixel; unknown if that class is called void, unlabeled, ignore or N/A"
    return HfFamily(name, "segmentation", gives, source, form="semantic", architectures=architectures)


def _features(name: str, architectures: tuple[str, ...], source: str) -> HfFamily:
    gives = "directions of the patch tokens of last_hidden_state, without class and register tokens; image squashed"
    return HfFamily(name, "features", gives, source, form="features", architectures=architectures)


def _masks(name: str, architectures: tuple[str, ...], source: str, **more: Unpack[_More]) -> HfFamily:
    gives = (
        "masks with classes of id2label: a class map by votes (semantic), segments (panoptic; unknown where none is "
        "above the threshold), or as a detection, instances with boxes and masks"
    )
    return HfFamily(name, "segmentation", gives, source, form="masks", architectures=architectures, **more)


def _boxes(name: str, architectures: tuple[str, ...], source: str, **more: Unpack[_More]) -> HfFamily:
    gives = "boxes with classes of id2label and scores; boxes of classes that mean 'unknown' are ignored boxes"
    return HfFamily(name, "detection", gives, source, form="boxes", architectures=architectures, **more)


def _prompted(name: str, architectures: tuple[str, ...], form: Form, threshold: float, source: str) -> HfFamily:
    gives = "boxes with scores and classes of ?classes=, whose names are the prompts"
    if form == "concepts":
        gives = gives.replace("boxes", "boxes and masks")
    return HfFamily(name, "detection", gives, source, form=form, architectures=architectures, threshold=threshold)


def _normals(name: str, architecture: str, source: str) -> HfFamily:
    gives = "unit vectors whose axes ?frame= states, since no source does; `clipzoo experts check` tests it"
    return HfFamily(name, "normals", gives, source, form="normals", architectures=(architecture,))


def _boundaries(name: str, architectures: tuple[str, ...], source: str) -> HfFamily:
    gives = "inner borders of the masks of a grid of points, each with the predicted quality (IoU) of its mask"
    return HfFamily(name, "edges", gives, source, form="boundaries", architectures=architectures)


FAMILIES: tuple[HfFamily, ...] = (
    _depth(
        "DPT of Intel (MiDaS 3 and 3.1)", "DPTForDepthEstimation", "affine-disparity",
        "pytorch.org/hub/intelisl_midas_v2: relative inverse depth; Ranftl et al., arXiv 1907.01341, section 5",
        name_pattern=r"Intel/dpt-(?!.*(nyu|kitti))",
    ),
    _depth(
        "DPT", "DPTForDepthEstimation", None,
        "Ranftl et al., arXiv 2103.13413, section 4.1: relative, and fine-tuned to meters on NYUv2 and KITTI",
    ),
    _depth(
        "Depth Anything 2, metric", "DepthAnythingForDepthEstimation", "metric",
        "github.com/DepthAnything/Depth-Anything-V2, metric_depth/dataset/hypersim.py: distances converted to depths "
        "along z",
        when={"depth_estimation_type": "metric"},
    ),
    _depth(
        "Depth Anything 1 and 2", "DepthAnythingForDepthEstimation", "affine-disparity",
        "Yang et al., arXiv 2401.10891, section 3.1 (disparity, up to scale and shift), and arXiv 2406.09414",
    ),
    _depth(
        "Prompt Depth Anything, metric", "PromptDepthAnythingForDepthEstimation", "metric",
        f"{LIBRARY}/prompt_depth_anything/configuration_prompt_depth_anything.py: depth_estimation_type; trained with "
        "a sensor's coarse depth as a second input (Lin et al., arXiv 2412.14015), which is not used here",
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
        "github.com/apple/ml-depth-pro, src/depth_pro/depth_pro.py: canonical inverse depth, in meters up to the focal "
        "length",
    ),
    _depth("any other …ForDepthEstimation", "*ForDepthEstimation", None, "the model's card"),
    _normals(
        "Sapiens2, normals", "Sapiens2ForNormalEstimation",
        f"{LIBRARY}/sapiens2/image_processing_sapiens2.py: camera coordinates, XYZ; axes are not stated there, nor in "
        "github.com/facebookresearch/sapiens, issues 50 and 201. Trained on pixels of people only",
    ),
    _normals(
        "TIPSv2 with a DPT head, normals", "Tipsv2DptForNormalEstimation",
        f"{LIBRARY}/tipsv2_dpt/image_processing_tipsv2_dpt.py: XYZ; axes are not stated",
    ),
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
    _semantic(
        "TIPSv2 with a DPT head, semantic", ("Tipsv2DptForSemanticSegmentation",),
        f"{LIBRARY}/tipsv2_dpt/image_processing_tipsv2_dpt.py",
    ),
    _semantic(
        "Sapiens2, body parts", ("Sapiens2ForSemanticSegmentation",),
        f"{LIBRARY}/sapiens2/image_processing_sapiens2.py",
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
        "Jain et al., arXiv 2211.06220, section 3.1: a task input selects the mode; "
        f"{LIBRARY}/oneformer/image_processing_oneformer.py",
    ),
    _masks(
        "EoMT, semantic", EOMT,
        f"Kerssies et al., arXiv 2503.19108; {LIBRARY}/eomt/image_processing_eomt.py: semantic models use windows",
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
        f"Carion et al., arXiv 2005.12872, section 3; {LIBRARY}/detr/image_processing_detr.py: the last logit is "
        "no object",
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
        "RF-DETR", ("RfDetrForObjectDetection",),
        f"Robinson et al., arXiv 2511.09554; {LIBRARY}/rf_detr/image_processing_rf_detr.py: sigmoid, one class per box",
    ),
    HfFamily(
        "RF-DETR, instances", "detection",
        "boxes with masks, classes of id2label and scores; boxes of classes that mean 'unknown' are ignored boxes",
        f"{LIBRARY}/rf_detr/image_processing_rf_detr.py: boxes, and masks where the enlarged logit is above 0",
        form="instances", architectures=("RfDetrForInstanceSegmentation",),
    ),
    _boxes(
        "LW-DETR", ("LwDetrForObjectDetection",),
        f"Chen et al., arXiv 2406.03459; {LIBRARY}/deformable_detr/image_processing_deformable_detr.py: sigmoid",
    ),
    _boxes(
        "DEIMv2", ("Deimv2ForObjectDetection",),
        f"Huang et al., arXiv 2509.20787; {LIBRARY}/rt_detr/image_processing_rt_detr.py",
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
        f"Minderer et al., arXiv 2306.09683; {LIBRARY}/owlv2/image_processing_owlv2.py: boxes in the padded square",
    ),
    _prompted(
        "Grounding DINO", ("GroundingDinoForObjectDetection", "MMGroundingDinoForObjectDetection"), "grounding", 0.25,
        "Liu et al., arXiv 2303.05499, section 3.5: a logit for each token of the text; tokens belong to classes as in "
        "github.com/IDEA-Research/GroundingDINO, demo/test_ap_on_coco.py, which takes their mean, not the largest",
    ),
    _prompted(
        "OmDet-Turbo", ("OmDetTurboForObjectDetection",), "omdet", 0.3,
        f"Zhao et al., arXiv 2403.06892; {LIBRARY}/omdet_turbo/processing_omdet_turbo.py: sigmoid, boxes of one class "
        "that overlap by more than 0.5 are removed",
    ),
    _prompted(
        "SAM 3", ("Sam3Model", "Sam3VideoModel"), "concepts", 0.3,
        f"Carion et al., arXiv 2511.16719; {LIBRARY}/sam3/image_processing_sam3.py: score of the query times presence "
        "of the concept",
    ),
    _boundaries(
        "SAM", ("SamModel",),
        "Kirillov et al., arXiv 2304.02643, section 7.2 and appendix D.2 (edges of masks); "
        f"{LIBRARY}/sam/image_processing_sam.py",
    ),
    _boundaries(
        "SAM 2", ("Sam2Model", "Sam2VideoModel"),
        f"Ravi et al., arXiv 2408.00714; {LIBRARY}/sam2/image_processing_sam2.py",
    ),
    _boundaries(
        "SAM-HQ", ("SamHQModel",), f"Ke et al., arXiv 2306.01567; {LIBRARY}/sam/image_processing_sam.py"
    ),
    _boundaries(
        "SAM 3, masks of points", ("Sam3TrackerModel",),
        f"Carion et al., arXiv 2511.16719; {LIBRARY}/sam3/image_processing_sam3.py",
    ),
    _features(
        "DINOv2", ("Dinov2Model", "Dinov2WithRegistersModel"),
        f"Oquab et al., arXiv 2304.07193; {LIBRARY}/dinov2/modeling_dinov2.py: a class token, registers, then patches",
    ),
    _features(
        "DINOv3 ViT", ("DINOv3ViTModel",),
        f"Siméoni et al., arXiv 2508.10104; {LIBRARY}/dinov3_vit/modeling_dinov3_vit.py",
    ),
    _features(
        "SigLIP 1, and SigLIP 2 of fixed sizes", ("SiglipModel", "SiglipVisionModel"),
        f"Tschannen et al., arXiv 2502.14786; {LIBRARY}/siglip/modeling_siglip.py: patches only",
    ),
    _features(
        "CLIP", ("CLIPModel", "CLIPVisionModel"),
        f"Radford et al., arXiv 2103.00020; {LIBRARY}/clip/modeling_clip.py: a class token, then patches",
    ),
    _boxes("any other …ForObjectDetection", ("*ForObjectDetection",), "the model's card"),
)  # fmt: skip
