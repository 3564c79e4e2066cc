"""Making OpenCLIP's models: names are checked first, and no weights are downloaded that are not needed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias, TypedDict

import open_clip
import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.factory import get_model_config
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from transformers import dynamic_module_utils

from clipzoo import plugins
from clipzoo.errors import CheckpointError, brief
from clipzoo.model_schemes import SOURCE
from clipzoo.models import _preprocessing, _sizes, _weights
from clipzoo.models._preprocessing import CONFIG
from clipzoo.progress import no_bars

Clip: TypeAlias = CLIP | CustomTextCLIP
Tokenizer: TypeAlias = SimpleTokenizer | HFTokenizer


class TextConfig(TypedDict, total=False):
    """The fields of a text tower's configuration that are read."""

    hf_tokenizer_name: str
    tokenizer_kwargs: dict[str, object]


class VisionConfig(TypedDict, total=False):
    """The fields of a vision tower's configuration that are read."""

    timm_model_name: str
    timm_pool: str


class ModelConfig(TypedDict, total=False):
    """OpenCLIP's configuration of a model."""

    embed_dim: int
    vision_cfg: VisionConfig
    text_cfg: TextConfig
    quick_gelu: bool


HUB, LOCAL = "hf-hub:", "local-dir:"
HEADS = "clipzoo_heads"
"""Stem of the files of a student's heads."""
CODE = ("trust_remote_code", "code_revision")
"""Keyword arguments of a tokenizer with which transformers runs third-party Python code."""
WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
"""Weights files of a folder in OpenCLIP's order of preference (3.3.0)."""


def make(
    model: str,
    pretrained: str | None,
    random: bool,
    trust_remote_code: bool = False,
    size: tuple[int, int] | None = None,
) -> tuple[Clip, Tokenizer, ModelConfig]:
    """Return the model, its tokenizer and its configuration; arguments as in `Student.create`.

    Raises:
        CheckpointError: OpenCLIP does not know or cannot make the model, its weights do not fit, its configuration
            contradicts its towers, or its tokenizer would run code that is not trusted.
    """
    if ":" not in model:
        check_model(model, pretrained)
    name = shown(model)
    tag = (get_pretrained_cfg(model, pretrained) if pretrained and ":" not in model else None) or {}
    quick_gelu = bool(tag.get("quick_gelu"))  # weights of OpenAI and others were trained with it
    try:
        preprocessing = tag
        if pretrained and not tag and ":" not in model:
            preprocessing = _preprocessing.of_file(model, Path(pretrained))
        config = get_model_config(model)
        options = _tokenizer_options(name, config, trust_remote_code)
        with _unwarned(), _unasked(), no_bars(), _unfetched(model) as place:
            clip = open_clip.create_model(
                place,
                load_weights=False,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
                force_preprocess_cfg={field: value for field, value in preprocessing.items() if field != "size"},
            )
            _sizes.follow(clip)
            clip.visual.preprocess_cfg = _preprocessing.checked(clip.visual.preprocess_cfg, name)
            tokenizer = open_clip.get_tokenizer(model, **options)
            weights = None if random else _weights_file(model, pretrained, tag)
    except CheckpointError:
        raise
    except _weights.FAILS as error:
        raise CheckpointError(_unmade(name, pretrained, error)) from error
    if weights:
        _weights.fit(clip, weights, name)
    if size:
        _sizes.resize(clip, size, name)
        config = {**config, "vision_cfg": {**config["vision_cfg"], "image_size": _compact(size)}}
    _try(name, clip, tokenizer)
    return clip, tokenizer, {**config, **({"quick_gelu": True} if quick_gelu else {})}


def shown(model: str) -> str:
    """Return the name of a model in messages: ``hf:FOLDER`` instead of the temporary folder of its conversion."""
    source = Path(model.removeprefix(LOCAL), SOURCE)
    return source.read_text(encoding="utf-8") if model.startswith(LOCAL) and source.is_file() else model


def ignored(model: str, pretrained: str) -> str:
    """Return the error of a model that has its own weights, and for which others are given."""
    return (
        f"pretrained is {pretrained!r}, but {model} comes with its own weights. Remove pretrained, or name the "
        "architecture of these weights as OpenCLIP does, such as ViT-B-16"
    )


def _compact(size: tuple[int, int]) -> int | list[int]:
    """Return an image size as OpenCLIP's configurations have it; its ResNets take one number only."""
    return size[0] if size[0] == size[1] else list(size)


def weights_are_local(model: str, pretrained: str | None) -> bool:
    """Return True if the weights are on this disk, so that loading them downloads nothing."""
    if ":" in model:
        return model.startswith(LOCAL)
    return pretrained is not None and not get_pretrained_cfg(model, pretrained) and Path(pretrained).is_file()


