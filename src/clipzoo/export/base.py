"""The contract of export targets, and the comparison of an exported model with the student.

A target checks that it can express the student, writes a folder, and loads this folder with its own library to compare
the embeddings. Nothing that it writes contains code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from clipzoo.benchmarks import seen
from clipzoo.errors import CheckpointError
from clipzoo.models import Student
from clipzoo.types import ImageArray

PARITY = "parity.json"

Preprocess = Callable[[Sequence[ImageArray]], Tensor]
"""Images uint8 H×W×3 of any size -> the model's input."""

Encode = Callable[[Tensor], Tensor]
"""The model's input -> embeddings [N,D]; they are normalized afterwards."""


@dataclass(frozen=True)
class Source:
    """The student of an export, and the samples for the comparison.

    Attributes:
        student: on the CPU, in evaluation mode.
        images: uint8 H×W×3 of any size.
        captions: any number.
        card: the README, with ``{library}``, ``{usage}`` and ``{parity}`` in the places of the target's texts.
        heads: export the heads, too.
        place: of the export, as the snippet of the README has it: a folder, or a repository of the Hugging Face hub.
        hub: the place is a repository.
        inner: folder of this target in the place.
    """

    student: Student
    images: Sequence[ImageArray]
    captions: Sequence[str]
    card: str = "{library}\n{usage}\n{parity}"
    heads: bool = False
    place: str = "."
    hub: bool = False
    inner: str = ""

    @property
    def folder(self) -> str:
        """The lines of a snippet that set ``folder`` to the folder of the target's files."""
        inner = f" + {json.dumps('/' + self.inner)}" if self.inner else ""
        if self.hub:
            download = f"snapshot_download({json.dumps(self.place)}){inner}"
            return f"from huggingface_hub import snapshot_download\n\nfolder = {download}"
        whole = f"{self.place}/{self.inner}" if self.inner else self.place
        return f"folder = {json.dumps(whole, ensure_ascii=False)}  # of this file"

    @cached_property
    def views(self) -> list[ImageArray]:
        """The images as the evaluation sees them, uint8 of the student's size."""
        student = self.student
        return [seen(image, student.image_size, student.crop) for image in self.images]


class ExportPlugin(Protocol):
    """A module of this folder."""

    LIBRARY: str
    """The ``library_name`` of the README on the Hugging Face hub."""

    LIMIT: float
    """The largest allowed difference of an embedding's components, for unit vectors."""

    def check(self, source: Source) -> None:
        """Raise `CheckpointError` with the reason unless the target can express the student."""

    def write(self, source: Source, folder: Path) -> str:
        """Write the files into an empty folder. Return the section of the README on how to load them."""

    def compare(self, source: Source, folder: Path) -> Mapping[str, object]:
        """Load the folder with the target's library. Return the values of `compared`, and any others."""


def compared(
    source: Source,
    preprocess: Preprocess,
    encode_image: Encode,
    tokenize: Callable[[Sequence[str]], Tensor],
    encode_text: Encode,
    packages: Sequence[str],
    levels: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, object]:
    """Compare an exported model with the student.

    Args:
        source: the student and the samples.
        preprocess: of the other library.
        encode_image: of the other library.
        tokenize: of the other library, texts -> ids [N,L].
        encode_text: of the other library, ids -> embeddings.
        packages: whose versions are recorded.
        levels: the model's input -> pixels [N,3,H,W] in [0, 255]; default: the student's normalization is reverted.

    Returns:
        the values of `compare_images` and `compare_texts`, and ``library``.
    """
    return {
        "library": library_of(*packages),
        **compare_images(source, preprocess, encode_image, levels),
        **compare_texts(source, tokenize, encode_text),
    }


@torch.no_grad()
def compare_images(
    source: Source, preprocess: Preprocess, encode: Encode, levels: Callable[[Tensor], Tensor] | None = None
) -> dict[str, object]:
    """Compare image embeddings, and the preprocessing of the other library with both transforms of the student.

    Returns:
        ``image_embeddings``: the largest difference of any component for images that already have the student's size,
        through the other library's preprocessing. ``preprocessing_levels``: the mean difference in 8-bit levels between
        its preprocessing of the whole images and the view in evaluation. ``preprocessing_cosine``: the smallest cosine
        between their embeddings. ``transform_levels`` and ``transform_embeddings``: the largest differences from
        OpenCLIP's transform, followed by the student. ``images``: their number.
    """
    student, views = source.student, torch.from_numpy(np.stack(source.views))
    mine = student.encode_image(views)
    same = mine - _unit(encode(preprocess(source.views)))
    inputs = preprocess(source.images)
    theirs = _unit(encode(inputs))
    pixels = (levels or _reverted(student))(inputs)
    own = _transformed(student, source.images)
    transformed = student.clip.encode_image(own, normalize=True)
    return {
        "image_embeddings": same.abs().max().item(),
        "preprocessing_levels": (pixels - views.permute(0, 3, 1, 2)).abs().mean().item(),
        "preprocessing_cosine": (mine * theirs).sum(1).min().item(),
        "transform_levels": (pixels - _reverted(student)(own)).abs().max().item(),
        "transform_embeddings": (transformed - theirs).abs().max().item(),
        "images": len(source.images),
    }


