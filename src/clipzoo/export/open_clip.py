"""Export to a folder that ``open_clip.create_model_and_transforms("local-dir:FOLDER")`` loads.

The model that OpenCLIP loads is compared with the student on images and captions before the folder gets its final name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor

from clipzoo import files
from clipzoo.benchmarks import view_of
from clipzoo.errors import CheckpointError
from clipzoo.models import Student
from clipzoo.types import ImageArray

PARITY = "parity.json"
TOLERANCE = 1e-5
"""The largest allowed difference of an embedding's components, for unit vectors in float32."""


def export(
    student: Student,
    folder: Path,
    images: Sequence[ImageArray],
    captions: Sequence[str],
    card: str,
    heads: bool = False,
) -> dict[str, Any]:
    """Write the folder atomically and return its parity, which it also contains.

    Args:
        student: is moved to the CPU, in evaluation mode.
        folder: must not exist, or be empty.
        images: for the comparison with the student, uint8 H×W×3 of any size.
        captions: for the comparison with the student.
        card: the README; ``{parity}`` in it is replaced by `sentence`.
        heads: write the heads, too, for ``clipzoo.load(folder).predict``.

    Raises:
        CheckpointError: the folder is not empty, or OpenCLIP's model differs from the student.
        OSError: the folder cannot be written; no part of it remains.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(
            f"{folder} is not empty. An export overwrites nothing. Give another --out, or delete the folder"
        )
    partial = folder.with_name(folder.name + ".partial")
    if partial.is_symlink():
        partial.unlink()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    student = student.cpu().eval()
    try:
        student.save(partial, heads=heads)
        measured = parity(student, partial, images, captions)
        worst = max(measured["image_embeddings"], measured["text_embeddings"])
        files.write(partial / PARITY, (json.dumps(measured, indent=2) + "\n").encode())
        files.write(partial / "README.md", card.replace("{parity}", sentence(measured)).encode("utf-8", "replace"))
        if worst <= TOLERANCE:
            if folder.exists():
                folder.rmdir()
            partial.replace(folder)
            return measured
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    raise CheckpointError(
        f"the model that OpenCLIP loads from {partial} is not the student: embeddings differ by up to {worst:.2g}, "
        f"more than {TOLERANCE:g}. This is an error of clipzoo or OpenCLIP. The folder is kept. Report this "
        f"message with your recipe: {measured}"
    )


@torch.no_grad()
def parity(student: Student, folder: Path, images: Sequence[ImageArray], captions: Sequence[str]) -> dict[str, Any]:
    """Compare OpenCLIP's model of ``folder`` with the student.

    Returns:
        ``image_embeddings`` and ``text_embeddings``: the largest difference of any component, for the same pixels and
        the same captions. ``preprocessing_levels``: the mean difference in 8-bit levels between OpenCLIP's transform
        of an image and the view in evaluation. ``preprocessing_cosine``: the smallest cosine between their
        embeddings. ``images`` and ``captions``: their numbers.
    """
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    of_transformers = student.trust_remote_code and hasattr(student.tokenizer, "save_pretrained")
    options = {"trust_remote_code": True} if of_transformers else {}
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", **options)
    model = model.eval()
    views = [view_of(image, student.image_size, student.crop).image(image) for image in images]
    mine = student.encode_image(torch.from_numpy(np.stack(views)))
    same = model.encode_image(_transformed(preprocess, views), normalize=True)
    whole = _transformed(preprocess, images)
    theirs = model.encode_image(whole, normalize=True)
    levels = (whole - student.normalize(torch.from_numpy(np.stack(views)))) * student.std * 255
    texts = model.encode_text(tokenizer(list(captions)), normalize=True) - student.encode_text(captions)
    return {
        "image_embeddings": (mine - same).abs().max().item(),
        "text_embeddings": texts.abs().max().item(),
        "preprocessing_levels": levels.abs().mean().item(),
        "preprocessing_cosine": (mine * theirs).sum(1).min().item(),
        "images": len(images),
        "captions": len(captions),
    }


def sentence(measured: dict[str, Any]) -> str:
    """Return the result of `parity` as text."""
    return (
        f"On {measured['images']} images and {measured['captions']} captions of the training data the embeddings "
        f"differ from those of the trained student by at most {measured['image_embeddings']:.1e} (images) and "
        f"{measured['text_embeddings']:.1e} (texts). OpenCLIP's transform differs from the view in evaluation by "
        f"{measured['preprocessing_levels']:.2g} of 255 levels on average; the cosine between the embeddings is at "
        f"least {measured['preprocessing_cosine']:.4f}."
    )


def _transformed(preprocess: Any, images: Sequence[ImageArray]) -> Tensor:
    return torch.stack([preprocess(Image.fromarray(image)) for image in images])
