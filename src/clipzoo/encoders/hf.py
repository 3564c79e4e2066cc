"""transformers: ``hf:facebook/dinov2-base``, ``hf:google/siglip2-base-patch16-224`` or ``hf:PATH``.

A CLIP, SigLIP or vision model of ``AutoModel`` with hidden states; ``size=518`` sets the input size if the model can
interpolate its positions. Maps are hidden states before the final norm, as those of students are; ``norm=yes`` takes
them after it. No code of the model's repository is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from clipzoo.encoders.base import Crop, ImageEncoder, Options, as_map, check_size
from clipzoo.errors import CheckpointError, brief
from clipzoo.evaluation.base import Encoder
from clipzoo.model_schemes.hf import normalization, tokenizer_of
from clipzoo.types import Size

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils import ModelOutput

UNMASKED = ("clip", "metaclip_2", "siglip", "siglip2")
"""Models whose texts need no mask: CLIP attends to earlier tokens only, and SigLIP was trained to see the padding."""


class HuggingFace(ImageEncoder):
    """A model of transformers."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        size: Size,
        norm: bool,
        processor: BaseImageProcessor,
    ) -> None:
        vision = getattr(model, "vision_model", model)
        stages = getattr(vision.config, "hidden_sizes", ())
        depth = len(stages) + 1 if stages else int(vision.config.num_hidden_layers)
        patch = 32 if stages else int(vision.config.patch_size)
        crop, kept = _kept(processor)
        mean, std = normalization(processor, f"hf:{model.name_or_path}")
        super().__init__(size, mean, std, crop, depth, patch)
        self.kept = kept
        self.model, self.tokenizer, self.vision = model, tokenizer, vision
        self.norm = _final_norm(vision) if norm else nn.Identity()
        self.has_text = tokenizer is not None
        self.masked = self.has_text and model.config.model_type not in UNMASKED
        self.native = size == _native(model, processor)

    def maps(self, images: Tensor, layers: Sequence[int] = (-1,)) -> list[Tensor]:
        """Return feature maps [B,C,h,w]; see `Encoder.maps`. Layer 0 is the output of the first block."""
        states = self._vision(images, output_hidden_states=True).hidden_states
        blocks = states[1:] if states[0].ndim == 3 else states
        chosen = [self.norm(blocks[layer]) for layer in self.indices(layers)]
        return [one if one.ndim == 4 else as_map(one, self.image_size, self.patch) for one in chosen]

    def encode_image(self, images: Tensor) -> Tensor:
        """Return embeddings, unit vectors [B,D]: those of the joint space if the model has text, else pooled."""
        if self.has_text:
            return F.normalize(_tensor(self.model.get_image_features(**self._inputs(images))), dim=-1)
        out = self._vision(images)
        pooled = getattr(out, "pooler_output", None)
        return F.normalize(out.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1), dim=-1)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return embeddings of texts, unit vectors [B,D]."""
        assert self.tokenizer is not None, "`has_text` was checked"
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        names = ["input_ids", "attention_mask"] if self.masked else ["input_ids"]
        inputs = {name: tokens[name].to(self.mean.device) for name in names}
        return F.normalize(_tensor(self.model.get_text_features(**inputs)), dim=-1)

    def _inputs(self, images: Tensor) -> dict[str, object]:
        values: dict[str, object] = {"pixel_values": self.normalize(images)}
        return values if self.native else {**values, "interpolate_pos_encoding": True}

    def _vision(self, images: Tensor, **options: bool) -> ModelOutput:
        return self.vision(**self._inputs(images), **options)


def create(name: str, options: Mapping[str, str]) -> Encoder:
    """Return the encoder; see `clipzoo.encoders.create`."""
    from transformers import AutoImageProcessor, AutoModel, __version__

    uri = f"hf:{name}"
    chosen = Options.parse(options, uri)
    # transformers 5 loads weights of half precision as such otherwise; earlier versions always load float32.
    precision = {"dtype": "float32"} if int(__version__.partition(".")[0]) >= 5 else {}
    try:
        model = AutoModel.from_pretrained(name, trust_remote_code=False, **precision).eval()
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers and huggingface_hub raise many kinds
        raise CheckpointError(f"{uri}: transformers cannot load this model: {brief(error)}") from error
    vision = getattr(model, "vision_model", model)
    if not hasattr(vision.config, "patch_size") and not hasattr(vision.config, "hidden_sizes"):
        raise CheckpointError(f"{uri}: {type(model).__name__} is not a vision model with patches or stages")
    if chosen.size and not hasattr(vision.config, "hidden_sizes"):
        check_size(chosen.size, int(vision.config.patch_size), uri)
    size = chosen.size or _native(model, processor)
    tokenizer = tokenizer_of(name, uri) if hasattr(model, "get_text_features") else None
    return HuggingFace(model, tokenizer, size, chosen.norm, processor).eval()


def _final_norm(vision: PreTrainedModel) -> nn.Module:
    """Return the norm after the last block of a ViT; an identity for towers that have none."""
    for name in ("layernorm", "post_layernorm", "norm"):
        if hasattr(vision, name) and not hasattr(vision.config, "hidden_sizes"):
            norm: nn.Module = getattr(vision, name)
            return norm
    return nn.Identity()


def _kept(processor: BaseImageProcessor) -> tuple[Crop, float]:
    """Return the part of an image that the preprocessing keeps, and the share of its sides after its center crop."""
    size, crop = (dict(getattr(processor, name, None) or {}) for name in ("size", "crop_size"))
    shortest = int(size.get("shortest_edge") or 0)
    if getattr(processor, "do_center_crop", False):
        before = shortest or max(int(size.get("height") or 0), int(size.get("width") or 0))
        after = max(int(crop.get("height") or 0), int(crop.get("width") or 0))
        return "center" if shortest else "whole", min(after / before, 1.0) if before and after else 1.0
    share = getattr(processor, "crop_pct", None)  # of ConvNeXt: below 384 pixels, larger images are squashed
    return ("center", float(share)) if share and 0 < shortest < 384 else ("whole", 1.0)


def _native(model: PreTrainedModel, processor: BaseImageProcessor) -> Size:
    """Return the (H, W) that the preprocessing makes: its crop, else its size, else that of the configuration."""
    cropped = getattr(processor, "do_center_crop", False)
    for size in (getattr(processor, "crop_size", None) if cropped else None, processor.size):
        values = dict(size or {})
        if "height" in values:
            return int(values["height"]), int(values["width"])
        if values.get("shortest_edge"):
            return int(values["shortest_edge"]), int(values["shortest_edge"])
    side = getattr(model, "vision_model", model).config.image_size
    return int(side), int(side)


def _tensor(features: Tensor | ModelOutput) -> Tensor:
    """Return embeddings, which transformers 5 returns inside of an output object."""
    out: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return out
