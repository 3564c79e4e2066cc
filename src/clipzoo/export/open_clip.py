"""A folder that ``open_clip.create_model_and_transforms("local-dir:FOLDER")`` loads.

What OpenCLIP loads from it is compared with the student on real pictures and captions before the folder gets its name.
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
"""The largest difference of any number of two unit vectors, in float32."""


def export(
    student: Student,
    folder: Path,
    images: Sequence[ImageArray],
    captions: Sequence[str],
    card: str,
    heads: bool = False,
) -> dict[str, Any]:
    """Write the folder, whole or not at all; returns the parity that is kept in it.

    Args:
        student: to be exported; goes to the CPU, evaluation mode.
        folder: must not exist, or be empty.
        images, captions: real ones, on which the folder is compared with the student; uint8 H×W×3 of any size.
        card: the README; ``{parity}`` in it is replaced by a sentence.
        heads: keep the heads beside the model, for ``clipzoo.load(folder).predict``.

    Raises:
        CheckpointError: the folder is taken, or OpenCLIP's model differs from the student.
        OSError: the disk refuses it; nothing is left of the attempt.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty; give another --out, or delete it")
    beside = folder.with_name(folder.name + ".partial")
    if beside.is_symlink():
        beside.unlink()
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    student = student.cpu().eval()
    try:
        student.save(beside, heads=heads)
        found = parity(student, beside, images, captions)
        worst = max(found["image_embeddings"], found["text_embeddings"])
        files.write(beside / PARITY, (json.dumps(found, indent=2) + "\n").encode())
        files.write(beside / "README.md", card.replace("{parity}", sentence(found)).encode("utf-8", "replace"))
        if worst <= TOLERANCE:
            if folder.exists():
                folder.rmdir()
            beside.replace(folder)
            return found
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    raise CheckpointError(
        f"what OpenCLIP loads from {beside} is not the student: embeddings differ by up to {worst:.2g}, more than "
        f"{TOLERANCE:g}; the folder is left there to be looked at, and this is to be reported: {found}"
    )


@torch.no_grad()
def parity(student: Student, folder: Path, images: Sequence[ImageArray], captions: Sequence[str]) -> dict[str, Any]:
    """How far OpenCLIP's model of ``folder`` is from the student.

    Returns:
        ``image_embeddings`` and ``text_embeddings``, the largest difference of any number on the same pixels and the
        same captions; ``preprocessing_levels``, the mean difference in 8-bit levels between OpenCLIP's transform of a
        picture and the view that students are evaluated on, and ``preprocessing_cosine``, the least cosine between the
        two embeddings; the numbers of ``images`` and ``captions``.
    """
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    own = student.trust_remote_code and hasattr(student.tokenizer, "save_pretrained")  # one of transformers
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", **({"trust_remote_code": True} if own else {}))
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


def sentence(found: dict[str, Any]) -> str:
    """What `export` measured, in a sentence: on how much, and how far the embeddings are from the student's."""
    return (
        f"On {found['images']} pictures and {found['captions']} captions of the training data the embeddings differ "
        f"from the trained student's by at most {found['image_embeddings']:.1e} (images) and "
        f"{found['text_embeddings']:.1e} (texts). OpenCLIP's transform differs from the view that the student was "
        f"evaluated on by {found['preprocessing_levels']:.2g} of 255 levels in the mean, which leaves a cosine of at "
        f"least {found['preprocessing_cosine']:.4f} between embeddings."
    )


def _transformed(preprocess: Any, images: Sequence[ImageArray]) -> Tensor:
    return torch.stack([preprocess(Image.fromarray(image)) for image in images])
