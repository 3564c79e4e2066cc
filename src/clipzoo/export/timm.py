"""Export of the image tower to a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from PIL import Image
from torch import Tensor, nn

from clipzoo.export._timm_tower import tower_of, write_tower
from clipzoo.export.base import Preprocess, Source, compare_images, library_of, refused
from clipzoo.types import ImageArray

LIBRARY = "timm"
LIMIT = 1e-5
HEADS = False

USAGE = """The image tower alone; its output is the image embedding before normalization.

```python
import timm

{folder}
model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
```"""
FEATURES = """

`timm.create_model("local-dir:" + folder, pretrained=True, features_only=True)` returns its feature maps."""


def check(source: Source) -> None:
    """Refuse heads, and towers that timm does not have."""
    if source.heads:
        raise refused("timm", "timm has no dense heads", "Omit --heads, or export them with --to onnx")
    tower_of(source.student, "timm")


def write(source: Source, folder: Path) -> str:
    """Write the configuration and the weights of the tower."""
    write_tower(tower_of(source.student, "timm"), source.student, folder)
    return USAGE + (FEATURES if _features(folder) is not None else "")


def _features(folder: Path) -> nn.Module | None:
    """Return timm's model of the last feature map; None if the architecture has none."""
    try:
        model: nn.Module = timm.create_model(
            f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=[-1]
        )
        return model.eval()
    except (
        RuntimeError,
        AttributeError,
        AssertionError,
        KeyError,
        TypeError,
    ):  # each architecture refuses it differently
        return None


@torch.no_grad()
def compare(source: Source, folder: Path) -> dict[str, object]:
    """Compare timm's model of the folder with the student's image tower.

    Returns:
        the values of `compare_images`; ``feature_maps``: the largest difference of the last feature map of
        ``features_only`` from the student's, relative to its largest value, or None if there is no such model.
    """
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    def preprocess(images: Sequence[ImageArray]) -> Tensor:
        return torch.stack([transform(Image.fromarray(image)) for image in images])

    return {
        "library": library_of("timm"),
        **compare_images(source, preprocess, model),
        "feature_maps": _difference(source, _features(folder), preprocess),
    }


def _difference(source: Source, features: nn.Module | None, preprocess: Preprocess) -> float | None:
    """Return the relative difference of the last feature map; None without a model or with maps of another size."""
    if features is None:
        return None
    inputs = preprocess(source.views[:4])
    theirs = features(inputs)[-1]
    mine = source.student.clip.visual.forward_intermediates(inputs, indices=[-1], output_fmt="NCHW")
    last = mine["image_intermediates"][-1]
    if theirs.shape != last.shape:
        return None
    return float((theirs - last).abs().max() / last.abs().max())
