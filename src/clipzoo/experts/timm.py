"""Features of timm models: ``timm:<name>[?size=518][&layer=-1][&batch_size=16]``.

All models with ``forward_intermediates``: DINOv2 and DINOv3, SAM's image encoder (``samvit_…``), SigLIP 2, RADIO and
others, by name, ``hf-hub:ORG/NAME`` or ``local-dir:PATH``. Images are resized to one size without keeping their aspect,
so that the map covers the whole image. Maps are taken after the final norm where a model has one and gives such maps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypedDict, cast
from urllib.parse import parse_qsl

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clipzoo.errors import ExpertError, brief
from clipzoo.experts.base import Expert, ExpertCard, sha256
from clipzoo.experts.families.timm import FAMILIES
from clipzoo.experts.hf.options import count, sides
from clipzoo.tasks.base import Convention
from clipzoo.tasks.features import unit
from clipzoo.types import ImageArray, Size

__all__ = ["FAMILIES", "create"]

OPTIONS = ("size", "layer", "batch_size")

WITHOUT_NORM = ("Hiera", "HieraDet")
"""Models whose maps cannot be taken after the final norm (timm 1.0.31, models/hiera.py and hieradet_sam2.py)."""

WEIGHTS = (".safetensors", ".bin", ".pth", ".pth.tar")
"""Endings of files of weights that timm reads in a folder (timm 1.0.31, models/_hub.py)."""


class _Config(TypedDict):
    """timm's preprocessing of a model."""

    input_size: tuple[int, int, int]
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]


class _Model(Protocol):
    """A model of timm with feature maps."""

    feature_info: Sequence[Mapping[str, int]]
    pretrained_cfg: Mapping[str, object]

    def forward_intermediates(
        self, images: Tensor, *, indices: Sequence[int], norm: bool, intermediates_only: bool, output_fmt: str
    ) -> list[Tensor]:
        """Return feature maps."""


def create(name: str) -> TimmExpert:
    """Return the expert of a model's name; its weights are not loaded yet.

    Raises:
        ExpertError: an option is unknown, or timm has no such model, or the model returns no maps.
    """
    model, _, query = name.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    wrong = sorted(set(options) - set(OPTIONS))
    if wrong:
        raise ExpertError(f"timm:{name} has the unknown option {wrong[0]!r}; options are: {', '.join(OPTIONS)}")
    return TimmExpert(model, options, f"timm:{name}")


class TimmExpert(Expert):
    """A vision tower of timm."""

    calls = ("forward_intermediates",)

    def __init__(self, name: str, options: Mapping[str, str], uri: str) -> None:
        from timm.data.config import resolve_model_data_config
        from timm.layers import to_2tuple

        self.name, self.batch_size = name, count(options, "batch_size", 16)
        with torch.device("meta"):
            plain = _made(name, False, None, uri)
        if not hasattr(plain, "forward_intermediates"):
            raise ExpertError(f"{uri}: {type(plain).__name__} has no forward_intermediates: use another model")
        described = cast(_Model, plain)
        self.config: _Config = resolve_model_data_config(plain)
        own = int(self.config["input_size"][1]), int(self.config["input_size"][2])
        self.size: Size = sides(options, "size") if "size" in options else own
        self.resized = self.size if self.size != own and getattr(plain, "patch_embed", None) is not None else None
        depth = len(described.feature_info)
        self.layer = _layer(options.get("layer", "-1"), depth, uri)
        self.norm = type(plain).__name__ not in WITHOUT_NORM
        patch = to_2tuple(getattr(getattr(plain, "patch_embed", None), "patch_size", 1))
        if self.size[0] % patch[0] or self.size[1] % patch[1]:
            raise ExpertError(
                f"{uri}: a size of {self.size[0]}×{self.size[1]} pixels is no multiple of the patch of {patch[0]} "
                "pixels, so that a border of the image would have no features: change ?size="
            )
        facts, info = described.pretrained_cfg, described.feature_info[self.layer]
        self.card = ExpertCard(
            uri,
            "features",
            Convention(channels=int(info.get("num_chs_norm", info["num_chs"]) if self.norm else info["num_chs"])),
            license=str(facts.get("license") or "unknown"),
            revision=str(facts.get("hf_hub_id") or facts.get("url") or ""),
            weights_sha256=_local_digest(name),
            preprocessing={
                "size": list(self.size), "resize": "squash", "interpolation": self.config["interpolation"],
                "mean": list(self.config["mean"]), "std": list(self.config["std"]), "layer": self.layer,
                **({} if self.norm else {"norm": False}),
            },
        )  # fmt: skip
        self._model: nn.Module | None = None
        self._device = "cpu"

    def load(self, device: str = "cpu") -> None:
        """Load the weights; those of a name are downloaded once into the hub's cache."""
        self._model, self._device = _made(self.name, True, self.resized, self.card.uri).eval().to(device), device

    @property
    def module(self) -> nn.Module | None:
        """The model, to which labeling applies precision and memory layout; None before `load`."""
        return self._model

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        """Return the features of each image (uint8 H×W×3 RGB); `ExpertError` before `load`."""
        if self._model is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        pixels = torch.from_numpy(np.stack([self._squash(image) for image in images])).to(self._device)
        mean, std = (torch.tensor(self.config[name], device=self._device).view(1, 3, 1, 1) for name in ("mean", "std"))
        kind = next(self._model.parameters()).dtype
        with torch.inference_mode():
            batch = ((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std).to(kind)
            (maps,) = cast(_Model, self._model).forward_intermediates(
                batch, indices=[self.layer], norm=self.norm, intermediates_only=True, output_fmt="NCHW"
            )
            vectors = maps.float().cpu().numpy()
        return [unit(one, np.ones(one.shape[1:], np.bool_)) for one in vectors]

    def _squash(self, image: ImageArray) -> ImageArray:
        H, W = self.size
        kind = getattr(Image.Resampling, self.config["interpolation"].upper(), Image.Resampling.BICUBIC)
        return np.asarray(Image.fromarray(image).resize((W, H), kind))


def _made(name: str, pretrained: bool, size: Size | None, uri: str) -> nn.Module:
    import timm

    resized = {"img_size": size} if size else {}
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **resized)
    except Exception as error:  # timm and huggingface_hub raise many kinds
        raise ExpertError(
            f"{uri}: timm cannot load this model: {brief(error)}. Correct the name; `timm.list_models()` lists them"
        ) from error
    return model


def _layer(text: str, depth: int, uri: str) -> int:
    """Return the index of a layer, counted from the end if negative."""
    number = text.removeprefix("-")
    if not (number.isascii() and number.isdigit()) or not -depth <= int(text) < depth:
        raise ExpertError(
            f"{uri}: ?layer={text}: the model has {depth} layers; write a number from {-depth} to {depth - 1}"
        )
    return int(text) % depth


def _local_digest(name: str) -> str:
    """Return the digest of the weights of a ``local-dir:``; "" for other names, whose weights timm downloads.

    It covers model.safetensors alone if there is one, since timm prefers it, and otherwise every file of weights.
    """
    scheme, colon, folder = name.partition(":")
    if not colon or scheme != "local-dir":
        return ""
    path = Path(folder) / "model.safetensors"
    others = (one for one in Path(folder).iterdir() if one.name.endswith(WEIGHTS) and one.is_file())
    paths = [path] if path.is_file() else sorted(others)
    digests = [sha256(one) for one in paths]
    if len(digests) < 2:
        return "".join(digests)
    listed = "".join(f"{one.name} {digest}\n" for one, digest in zip(paths, digests, strict=True))
    return hashlib.sha256(listed.encode()).hexdigest()
