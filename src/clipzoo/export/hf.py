"""Export to transformers: `CLIPModel` or `SiglipModel` with its processor, else a folder for each tower.

Without a class for both towers, ``image/`` is timm's model in transformers' wrapper, and ``text/`` is
`CLIPTextModelWithProjection` with the tokenizer.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPProcessor,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
    SiglipModel,
    SiglipProcessor,
)

from clipzoo import files
from clipzoo.export._timm_tower import tower_of, write_tower
from clipzoo.export._tokenizer import tokenizer_of
from clipzoo.export._transformers import text_model, whole_model
from clipzoo.export.base import Source, compare_images, compared, logits_of, on_probabilities, refused
from clipzoo.models import Student
from clipzoo.progress import no_bars
from clipzoo.types import ImageArray

LIBRARY = "transformers"
LIMIT = 1e-5
HEADS = False
LOGITS = "logits.json"

WHOLE = """```python
import torch
from transformers import AutoModel, AutoProcessor

{folder}
model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder, backend="pil")
inputs = processor(images=[picture], text=["a chair"], padding="max_length", truncation=True, return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
print(outputs.image_embeds @ outputs.text_embeds.T)
```

`backend="pil"` resizes images as OpenCLIP does; transformers' default backend differs slightly (`parity.json`).

{probabilities}"""
OF_LOGITS = "Probabilities: `outputs.logits_per_image.{function}`."
TOWERS = """transformers has no class for both towers: `image/` and `text/` are one model each. They return
embeddings before normalization.

```python
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPTextModelWithProjection, {auto}

{{folder}}
image, text = folder + "/image", folder + "/text"
processor, tokenizer = AutoImageProcessor.from_pretrained(image), AutoTokenizer.from_pretrained(text)
image, text = {auto}.from_pretrained(image), CLIPTextModelWithProjection.from_pretrained(text)
tokens = tokenizer(["a chair"], padding="max_length", truncation=True, return_tensors="pt")
with torch.no_grad():
    pictures, texts = image(**processor(picture)).{output}, text(**tokens).text_embeds
cosines = torch.cosine_similarity(pictures[:, None], texts[None], dim=-1)
print(cosines)
```

