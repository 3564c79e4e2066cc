"""Image sizes of vision towers: position embeddings are interpolated as in OpenCLIP and timm, from any grid to any."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor, nn

from clipzoo.errors import CheckpointError

if TYPE_CHECKING:
    from clipzoo.models._open_clip import Clip

Size = tuple[int, int]
RESNET_STRIDE = 32
_POSITIONS = re.compile(r"pos_embed$|relative_position|rel_pos")


def size_of(clip: Clip) -> Size:
    """Return the image size (H, W) of an OpenCLIP model."""
    size = clip.visual.image_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


@torch.no_grad()
def resize(clip: Clip, size: Size, name: str) -> None:
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


def follow(clip: Clip) -> None:
    """Give timm's tower the image size of the configuration, which open_clip_torch 3.3 does not tell it."""
    trunk = getattr(clip.visual, "trunk", None)
    own = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    if own is not None and tuple(own) != size_of(clip) and hasattr(trunk, "set_input_size"):
        clip.visual.set_input_size(size_of(clip))


def check_seen(clip: Clip, size: Size, name: str) -> None:
    """Raise `CheckpointError` if the vision tower cannot see images of a size without being resized; see `seeing`."""
    visual = clip.visual
    if size == size_of(clip):
        return
    if isinstance(visual, VisionTransformer):
        _check_patches(size, visual.patch_size, name)
    elif isinstance(visual, ModifiedResNet):
        _check_stride(size, name)
    elif not isinstance(visual, TimmModel):
        raise _refused(name, size, f"its vision tower is a {type(visual).__name__}")
    elif _has_positions(visual):
        trunk = visual.trunk
        if not isinstance(trunk, TimmTransformer) or getattr(trunk, "rope", None) is not None:
            raise _refused(name, size, f"positions of a {type(trunk).__name__} of timm are made for one size")
        _check_patches(size, trunk.patch_embed.patch_size, name)


@contextmanager
def seeing(clip: Clip, size: Size) -> Iterator[None]:
    """Let the vision tower see images of a size (H, W) in a ``with`` block.

    Its positions are interpolated as in `resize`; gradients flow through the interpolation.
    """
    visual = clip.visual
    if size == size_of(clip) or (isinstance(visual, TimmModel) and not _has_positions(visual)):
        yield
    elif isinstance(visual, TimmModel):
        trunk = visual.trunk
        patches, before = trunk.patch_embed, trunk.patch_embed.strict_img_size
        grid, prefix = patches.dynamic_feat_size(size), 0 if trunk.no_embed_class else trunk.num_prefix_tokens
        positions = resample_abs_pos_embed(trunk.pos_embed, list(grid), list(patches.grid_size), prefix)
        patches.strict_img_size = False
        with _replaced(trunk, "pos_embed", positions):
            try:
                yield
            finally:
                patches.strict_img_size = before
    else:
        owner, patch = _embedding(visual)
        grids = [(s[0] // patch[0], s[1] // patch[1]) for s in (size_of(clip), size)]
        own = owner.get_parameter("positional_embedding")
        with _replaced(owner, "positional_embedding", torch.cat([own[:1], interpolate(own[1:], *grids)])):
            yield


def _embedding(visual: nn.Module) -> tuple[nn.Module, Size]:
    """Return the module with the position embeddings of a tower, and the image pixels of a position."""
    if isinstance(visual, ModifiedResNet):
        return visual.get_submodule("attnpool"), (RESNET_STRIDE, RESNET_STRIDE)
    assert isinstance(visual, VisionTransformer)
    return visual, visual.patch_size


@contextmanager
def _replaced(module: nn.Module, name: str, value: Tensor) -> Iterator[None]:
    """Use a tensor instead of a parameter in a ``with`` block."""
    own = module._parameters.pop(name)
    module.__dict__[name] = value
    try:
        yield
    finally:
        del module.__dict__[name]
        module._parameters[name] = own


def _has_positions(visual: TimmModel) -> bool:
    """Return True if a tower has position embeddings of a grid; convolutions that encode positions have none."""
    keys = visual.trunk.state_dict()
    return getattr(visual.trunk, "rope", None) is not None or any(_POSITIONS.search(key) for key in keys)


def interpolate(grid: Tensor, before: Size, after: Size) -> Tensor:
    """Resize position embeddings [h·w,C] of a grid ``before`` to one ``after``, bicubic with antialiasing."""
    maps = grid.float().view(1, *before, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, after, mode="bicubic", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(after[0] * after[1], -1).to(grid.dtype)


def _check_patches(size: Size, patch: Size, name: str) -> None:
    if size[0] % patch[0] or size[1] % patch[1]:
        raise _refused(name, size, f"its patches have {patch[0]}×{patch[1]} pixels", "Give multiples of these")


def _check_stride(size: Size, name: str) -> None:
    if size[0] % RESNET_STRIDE or size[1] % RESNET_STRIDE:
        raise _refused(name, size, f"its stride is {RESNET_STRIDE}", "Give a multiple of it")


def _resize_vit(visual: VisionTransformer, size: Size, name: str) -> None:
    patch = visual.patch_size
    _check_patches(size, patch, name)
    grid = size[0] // patch[0], size[1] // patch[1]
    own = visual.positional_embedding
    resized = torch.cat([own[:1], interpolate(own[1:], visual.grid_size, grid)])
    visual.positional_embedding = nn.Parameter(resized, own.requires_grad)
    visual.grid_size = grid


def _resize_resnet(visual: ModifiedResNet, before: Size, size: Size, name: str) -> None:
    if size[0] != size[1]:
        raise _refused(name, size, "OpenCLIP makes its ResNets for square images only", "Give one number")
    _check_stride(size, name)
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
