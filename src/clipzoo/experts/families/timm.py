"""Families of models of timm."""

from clipzoo.experts.base import Family

FAMILIES: tuple[Family, ...] = (
    Family(
        "timm models with forward_intermediates", "features",
        "directions of a layer's map, by default the last, after the final norm; image squashed",
        "github.com/huggingface/pytorch-image-models, timm/models/_features.py",
    ),
)  # fmt: skip
