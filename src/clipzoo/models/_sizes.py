"""Image sizes of vision towers: position embeddings are interpolated as in OpenCLIP and timm, from any grid to any."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from clipzoo.errors import CheckpointError

Size = tuple[int, int]
RESNET_STRIDE = 32


def size_of(clip: Any) -> Size:
    """Return the image size (H, W) of an OpenCLIP model."""
    size = clip.visual.image_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


@torch.no_grad()
def resize(clip: Any, size: Size, name: str) -> None:
    """Change the image size of an OpenCLIP model in place.

    Args:
        clip: the model, with its weights.
        size: (H, W) in pixels.
        name: name of the model in messages.

    Raises:
        CheckpointError: the vision tower does not support the size.
    """
    visual, before = clip.visual, size_of(clip)
    if size == before:
        return
    if isinstance(visual, VisionTransformer):
        _resize_vit(visual, size, name)
    elif isinstance(visual, ModifiedResNet):
        _resize_resnet(visual, before, size, name)
    elif isinstance(visual, TimmModel):
        _resize_timm(visual, size, name)
    else:
        raise _refused(name, size, f"its vision tower is a {type(visual).__name__}")
    visual.image_size = size
    visual.preprocess_cfg["size"] = size


def follow(clip: Any) -> None:
    """Give timm's tower the image size of the configuration, which open_clip_torch 3.3 does not tell it."""
    trunk = getattr(clip.visual, "trunk", None)
    own = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    if own is not None and tuple(own) != size_of(clip) and hasattr(trunk, "set_input_size"):
        clip.visual.set_input_size(size_of(clip))


def interpolate(grid: Tensor, before: Size, after: Size) -> Tensor:
    """Resize position embeddings [h·w,C] of a grid ``before`` to one ``after``, bicubic with antialiasing."""
    maps = grid.float().view(1, *before, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, after, mode="bicubic", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(after[0] * after[1], -1).to(grid.dtype)


def _resize_vit(visual: VisionTransformer, size: Size, name: str) -> None:
    patch = visual.patch_size
    if size[0] % patch[0] or size[1] % patch[1]:
        raise _refused(name, size, f"its patches have {patch[0]}×{patch[1]} pixels", "Give multiples of these")
    grid = size[0] // patch[0], size[1] // patch[1]
    own = visual.positional_embedding
    resized = torch.cat([own[:1], interpolate(own[1:], visual.grid_size, grid)])
    visual.positional_embedding = nn.Parameter(resized, own.requires_grad)
    visual.grid_size = grid


def _resize_resnet(visual: ModifiedResNet, before: Size, size: Size, name: str) -> None:
    if size[0] != size[1]:
        raise _refused(name, size, "OpenCLIP makes its ResNets for square images only", "Give one number")
    if size[0] % RESNET_STRIDE:
        raise _refused(name, size, f"its stride is {RESNET_STRIDE}", "Give a multiple of it")
    own = visual.attnpool.positional_embedding
    grids = [(s[0] // RESNET_STRIDE, s[1] // RESNET_STRIDE) for s in (before, size)]
    visual.attnpool.positional_embedding = nn.Parameter(torch.cat([own[:1], interpolate(own[1:], *grids)]))


def _resize_timm(visual: TimmModel, size: Size, name: str) -> None:
    shapes = {key: value.shape for key, value in visual.trunk.state_dict().items()}
    if any("relative_position" in key or "rel_pos" in key for key in shapes):
        raise _refused(name, size, "its timm tower has relative positions, which are trained for one size")
    try:
        visual.set_input_size(size)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _refused(name, size, f"timm does not support it ({error})") from error
    now = {key: value.shape for key, value in visual.trunk.state_dict().items()}
    changed = [key for key in now if now[key] != shapes.get(key) and key != "pos_embed"]
    if changed:
        raise _refused(name, size, f"it would change {changed[0]} of its timm tower, too")


def _refused(
    name: str, size: Size, reason: str, fix: str = "Remove student.size, or give another size"
) -> CheckpointError:
    return CheckpointError(f"{name} does not support images of {size[0]}×{size[1]} pixels: {reason}. {fix}")
