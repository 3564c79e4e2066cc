"""The student: any OpenCLIP model, its feature maps, and light heads on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import torch
from open_clip.modified_resnet import ModifiedResNet
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clipzoo import files, heads, model_schemes
from clipzoo.errors import CheckpointError, ImageError, RecipeError
from clipzoo.files import AnyPath
from clipzoo.models import _folder, _layout, _open_clip, _sizes, dense, segments
from clipzoo.models._open_clip import HEADS, Clip, ModelConfig, Tokenizer
from clipzoo.models._preprocessing import CONFIG, CROPS, Preprocessing
from clipzoo.models._weights import FAILS
from clipzoo.models.head_spec import HeadSpec, build_head
from clipzoo.models.segments import TEMPLATES, Segments
from clipzoo.types import ImageArray


@dataclass(frozen=True, slots=True)
class Tokenize:
    """Tokenizer of OpenCLIP as a picklable callable, so that workers receive it without the student."""

    tokenizer: Tokenizer

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, int64 [B,L] on the CPU, padded and truncated to the L tokens of the text tower."""
        texts = [texts] if isinstance(texts, str) else texts
        if not texts:  # tokenizers fail on an empty list
            return torch.zeros(0, self.tokenizer.context_length, dtype=torch.int64)
        ids: Tensor = self.tokenizer(list(texts))
        return ids


class Outputs(TypedDict, total=False):
    """The outputs of a student; see `Student.forward`."""

    image_features: Tensor
    text_features: Tensor
    logit_scale: Tensor
    logit_bias: Tensor
    predictions: dict[str, Tensor]
    maps: list[Tensor]
    image_intermediates: list[Tensor]
    text_intermediates: list[Tensor]