{probabilities}"""


def check(source: Source) -> None:
    """Refuse heads, and students with a tower, tokenizer or preprocessing that transformers does not have."""
    student = source.student
    if source.heads:
        raise refused("hf", "transformers has no such heads", "Omit --heads, or export them with --to onnx")
    tokens = _tokens(tokenizer_of(student, "hf"))
    if whole_model(student, tokens) is None:
        tower_of(student, "hf")
        text_model(student, tokens)
    elif student.preprocess_cfg["resize_mode"] == "longest":
        raise refused("hf", "it pads images to its size (resize_mode: longest), and CLIPImageProcessor does not")


def _tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def write(source: Source, folder: Path) -> str:
    """Write models, processor and tokenizer."""
    student = source.student
    tokenizer = tokenizer_of(student, "hf")
    model = whole_model(student, _tokens(tokenizer))
    with no_bars():
        if model is not None:
            kind = SiglipProcessor if isinstance(model, SiglipModel) else CLIPProcessor
            if kind is SiglipProcessor:  # the model would mask padding, which SigLIP reads
                tokenizer.model_input_names = ["input_ids"]
            model.save_pretrained(folder)
            kind(_image_processor(student), tokenizer).save_pretrained(folder)
            return WHOLE.replace("{probabilities}", _probabilities(student, kind is SiglipProcessor, folder))
        tower = tower_of(student, "hf")
        write_tower(tower, student, folder / "image")
        text_model(student, _tokens(tokenizer)).save_pretrained(folder / "text")
        tokenizer.save_pretrained(folder / "text")
    auto, output = ("AutoModelForImageClassification", "logits") if tower.classes else ("AutoModel", "pooler_output")
    return TOWERS.format(auto=auto, output=output, probabilities=_own_probabilities(student, "cosines", folder))


def _probabilities(student: Student, siglip: bool, folder: Path) -> str:
    """Return how probabilities follow from the outputs of a model with both towers."""
    if student.clip.logit_bias is None:
        return OF_LOGITS.format(function="softmax(-1)")
    if siglip:
        return OF_LOGITS.format(function="sigmoid()")
    return _own_probabilities(student, "(outputs.image_embeds @ outputs.text_embeds.T)", folder)


def _own_probabilities(student: Student, cosines: str, folder: Path) -> str:
    """Write the numbers of logits, which no model of the folder has, and return how probabilities follow."""
    files.write(folder / LOGITS, (json.dumps(logits_of(student), indent=2) + "\n").encode())
    return on_probabilities(student, cosines, LOGITS)


def _image_processor(student: Student) -> CLIPImageProcessor:
    preprocess, (height, width) = student.preprocess_cfg, student.image_size
    squashed = preprocess["resize_mode"] == "squash"
    size = {"height": height, "width": width} if squashed else {"shortest_edge": height}
    return CLIPImageProcessor(
        size=size,
        do_center_crop=not squashed,
        crop_size={"height": height, "width": width},
        resample=2 if preprocess["interpolation"] == "bilinear" else 3,  # PIL's numbers
        image_mean=list(preprocess["mean"]),
        image_std=list(preprocess["std"]),
    )


def compare(source: Source, folder: Path) -> dict[str, object]:
    """Compare the models that transformers loads from the folder with the student.

    Returns:
        the values of `compared` with the PIL backend of the image processor; ``default_backend``: those of
        `compare_images` with transformers' default backend.
    """
    whole = not (folder / "image").is_dir()
    with no_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        encode_image, encode_text = _whole(folder) if whole else _towers(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder if whole else folder / "text")

    inputs: dict[str, Tensor] = {}

    def tokenize(texts: Sequence[str]) -> Tensor:
        inputs.update(tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt"))
        return inputs["input_ids"]

    packages = ("transformers",) if whole else ("transformers", "timm")
    image = folder if whole else folder / "image"
    parity = compared(
        source, _preprocess(image, whole), encode_image, tokenize, lambda ids: encode_text(inputs), packages
    )
    if not whole:
        return parity
    default = compare_images(source, _preprocess(image, False), encode_image)
    note = (
        "Without backend=\"pil\", transformers' preprocessing differs from OpenCLIP's transform by at most "
        f"{default['transform_levels']:.2g} levels, and the embeddings by at most "
        f"{default['transform_embeddings']:.1e}."
    )
    notes = [note]
    if source.student.clip.logit_bias is not None and _kind(folder) == "clip":
        notes.append("The student's logit_bias is not part of CLIPModel: add it to the logits.")
    return {**parity, "default_backend": default, "notes": notes}


def _kind(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])


def _preprocess(folder: Path, pil: bool) -> Callable[[Sequence[ImageArray]], Tensor]:
    processor = AutoImageProcessor.from_pretrained(folder, **({"backend": "pil"} if pil else {}))

    def preprocess(images: Sequence[ImageArray]) -> Tensor:
        pictures = [Image.fromarray(image) for image in images]
        pixels = [processor(picture, return_tensors="pt")["pixel_values"] for picture in pictures]
        return torch.cat(pixels)

    return preprocess


def _whole(folder: Path) -> tuple[Callable[[Tensor], Tensor], Callable[[Mapping[str, Tensor]], Tensor]]:
    model = AutoModel.from_pretrained(folder).eval()
    return (
        lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        lambda inputs: model.get_text_features(**inputs).pooler_output,
    )


def _towers(folder: Path) -> tuple[Callable[[Tensor], Tensor], Callable[[Mapping[str, Tensor]], Tensor]]:
    text = CLIPTextModelWithProjection.from_pretrained(folder / "text").eval()
    if '"num_classes": 0' in (folder / "image" / "config.json").read_text(encoding="utf-8"):
        pooled = AutoModel.from_pretrained(folder / "image").eval()
        return lambda pixels: pooled(pixels).pooler_output, lambda inputs: text(**inputs).text_embeds
    image = AutoModelForImageClassification.from_pretrained(folder / "image").eval()
    return lambda pixels: image(pixels).logits, lambda inputs: text(**inputs).text_embeds