def _weights_file(model: str, pretrained: str | None, tag: dict[str, object]) -> Path | None:
    """Return the weights file of a model, downloaded if necessary; None for a name without weights."""
    if model.startswith(HUB):
        return Path(download_pretrained_from_hf(model.removeprefix(HUB)))
    if model.startswith(LOCAL):
        folder = Path(model.removeprefix(LOCAL))
        candidates = [folder / name for name in WEIGHTS if (folder / name).is_file()]
        for suffix in ("safetensors", "bin", "pth"):
            candidates += [path for path in sorted(folder.glob(f"*.{suffix}")) if not path.name.startswith(HEADS)]
        if not candidates:
            raise CheckpointError(f"{model} holds no weights. Put {WEIGHTS[0]} into the folder, or set random: true")
        return candidates[0]
    if not pretrained:
        return None
    return Path(download_pretrained(tag) if tag else pretrained)


def _unmade(model: str, pretrained: str | None, error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return _untrusted(model, "its tokenizer or text tower comes with Python code")
    return (
        f"OpenCLIP cannot make the model {model!r} (pretrained={pretrained!r}): {type(error).__name__}: "
        f"{brief(error)}. pretrained is a tag or a weights file; a model is an OpenCLIP name, local-dir:PATH (a folder "
        f"with {CONFIG}) or hf-hub:ID"
    )


def _untrusted(model: str, reason: str) -> str:
    return (
        f"{model} is not loaded: {reason}, which would run with all your rights. Read this code. If you trust it, set "
        "student.trust_remote_code: true in the recipe, or call with trust_remote_code=True. OpenCLIP never runs such "
        "code of a text tower"
    )


def _tokenizer_options(model: str, config: ModelConfig, trust_remote_code: bool) -> dict[str, bool]:
    """Return the tokenizer's options on code; raise `CheckpointError` if its configuration enables untrusted code."""
    text = config["text_cfg"]
    enabled = [name for name, value in (text.get("tokenizer_kwargs") or {}).items() if name in CODE and value]
    if enabled and not trust_remote_code:
        raise CheckpointError(
            _untrusted(model, f"its configuration sets {enabled[0]} for Python code of its tokenizer")
        )
    return {"trust_remote_code": trust_remote_code} if text.get("hf_tokenizer_name") else {}


@torch.no_grad()
def _try(model: str, clip: Clip, tokenizer: Tokenizer) -> None:
    """Encode a blank image and a text: towers of timm and tokenizers may contradict the sizes in the configuration."""
    H, W = _sizes.size_of(clip)
    training = clip.training
    clip.eval()  # does not change the statistics of batch norm
    try:
        clip.encode_image(torch.zeros(1, 3, H, W))
    except _weights.FAILS as error:
        raise CheckpointError(
            f"the vision tower of {model} does not take the {H}×{W} images of its configuration ({brief(error)}). "
            "Set vision_cfg.image_size to the size of the tower, or name a tower of that size. student.size of a "
            "recipe resizes it"
        ) from error
    try:
        clip.encode_text(tokenizer(["a picture"]))
    except _weights.FAILS as error:
        raise CheckpointError(
            f"the text tower of {model} does not accept the tokens of its tokenizer ({type(error).__name__}: "
            f"{brief(error)}). Set text_cfg.context_length and vocab_size to those of the tokenizer"
        ) from error
    clip.train(training)


def check_model(model: str, pretrained: str | None = None) -> None:
    """Raise `CheckpointError` unless OpenCLIP has a model of this name, and weights of this tag or file."""
    if model not in open_clip.list_models():
        raise CheckpointError(
            f"OpenCLIP has no model {model!r}; {plugins.hint(model, open_clip.list_models())} "
            "(other models are local-dir:PATH, hf-hub:ID, hf:FOLDER and demo:clip)"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not (pretrained is None or Path(pretrained).is_file() or get_pretrained_cfg(model, pretrained)):
        similar = plugins.nearest(pretrained, tags)
        raise CheckpointError(
            f"{model} has no weights {pretrained!r}: no such file exists, and its tags are {', '.join(tags) or 'none'}"
            + (f"; {similar}" if similar else "")
        )


@contextmanager
def _unwarned() -> Iterator[None]:
    """Silence OpenCLIP's warning of missing weights, which clipzoo loads afterwards.

    open_clip_torch 3.3 warns on the root logger, 4.2 on the logger of its module.
    """

    def wanted(record: logging.LogRecord) -> bool:
        return "weights" not in record.getMessage()

    loggers = logging.getLogger(), logging.getLogger("open_clip.factory")
    for logger in loggers:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(wanted)


@contextmanager
def _unasked() -> Iterator[None]:
    """Make transformers (5.24) refuse a model's code instead of asking on the terminal."""
    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


@contextmanager
def _unfetched(model: str) -> Iterator[str]:
    """Yield the model's name; for ``hf-hub:`` a folder with only its config, since OpenCLIP would fetch weights."""
    if not model.startswith(HUB):
        yield model
        return
    with TemporaryDirectory() as folder:
        shutil.copyfile(download_pretrained_from_hf(model.removeprefix(HUB), CONFIG), Path(folder, CONFIG))
        yield f"{LOCAL}{folder}"