class Student(nn.Module):
    """An OpenCLIP model plus heads by column name.

    Images are uint8 [B,H,W,3] RGB of `image_size`; the student normalizes them. ``tokenize`` returns token ids.

    Args:
        clip: an OpenCLIP model with ``forward_intermediates``.
        tokenizer: its tokenizer.
        config: its OpenCLIP model configuration, which `save` writes next to the weights.
        specs: column -> head to build.
        layers: tapped layers of the vision tower, as ``forward_intermediates`` counts them; negative numbers count from
            the end.
        trust_remote_code: allow its tokenizer to run its own code when the student is loaded again.
    """

    mean: Tensor
    std: Tensor
    clip: Clip
    returns_maps = False
    """True if `forward` returns the tapped maps, too."""

    def __init__(
        self,
        clip: Clip,
        tokenizer: Tokenizer,
        config: ModelConfig,
        specs: Mapping[str, HeadSpec] | None = None,
        layers: Sequence[int] = (-1,),
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.config = clip, tokenizer, config.copy()
        self.trust_remote_code = trust_remote_code
        self.tokenize = Tokenize(tokenizer)
        self.fixed = {name for name, p in self.named_parameters() if not p.requires_grad}  # sin_cos_2d
        self.specs, self.layers = dict(specs or {}), tuple(layers)
        preprocess = self.preprocess_cfg
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(preprocess[name]).view(1, 3, 1, 1), persistent=False)
        maps = self.probe_maps() if self.specs else []
        built = {_module_name(column): build_head(column, spec, maps) for column, spec in self.specs.items()}
        self.heads = nn.ModuleDict(built)

    @classmethod
    def create(
        cls,
        model: str,
        pretrained: str | None = None,
        specs: Mapping[str, HeadSpec] | None = None,
        layers: Sequence[int] = (-1,),
        random: bool = False,
        trust_remote_code: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Student:
        """Return the student of a model such as ``ViT-B-16``, ``local-dir:PATH``, ``hf-hub:ID`` or ``demo:clip``.

        Args:
            model: argument of ``open_clip.create_model``, or of a scheme (`clipzoo.model_schemes`); a folder's heads
                are not loaded (see `load`).
            pretrained: pretrained tag or weights file for an OpenCLIP name; None starts from random weights. The file
                may be a checkpoint of another trainer: prefixes such as ``module.``, another precision and an optimizer
                in the same file are handled. Its preprocessing is that of an ``open_clip_config.json`` next to it, else
                that of the model's tags if they all agree. Refused for folders and hub models, which have their own
                weights.
            specs: column -> head to build.
            layers: tapped layers of the vision tower.
            random: start from random weights; none are downloaded. Only activation and preprocessing are those of the
                tag ``pretrained``.
            trust_remote_code: allow its tokenizer to run Python code that comes with the model.
            size: image size (H, W) of the vision tower, whose position embeddings are interpolated; None keeps its own.

        Raises:
            CheckpointError: OpenCLIP does not know or cannot load the model, its weights belong to another
                architecture, it would run code that is not trusted, or it has no such layers.
            RecipeError: a head or its loss cannot be made.
        """
        if pretrained and ":" in model:
            raise CheckpointError(_open_clip.ignored(model, pretrained))
        model = model_schemes.resolve(model)
        clip, tokenizer, config = _open_clip.make(model, pretrained, random, trust_remote_code, size)
        _layout.channels_last(clip.visual)  # images are H×W×3; convolutions keep that order
        try:
            return cls(clip, tokenizer, config, specs, layers, trust_remote_code)
        except RecipeError:
            raise
        except (AssertionError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{_open_clip.shown(model)} has no layers {list(layers)} ({error}). Correct student.layers: layers "
                "count from 0, and negative numbers from the end"
            ) from error

    @property
    def preprocess_cfg(self) -> Preprocessing:
        """OpenCLIP's preprocessing of this model: size, mean, std, interpolation and resize_mode."""
        own: Preprocessing = self.clip.visual.preprocess_cfg
        return own.copy()

    @property
    def image_size(self) -> tuple[int, int]:
        """Image size (H, W) of the vision tower, in pixels."""
        return _sizes.size_of(self.clip)

    @property
    def crop(self) -> Literal["whole", "center", "padded"]:
        """Part of an image that its preprocessing keeps: the whole image, squashed or padded, or a centered crop."""
        return CROPS[self.preprocess_cfg["resize_mode"]]

    def normalize(self, images: Tensor) -> Tensor:
        """Convert uint8 [B,H,W,3] to float [B,3,H,W], normalized with the model's mean and standard deviation.

        Raises:
            ImageError: the images have another type or order.
        """
        if images.dtype != torch.uint8 or images.shape[-1] != 3:
            raise ImageError(
                f"images of {images.dtype} {list(images.shape)} are not uint8 [B,H,W,3]. The student normalizes images "
                "itself: give the pixels from 0 to 255, with the channels last"
            )
        return (images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0 - self.mean) / self.std

    def forward(self, images: Tensor, tokens: Tensor | None = None) -> Outputs:
        """Return all inputs of the losses.

        Args:
            images: uint8 [B,H,W,3], of `image_size` or of another size that `check_size` allows.
            tokens: int64 [B,L], or None for images only.

        Returns:
            ``image_features`` and ``text_features`` [B,D] of unit length, ``logit_scale`` (and ``logit_bias``),
            ``predictions``: column -> raw [B,C,h,w]; with `returns_maps`, ``maps``: those of the tapped layers.
        """
        out = _forward(self.clip, self.normalize(images), tokens, self.layers)
        maps = heads.Maps(out.pop("image_intermediates"))
        out["predictions"] = {column: self.heads[_module_name(column)](maps) for column in self.specs}
        out.pop("text_intermediates", None)
        if self.returns_maps:
            out["maps"] = maps
        return out

    def maps(self, images: Tensor, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Return feature maps [B,C,h,w] of the tapped (or given) layers, shallow to deep."""
        return _forward(self.clip, self.normalize(images), None, layers or self.layers)["image_intermediates"]

    def check_size(self, size: tuple[int, int], name: str) -> None:
        """Raise `CheckpointError` if `forward` cannot take images of a size (H, W); ``name`` is that of the model."""
        _sizes.check_seen(self.clip, size, name)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return unit-length embeddings [B,D] of uint8 images [B,H,W,3]."""
        out: Tensor = self.clip.encode_image(self.normalize(images), normalize=True)
        return out

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return unit-length embeddings [B,D] of one or several texts, on the student's device."""
        texts = [texts] if isinstance(texts, str) else texts
        if not texts:  # the attention of open_clip_torch 4.2.0.dev0 needs at least one
            return self.mean.new_zeros(0, self.config["embed_dim"])
        out: Tensor = self.clip.encode_text(self.tokenize(texts).to(self.mean.device), normalize=True)
        return out

    def check_dense(self, variant: str = dense.DEFAULT) -> None:
        """Raise `CheckpointError` if a variant of `encode_dense` is not defined for the vision tower."""
        dense.check(self.clip.visual, variant)

    def encode_dense(self, images: Tensor, variant: str = dense.DEFAULT, size: tuple[int, int] | None = None) -> Tensor:
        """Return the embeddings of patches in the space of texts, unit vectors [B,D,h,w] (docs/evaluation.md).

        Images are uint8 [B,H,W,3] of ``size`` (H, W), to which positions are interpolated; None is `image_size`. The
        variant is a file of ``clipzoo/models/dense/``; `CheckpointError` if the tower does not have it, or this size.
        """
        return dense.embeddings(dense.resized(self.clip.visual, size), self.normalize(images), variant)

    def segment(
        self,
        image: ImageArray,
        names: Sequence[str],
        templates: Sequence[str] = TEMPLATES,
        size: tuple[int, int] | None = None,
        variant: str = dense.DEFAULT,
    ) -> Segments:
        """Return the most similar of some names for each pixel of an image; see `clipzoo.models.segment`."""
        return segments.segment(self, image, names, templates, size, variant)

    def train(self, mode: bool = True) -> Student:
        """Set training or evaluation mode. Batch norms whose weights are locked stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and module.weight is not None and not module.weight.requires_grad:
                module.eval()
        return self

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Return named parameters by part: ``heads``, ``image`` (vision tower), ``text`` (all others)."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {"heads": [], "image": [], "text": []}
        for name, parameter in self.named_parameters():
            part = "heads" if name.startswith("heads.") else "image" if ".visual." in name else "text"
            groups[part].append((name, parameter))
        return groups

    def save(self, folder: AnyPath, heads: bool = True) -> None:
        """Write an OpenCLIP ``local-dir:`` folder; ``heads`` adds the files of the heads.

        Raises:
            OSError: the disk refuses it.
        """
        folder = files.local(folder, "a student")
        folder.mkdir(parents=True, exist_ok=True)
        with _folder.disk_errors(folder):
            _folder.write_model(folder, self.clip, self.config, self.preprocess_cfg)
            _folder.write_tokenizer(folder, self.tokenizer)
            if heads:
                _folder.write_heads(folder, self.layers, self.specs, self.heads)

    @classmethod
    def load(cls, folder: AnyPath, trust_remote_code: bool = False) -> Student:
        """Return the student that `save` wrote, on the CPU, with its heads if they were saved.

        Args:
            folder: folder of the student.
            trust_remote_code: allow its tokenizer to run Python code that comes with it.

        Raises:
            CheckpointError: the folder holds no student, a file is damaged, OpenCLIP cannot load the model, or its
                heads do not fit the model.
        """
        folder = files.local(folder, "a student")
        if not folder.exists():
            raise CheckpointError(f"{files.missing(folder)}. Give the folder of a student or run")
        if not (folder / CONFIG).is_file():
            raise CheckpointError(
                f"{folder} holds no {CONFIG}, so it is not the folder of a student. Give a folder such as "
                "RUN/arms/clipzoo/0/student, or one that `clipzoo export` wrote"
            )
        layers, specs = _folder.read_heads(folder / f"{HEADS}.json")
        try:
            student = cls.create(f"local-dir:{folder}", specs=specs, layers=layers, trust_remote_code=trust_remote_code)
        except RecipeError as error:
            raise CheckpointError(f"the heads of {folder / HEADS}.json cannot be made: {error}") from error
        if specs:
            _load_heads(student.heads, folder / f"{HEADS}.safetensors")
        return student

    @torch.no_grad()
    def probe_maps(self, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Return the maps of a black image, on the CPU; the student does not change."""
        training = self.clip.training
        self.clip.eval()  # does not change the statistics of batch norm
        maps = self.maps(torch.zeros(1, *self.image_size, 3, dtype=torch.uint8), layers)
        self.clip.train(training)
        return maps


def _forward(clip: Clip, pixels: Tensor, tokens: Tensor | None, layers: Sequence[int]) -> Outputs:
    """Return the outputs of a model for normalized images [B,3,H,W], with the maps of layers."""
    # OpenCLIP's ModifiedResNet stops at the deepest requested layer and pools it, so always request the last one.
    cut = isinstance(clip.visual, ModifiedResNet) and not {4, -1} & set(layers)
    # OpenCLIP's towers of Hugging Face have no forward_intermediates (3.3.0).
    apart = tokens is not None and not hasattr(getattr(clip, "text", clip), "forward_intermediates")
    with _sizes.seeing(clip, (pixels.shape[2], pixels.shape[3])):
        out: Outputs = clip.forward_intermediates(
            pixels,
            None if apart else tokens,
            image_indices=[*layers, -1] if cut else list(layers),
            text_indices=[-1],  # None would keep every layer's tokens alive
            image_output_fmt="NCHW",
            output_logit_scale_bias=True,
        )
    if cut:
        out["image_intermediates"].pop()
    if apart:
        out["text_features"] = clip.encode_text(tokens, normalize=True)
    if (bias := out.get("logit_bias")) is not None and bias.is_leaf:
        out["logit_bias"] = bias.clone()  # DDP and FSDP2 expect outputs that are computed
    return out


def _module_name(column: str) -> str:
    return column.replace(".", "_")  # ModuleDict takes no dots


def check_layers(student: Student, layers: Sequence[int], name: str) -> None:
    """Raise `RecipeError` unless the vision tower, on the CPU, has these layers; ``name`` is the recipe's field."""
    try:
        student.probe_maps(layers)
    except (AssertionError, IndexError, ValueError) as error:
        raise RecipeError(
            f"{name} is {list(layers)}, and the vision tower has no such layers ({error}). Correct {name}: layers "
            "count from 0, and negative numbers from the end"
        ) from error


def _load_heads(heads: nn.Module, path: Path) -> None:
    try:
        heads.load_state_dict(load_file(path))
    except (SafetensorError, *FAILS) as error:
        why = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} is damaged, or it does not fit the heads in {HEADS}.json: {why[:300]}. Restore both files from a "
            "copy, or export the student again"
        ) from error