@torch.no_grad()
def compare_texts(source: Source, tokenize: Callable[[Sequence[str]], Tensor], encode: Encode) -> dict[str, object]:
    """Compare text embeddings, from the captions on.

    Returns:
        ``text_embeddings``: the largest difference of any component over captions with equal tokens in both libraries.
        ``captions``: the number of captions. ``other_tokens``: the number of those with other tokens.

    Raises:
        CheckpointError: all captions have other tokens.
    """
    captions = list(source.captions)
    own, ids = source.student.tokenize(captions), tokenize(captions)
    equal = torch.tensor([_equal(a, b) for a, b in zip(own, ids, strict=True)])
    if not equal.any():
        raise CheckpointError(
            f"the exported tokenizer gives other tokens than the student's for all {len(captions)} captions, for "
            f"example {ids[0].tolist()} instead of {own[0].tolist()} for {captions[0]!r}. The target cannot express "
            "this tokenizer. Export with --to open_clip"
        )
    difference = source.student.encode_text(captions) - _unit(encode(ids))
    return {
        "text_embeddings": difference[equal].abs().max().item(),
        "captions": len(captions),
        "other_tokens": int((~equal).sum()),
    }


def _equal(own: Tensor, ids: Tensor) -> bool:
    """Return True for equal ids; after the first highest id, which ends a text, both may have different padding."""
    end = int(own.argmax()) + 1
    return torch.equal(own, ids) or torch.equal(own[:end], ids[:end])


def sentence(parity: Mapping[str, object]) -> str:
    """Return the measured parity as text."""
    captions = f" and {parity['captions']} captions" if "captions" in parity else ""
    texts = f" and {parity['text_embeddings']:.1e} (texts)" if "captions" in parity else ""
    text = (
        f"On {parity['images']} images{captions} of the training data, the embeddings of the exported model, loaded by "
        f"{parity['library']}, differ from those of the trained student by at most "
        f"{parity['image_embeddings']:.1e} (images){texts}. The library's own "
        f"preprocessing differs from the view in evaluation by {parity['preprocessing_levels']:.2g} of 255 levels on "
        f"average; the cosine between the embeddings is at least {parity['preprocessing_cosine']:.4f}. It differs from "
        f"OpenCLIP's transform by at most {parity['transform_levels']:.2g} levels, and the embeddings by at most "
        f"{parity['transform_embeddings']:.1e}."
    )
    heads = cast(Mapping[str, Mapping[str, float]], parity.get("heads") or {})
    if heads:
        worst = {column: max(each.values(), default=0.0) for column, each in heads.items()}
        told = ", ".join(f"{column} {value:.1e}" for column, value in worst.items())
        text += f" Largest differences of the heads' values, relative to one plus their size: {told}."
    if other := parity.get("other_tokens"):
        text += f" {other} of the captions have other tokens than in OpenCLIP, and are not part of the comparison."
    return " ".join([text, *cast(Sequence[str], parity.get("notes", ()))])


def logits_of(student: Student) -> dict[str, float | None]:
    """Return the numbers that make logits of cosines: ``logit_scale``, a factor, and ``logit_bias``, None without."""
    scale, bias = student.clip.logit_scale, getattr(student.clip, "logit_bias", None)
    return {"logit_scale": scale.exp().item(), "logit_bias": None if bias is None else bias.item()}


def on_probabilities(student: Student, cosines: str, file: str) -> str:
    """Return how probabilities follow from cosines, as Markdown.

    Args:
        student: whose numbers they need.
        cosines: expression of the snippet, images × texts.
        file: of the folder that has the numbers.
    """
    numbers = logits_of(student)
    values = " and ".join(f"`{name}` = {value:.6g}" for name, value in numbers.items() if value is not None)
    if numbers["logit_bias"] is None:
        rule = f"The probabilities of the texts are the softmax of `logit_scale * {cosines}` over the texts"
    else:
        rule = f"The probability of a text is the sigmoid of `logit_scale * {cosines} + logit_bias`"
    return f"{rule}, with {values} (`{file}`)."


def library_of(*packages: str) -> str:
    """Return the versions of packages as text."""
    return ", ".join(f"{name} {version(name)}" for name in packages)


def refused(target: str, reason: str, fix: str = "Export with --to open_clip") -> CheckpointError:
    """Return the error of a target that cannot express a student."""
    return CheckpointError(f"--to {target} cannot express this student: {reason}. {fix}")


def transform_of(student: Student) -> Callable[[Image.Image], Tensor]:
    """Return OpenCLIP's transform in evaluation, PIL image -> float [3,H,W]."""
    transform: Callable[[Image.Image], Tensor] = image_transform_v2(
        PreprocessCfg(**student.preprocess_cfg), is_train=False
    )
    return transform


def _transformed(student: Student, images: Sequence[ImageArray]) -> Tensor:
    transform = transform_of(student)
    return torch.stack([transform(Image.fromarray(image)) for image in images])


def _reverted(student: Student) -> Callable[[Tensor], Tensor]:
    return lambda inputs: (inputs * student.std + student.mean) * 255


def _unit(embeddings: Tensor) -> Tensor:
    return torch.nn.functional.normalize(embeddings.float(), dim=-1)
