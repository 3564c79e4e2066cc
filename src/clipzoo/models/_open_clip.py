"""OpenCLIP's models, checked by name before they are made, and made without fetching weights that are not wanted."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
from open_clip.factory import get_model_config
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg
from transformers import dynamic_module_utils

from clipzoo import plugins
from clipzoo.errors import CheckpointError, brief
from clipzoo.models import _weights
from clipzoo.progress import no_bars

CONFIG = "open_clip_config.json"
HUB, LOCAL = "hf-hub:", "local-dir:"
HEADS = "clipzoo_heads"
"""How the files of a student's heads begin."""
CODE = ("trust_remote_code", "code_revision")
"""Keywords of a tokenizer with which transformers runs Python code of others."""
WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
"""Files of a folder that OpenCLIP (3.3.0) takes its weights from, the first first."""


def make(
    model: str, pretrained: str | None, random: bool, trust_remote_code: bool = False
) -> tuple[Any, Any, dict[str, Any]]:
    """The model, its tokenizer and its configuration; arguments as of `Student.create`.

    Raises:
        CheckpointError: OpenCLIP does not know or cannot make the model, its weights do not fit, it does not take what
            its configuration says, or its tokenizer would run code that is not trusted.
    """
    if ":" not in model:
        check_model(model, pretrained)
    tag = (get_pretrained_cfg(model, pretrained) if pretrained and ":" not in model else None) or {}
    quick_gelu = bool(tag.get("quick_gelu"))  # OpenAI's weights and others were trained with it
    try:
        config = get_model_config(model)
        options = _tokenizer_options(model, config, trust_remote_code)
        with _unwarned(), _unasked(), no_bars(), _unfetched(model) as place:
            clip = open_clip.create_model(
                place,
                load_weights=False,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
                force_preprocess_cfg={name: value for name, value in tag.items() if name != "size"},
            )
            tokenizer = open_clip.get_tokenizer(model, **options)
            weights = None if random else _weights_file(model, pretrained, tag)
    except CheckpointError:
        raise
    except _weights.FAILS as error:
        raise CheckpointError(_unmade(model, pretrained, error)) from error
    if weights:
        _weights.fit(clip, weights, model)
    _try(model, clip, tokenizer)
    return clip, tokenizer, {**config, **({"quick_gelu": True} if quick_gelu else {})}


def here(model: str, pretrained: str | None) -> bool:
    """Whether the weights are on this disk, so that to look at them fetches nothing."""
    if ":" in model:
        return model.startswith(LOCAL)
    return pretrained is not None and not get_pretrained_cfg(model, pretrained) and Path(pretrained).is_file()


def _weights_file(model: str, pretrained: str | None, tag: dict[str, Any]) -> Path | None:
    """Where the weights of a model are, fetched if need be; None for a plain name without any."""
    if model.startswith(HUB):
        return Path(download_pretrained_from_hf(model.removeprefix(HUB)))
    if model.startswith(LOCAL):
        folder = Path(model.removeprefix(LOCAL))
        others = [one for end in ("safetensors", "bin", "pth") for one in sorted(folder.glob(f"*.{end}"))]
        named = [folder / name for name in WEIGHTS if (folder / name).is_file()]
        if not (found := named + [one for one in others if not one.name.startswith(HEADS)]):
            raise CheckpointError(f"{model} holds no weights: put {WEIGHTS[0]} into the folder, or take random: true")
        return found[0]
    return Path(download_pretrained(tag) if tag else pretrained) if pretrained else None


def _unmade(model: str, pretrained: str | None, error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return _code(model, "its tokenizer or text tower comes with Python code")
    return (
        f"OpenCLIP cannot make the model {model!r} (pretrained={pretrained!r}): {type(error).__name__}: {brief(error)}"
        f"; weights may be a file, too, and a model local-dir:PATH, a folder with {CONFIG}, or hf-hub:ID"
    )


def _code(model: str, what: str) -> str:
    return (
        f"{model} is not loaded, for {what}, which would run with all your rights: read it, and if you trust it, set "
        "student.trust_remote_code: true in the recipe, or call with trust_remote_code=True; of a text tower OpenCLIP "
        "runs no such code in any case"
    )


def _tokenizer_options(model: str, config: dict[str, Any], trust_remote_code: bool) -> dict[str, Any]:
    """What is told to the tokenizer about code; raises `CheckpointError` where a configuration asks to run its own."""
    text = config["text_cfg"]
    asked = [name for name, value in (text.get("tokenizer_kwargs") or {}).items() if name in CODE and value]
    if asked and not trust_remote_code:
        raise CheckpointError(
            _code(model, f"its configuration sets {asked[0]}: its tokenizer runs Python code of its own")
        )
    return {"trust_remote_code": trust_remote_code} if text.get("hf_tokenizer_name") else {}


@torch.no_grad()
def _try(model: str, clip: Any, tokenizer: Any) -> None:
    """Show the model a blank image and a text: towers of timm, and tokenizers, may be of other sizes than it says."""
    size = clip.visual.image_size
    H, W = (size, size) if isinstance(size, int) else size
    training = clip.training
    clip.eval()  # keeps batch norm's statistics out of this
    try:
        clip.encode_image(torch.zeros(1, 3, H, W))
    except _weights.FAILS as error:
        raise CheckpointError(
            f"the vision tower of {model} does not take the {H}×{W} images of its configuration ({brief(error)}); "
            "set vision_cfg.image_size to the tower's own size, or name the tower of that size"
        ) from error
    try:
        clip.encode_text(tokenizer(["a picture"]))
    except _weights.FAILS as error:
        raise CheckpointError(
            f"the text tower of {model} does not take what its tokenizer makes ({type(error).__name__}: {brief(error)}"
            "); make text_cfg.context_length and vocab_size those of the tokenizer"
        ) from error
    clip.train(training)


def check_model(model: str, pretrained: str | None = None) -> None:
    """Raise `CheckpointError` unless OpenCLIP has a model of this plain name, and weights of this tag or file."""
    if model not in open_clip.list_models():
        raise CheckpointError(
            f"OpenCLIP has no model {model!r}, and it is no local-dir:PATH, hf-hub:ID or demo:clip; "
            f"{plugins.hint(model, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not (pretrained is None or Path(pretrained).is_file() or get_pretrained_cfg(model, pretrained)):
        meant = plugins.nearest(pretrained, tags)
        raise CheckpointError(
            f"{model} has no weights {pretrained!r}: no file has that name, and its tags are "
            f"{', '.join(tags) or 'none'}{'; ' if meant else ''}{meant}"
        )


@contextmanager
def _unwarned() -> Iterator[None]:
    """Silence OpenCLIP's warning of missing weights, which it is not asked to load.

    open_clip_torch 3.3 warns on the root logger, 4.2 on one named for its module.
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
    """Keeps transformers (5.24) from asking on the terminal whether to run a model's code: it is refused."""
    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


@contextmanager
def _unfetched(model: str) -> Iterator[str]:
    """The model's name; of one on the hub a folder with its config alone, for OpenCLIP fetches weights in any case."""
    if not model.startswith(HUB):
        yield model
        return
    with TemporaryDirectory() as folder:
        shutil.copyfile(download_pretrained_from_hf(model.removeprefix(HUB), CONFIG), Path(folder, CONFIG))
        yield f"{LOCAL}{folder}"
