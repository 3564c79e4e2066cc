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
from open_clip.factory import get_model_config
from open_clip.pretrained import download_pretrained_from_hf, get_pretrained_cfg

from clipzoo import plugins
from clipzoo.errors import CheckpointError, brief
from clipzoo.progress import no_bars

CONFIG = "open_clip_config.json"
HUB = "hf-hub:"


def make(model: str, pretrained: str | None, random: bool) -> tuple[Any, Any, dict[str, Any]]:
    """The model, its tokenizer and its configuration; arguments as of `Student.create`.

    Raises:
        CheckpointError: OpenCLIP does not know or cannot load the model or its weights.
    """
    if ":" not in model:
        check_model(model, pretrained)
    weights = not random and (pretrained is not None or ":" in model)  # local-dir: and hf-hub: hold theirs
    tag = (get_pretrained_cfg(model, pretrained) if pretrained and ":" not in model else None) or {}
    quick_gelu = bool(tag.get("quick_gelu"))  # OpenAI's weights and others were trained with it
    try:
        with _unwarned(silent=not weights), no_bars(), _unfetched(model, weights) as place:
            clip = open_clip.create_model(
                place,
                pretrained=pretrained if weights else None,  # a tag's file is fetched even if it is not to be loaded
                load_weights=weights,
                require_pretrained=weights,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
                force_preprocess_cfg={name: value for name, value in tag.items() if name != "size"},
            )
            tokenizer = open_clip.get_tokenizer(model)
    except (RuntimeError, FileNotFoundError, ValueError) as error:
        raise CheckpointError(
            f"OpenCLIP cannot make the model {model!r} (pretrained={pretrained!r}): {brief(error)}; weights may be "
            "a file, too, and a model local-dir:PATH, a folder with open_clip_config.json, or hf-hub:ID"
        ) from error
    return clip, tokenizer, {**get_model_config(model), **({"quick_gelu": True} if quick_gelu else {})}


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
def _unwarned(silent: bool) -> Iterator[None]:
    """Keeps OpenCLIP from warning of weights missing where none were asked for.

    open_clip_torch 3.3 warns on the root logger, 4.2 on one named for its module.
    """

    def wanted(record: logging.LogRecord) -> bool:
        return not (silent and "weights" in record.getMessage())

    loggers = logging.getLogger(), logging.getLogger("open_clip.factory")
    for logger in loggers:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(wanted)


@contextmanager
def _unfetched(model: str, weights: bool) -> Iterator[str]:
    """The model's name; of one on the hub, if no ``weights`` are asked for, a folder that holds its config alone.

    OpenCLIP fetches a hub's weights in any case.
    """
    if weights or not model.startswith(HUB):
        yield model
        return
    with TemporaryDirectory() as folder:
        shutil.copyfile(download_pretrained_from_hf(model.removeprefix(HUB), CONFIG), Path(folder, CONFIG))
        yield f"local-dir:{folder}"
