"""transformers: ``hf:facebook/dinov2-base``, ``hf:google/siglip2-base-patch16-224`` or ``hf:PATH``.

A CLIP, SigLIP or vision model of ``AutoModel`` with hidden states; ``size=518`` sets the input size if the model can
interpolate its positions. Maps are hidden states before the final norm, as those of students are. No code of the
model's repository is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from clipzoo.encoders.base import ImageEncoder, as_map, size_option
from clipzoo.errors import CheckpointError, brief
from clipzoo.evaluation.base import Encoder
from clipzoo.types import Size


class HuggingFace(ImageEncoder):
    """A model of transformers."""

    def __init__(self, model: Any, tokenizer: Any, size: Size, processor: Any) -> None:
        crop: Any = "center" if getattr(processor, "do_center_crop", False) else "whole"
        super().__init__(size, processor.image_mean, processor.image_std, crop)
        self.model, self.tokenizer = model, tokenizer
        self.vision = getattr(model, "vision_model", model)
        self.has_text = tokenizer is not None
        self.native = size == _native(model, processor)

    def maps(self, images: Tensor, layers: Sequence[int] = (-1,)) -> list[Tensor]:
        """Return feature maps [B,C,h,w]; see `Encoder.maps`. Layer 0 is the output of the first block."""
        states = self._vision(images, output_hidden_states=True).hidden_states
        blocks = states[1:] if states[0].ndim == 3 else states
        if any(not -len(blocks) <= layer < len(blocks) for layer in layers):
            raise CheckpointError(f"the model has layers 0 to {len(blocks) - 1}, not all of {list(layers)}")
        chosen = [blocks[layer] for layer in layers]
        return [one if one.ndim == 4 else as_map(one, self.image_size, self._patch()) for one in chosen]

    def encode_image(self, images: Tensor) -> Tensor:
        """Return embeddings, unit vectors [B,D]: those of the joint space if the model has text, else pooled."""
        if self.has_text:
            return F.normalize(_tensor(self.model.get_image_features(**self._inputs(images))), dim=-1)
        out = self._vision(images)
        pooled = getattr(out, "pooler_output", None)
        return F.normalize(out.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1), dim=-1)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return embeddings of texts, unit vectors [B,D]."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        # CLIP attends to earlier tokens only, and SigLIP was trained to attend to the padding: neither needs a mask.
        ids = tokens["input_ids"].to(self.mean.device)
        return F.normalize(_tensor(self.model.get_text_features(input_ids=ids)), dim=-1)

    def _inputs(self, images: Tensor) -> dict[str, Any]:
        values = {"pixel_values": self.normalize(images)}
        return values if self.native else {**values, "interpolate_pos_encoding": True}

    def _vision(self, images: Tensor, **options: Any) -> Any:
        return self.vision(**self._inputs(images), **options)

    def _patch(self) -> int:
        return int(self.vision.config.patch_size)


def create(name: str, options: Mapping[str, str]) -> Encoder:
    """Return the encoder; see `clipzoo.encoders.create`."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    uri = f"hf:{name}"
    try:
        model = AutoModel.from_pretrained(name, trust_remote_code=False).eval()
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        has_text = hasattr(model, "get_text_features")
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False) if has_text else None
    except Exception as error:  # transformers and huggingface_hub raise many kinds
        raise CheckpointError(f"{uri}: transformers cannot load this model: {brief(error)}") from error
    vision = getattr(model, "vision_model", model)
    if not hasattr(vision.config, "patch_size") and not hasattr(vision.config, "hidden_sizes"):
        raise CheckpointError(f"{uri}: {type(model).__name__} is not a vision model with patches or stages")
    return HuggingFace(model, tokenizer, size_option(options, _native(model, processor), uri), processor)


def _native(model: Any, processor: Any) -> Size:
    """Return the (H, W) that the preprocessing makes: its crop, else its size, else that of the configuration."""
    for size in (getattr(processor, "crop_size", None), processor.size):
        values = dict(size or {})
        if "height" in values:
            return int(values["height"]), int(values["width"])
        if values.get("shortest_edge"):
            return int(values["shortest_edge"]), int(values["shortest_edge"])
    side = getattr(model, "vision_model", model).config.image_size
    return int(side), int(side)


def _tensor(features: Any) -> Tensor:
    """Return embeddings, which transformers 5 returns inside of an output object."""
    out: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return out
