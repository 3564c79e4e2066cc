"""Tiny models of every family of Hugging Face transformers, with random weights, and their processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
FUSION = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}
PYRAMID = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
SQUARE = {"size": {"height": 64, "width": 64}}
NAMES = {0: "wall", 1: "floor", 2: "void", 3: "chair", 4: "table"}
DETR = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 12,
}  # fmt: skip
DEFORMABLE = {**DETR, "d_model": 32, "decoder_layers": 2}
PROMPTS = ("chair", "table lamp", "lamp", "picture frame", "sofa")
"""A label space for detectors that are told what to find."""

Built = tuple[Any, Any]
Build = Callable[[], Built]

# Depth -------------------------------------------------------------------------------------------------------


def beit(**more: Any) -> t.BeitConfig:
    return t.BeitConfig(**VIT, image_size=32, patch_size=8, use_relative_position_bias=True, **more)


def dpt() -> Built:
    config = t.DPTConfig(**VIT, **FUSION, image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3])
    return t.DPTForDepthEstimation(config), t.DPTImageProcessor(size={"height": 32, "width": 32})


def dinov2() -> t.Dinov2Config:
    return t.Dinov2Config(
        **{k: v for k, v in VIT.items() if k != "intermediate_size"}, patch_size=14, image_size=70,
        out_features=STAGES, reshape_hidden_states=False,
    )  # fmt: skip


def padding(divisor: int) -> t.DPTImageProcessor:
    """Pads as those of DINOv2 do, but with a color that pictures can have."""
    return t.DPTImageProcessor(do_resize=False, do_pad=True, size_divisor=divisor, image_mean=[128 / 255] * 3)


def dpt_dinov2() -> Built:
    return t.DPTForDepthEstimation(t.DPTConfig(backbone_config=dinov2(), **FUSION)), padding(14)


def depth_anything(**more: Any) -> Built:
    config = t.DepthAnythingConfig(
        backbone_config=dinov2(), reassemble_hidden_size=16, head_hidden_size=4, **FUSION, **more
    )
    resize = {"size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}
    return t.DepthAnythingForDepthEstimation(config), t.DPTImageProcessor(**resize)


def depth_anything_metric() -> Built:
    return depth_anything(depth_estimation_type="metric", max_depth=20)


def prompt_depth_anything() -> Built:
    config = t.PromptDepthAnythingConfig(
        backbone_config=dinov2(), reassemble_hidden_size=16, head_hidden_size=4, depth_estimation_type="metric",
        max_depth=20, **FUSION,
    )  # fmt: skip
    resize = {"size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}
    return t.PromptDepthAnythingForDepthEstimation(config), t.PromptDepthAnythingImageProcessor(**resize)


def zoedepth() -> Built:
    backbone = beit(out_features=STAGES, reshape_hidden_states=False)
    small = {"bottleneck_features": 8, "num_relative_features": 8, "bin_embedding_dim": 8}
    transformer = {"patch_transformer_hidden_size": 8, "patch_transformer_intermediate_size": 16}
    config = t.ZoeDepthConfig(
        backbone_config=backbone, patch_transformer_num_attention_heads=2, **FUSION, **small, **transformer
    )
    return t.ZoeDepthForDepthEstimation(config), t.ZoeDepthImageProcessor(size={"height": 32, "width": 32})


def glpn() -> Built:
    return t.GLPNForDepthEstimation(t.GLPNConfig(**PYRAMID, decoder_hidden_size=8)), t.GLPNImageProcessor()


def depth_pro(field_of_view: bool = True) -> Built:
    small = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    encoder = {"model_type": "dinov2", "image_size": 16, "patch_size": 4, **small}
    config = t.DepthProConfig(
        patch_size=16, scaled_images_ratios=[0.5, 1.0], scaled_images_overlap_ratios=[0.0, 0.2],
        scaled_images_feature_dims=[8, 8], intermediate_hook_ids=[1, 0], intermediate_feature_dims=[8, 8],
        fusion_hidden_size=8, merge_padding_value=1, use_fov_model=field_of_view, num_fov_head_layers=0,
        image_model_config=dict(encoder), patch_model_config=dict(encoder), fov_model_config=dict(encoder),
    )  # fmt: skip
    return t.DepthProForDepthEstimation(config), t.DepthProImageProcessor(**SQUARE)


def depth_pro_without_fov() -> Built:
    return depth_pro(field_of_view=False)


# Classes and masks -------------------------------------------------------------------------------------------


def segformer() -> Built:
    config = t.SegformerConfig(**PYRAMID, decoder_hidden_size=8, id2label=NAMES)
    return t.SegformerForSemanticSegmentation(config), t.SegformerImageProcessor(**SQUARE)


def beit_segmentation() -> Built:
    config = beit(out_indices=[1, 2, 3, 4], id2label=NAMES)
    processor = t.BeitImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    return t.BeitForSemanticSegmentation(config), processor


def upernet() -> Built:
    backbone = t.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, out_features=STAGES)
    config = t.UperNetConfig(
        backbone_config=backbone, hidden_size=8, auxiliary_channels=4, auxiliary_in_channels=16, id2label=NAMES
    )
    return t.UperNetForSemanticSegmentation(config), t.SegformerImageProcessor(**SQUARE)


def dpt_segmentation() -> Built:
    config = t.DPTConfig(
        **VIT, **FUSION, image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3], id2label=NAMES
    )
    return t.DPTForSemanticSegmentation(config), t.DPTImageProcessor(size={"height": 32, "width": 32})


def mobilevit() -> Built:
    config = t.MobileViTConfig(
        image_size=64, hidden_sizes=[8, 8, 16], neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 16], num_attention_heads=2,
        aspp_out_channels=8, output_stride=16, id2label=NAMES,
    )  # fmt: skip
    crop = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
    return t.MobileViTForSemanticSegmentation(config), t.MobileViTImageProcessor(**crop)


def dpt_segmentation_padding() -> Built:
    return dpt_segmentation()[0], padding(32)


def swin(*stages: int) -> t.SwinConfig:
    return t.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4,
        out_features=[STAGES[stage - 1] for stage in stages or (1, 2, 3, 4)],
    )  # fmt: skip


def mask2former() -> Built:
    config = t.Mask2FormerConfig(
        backbone_config=swin(), feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=12, id2label=NAMES,
    )  # fmt: skip
    return t.Mask2FormerForUniversalSegmentation(config), t.Mask2FormerImageProcessor(**SQUARE)


def maskformer() -> Built:
    config = t.MaskFormerConfig(
        backbone_config=swin(), decoder_config=t.DetrConfig(**DETR), fpn_feature_size=32, mask_feature_size=16,
        id2label=NAMES,
    )  # fmt: skip
    return t.MaskFormerForInstanceSegmentation(config), t.MaskFormerImageProcessor(**SQUARE)


def oneformer() -> Built:
    config = t.OneFormerConfig(
        backbone_config=swin(), num_queries=12, conv_dim=32, mask_dim=32, hidden_dim=32, dim_feedforward=16,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, common_stride=4,
        task_seq_len=8, text_encoder_width=16, text_encoder_num_layers=1, text_encoder_vocab_size=8,
        text_encoder_context_length=8, use_auxiliary_loss=False, id2label=NAMES,
    )  # fmt: skip
    image = t.OneFormerImageProcessor(
        **SQUARE, metadata={**{str(i): name for i, name in NAMES.items()}, "thing_ids": [3, 4]}
    )
    words = dict.fromkeys(("<|endoftext|>", "the", "task", "is", "semantic", "instance", "panoptic"))
    tokenizer = tokenizer_of({word: i for i, word in enumerate(words)}, pad="<|endoftext|>", unknown="the")
    return t.OneFormerForUniversalSegmentation(config), t.OneFormerProcessor(image, tokenizer, 8, 8)


def eomt(version: str = "", **processing: Any) -> Built:
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_blocks": 2, "num_queries": 12}
    config = getattr(t, f"Eomt{version}Config")(
        **small, image_size=64, patch_size=16, num_upscale_blocks=1, id2label=NAMES
    )
    size = {"shortest_edge": 64, "longest_edge": 64}
    processor = t.EomtImageProcessor(size=size, do_pad=True, **processing)
    return getattr(t, f"Eomt{version}ForUniversalSegmentation")(config), processor


def eomt_dinov3() -> Built:
    return eomt("Dinov3")


def eomt_semantic() -> Built:
    model, processor = eomt(do_split_image=True)
    processor.do_pad, processor.size["longest_edge"] = False, None
    return model, processor


# Boxes -------------------------------------------------------------------------------------------------------

RESIZED = {"size": {"shortest_edge": 48, "longest_edge": 96}}


def resnet(*stages: int) -> t.ResNetConfig:
    return t.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic",
        out_features=[STAGES[stage - 1] for stage in stages],
    )  # fmt: skip


def detr() -> Built:
    config = t.DetrConfig(**DETR, backbone_config=resnet(4), id2label=NAMES)
    return t.DetrForObjectDetection(config), t.DetrImageProcessor(**RESIZED)


def detr_panoptic() -> Built:
    config = t.DetrConfig(
        **{**DETR, "d_model": 128, "encoder_attention_heads": 8}, backbone_config=resnet(1, 2, 3, 4), id2label=NAMES
    )
    return t.DetrForSegmentation(config), t.DetrImageProcessor(**RESIZED)


def conditional_detr() -> Built:
    config = t.ConditionalDetrConfig(**DETR, backbone_config=resnet(4), id2label=NAMES)
    return t.ConditionalDetrForObjectDetection(config), t.ConditionalDetrImageProcessor(**RESIZED)


def deformable_detr() -> Built:
    config = t.DeformableDetrConfig(
        **DEFORMABLE, backbone_config=resnet(2, 3, 4), id2label=NAMES, disable_custom_kernels=True
    )
    return t.DeformableDetrForObjectDetection(config), t.DeformableDetrImageProcessor(**RESIZED)


REAL_TIME = {
    "encoder_hidden_dim": 16, "encoder_in_channels": [8, 16, 16], "encoder_ffn_dim": 16, "encoder_attention_heads": 2,
    "d_model": 16, "num_queries": 12, "decoder_in_channels": [16] * 3, "decoder_ffn_dim": 16, "decoder_layers": 2,
    "decoder_attention_heads": 2, "num_denoising": 0, "id2label": NAMES,
}  # fmt: skip


def rt_detr(version: str = "") -> Built:
    backbone = t.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic", out_features=STAGES[1:]
    )
    config = getattr(t, f"RTDetr{version}Config")(**REAL_TIME, backbone_config=backbone)
    return getattr(t, f"RTDetr{version}ForObjectDetection")(config), t.RTDetrImageProcessor(**SQUARE)


def rt_detr_v2() -> Built:
    return rt_detr("V2")


def d_fine() -> Built:
    backbone = t.HGNetV2Config(
        stem_channels=[3, 4, 8], stage_in_channels=[8, 8, 8, 16], stage_mid_channels=[4, 4, 8, 8],
        stage_out_channels=[8, 8, 16, 16], stage_num_blocks=[1] * 4, stage_numb_of_layers=[1] * 4,
        hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, embedding_size=8, out_features=STAGES[1:],
    )  # fmt: skip
    config = t.DFineConfig(**REAL_TIME, backbone_config=backbone, depth_mult=0.34, hidden_expansion=0.5)
    return t.DFineForObjectDetection(config), t.RTDetrImageProcessor(**SQUARE)


def yolos() -> Built:
    config = t.YolosConfig(
        **{**VIT, "num_hidden_layers": 2}, image_size=[48, 64], patch_size=16, num_detection_tokens=12, id2label=NAMES
    )
    return t.YolosForObjectDetection(config), t.YolosImageProcessor(**RESIZED)


# Prompts -----------------------------------------------------------------------------------------------------


def tokenizer_of(vocabulary: dict[str, int], pad: str, unknown: str, frame: str = "", **more: Any) -> Any:
    """Pieces of words by a vocabulary; ``frame`` is what stands around them, such as "[CLS] $A [SEP]"."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if frame:
        special = [(token, vocabulary[token]) for token in frame.split() if token != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=special)
    return t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, **more)


PIECES = ("chair", "table", "lamp", "pic", "##ture", "frame", "sofa", "a")


def owl(version: str) -> Built:
    text = {"vocab_size": 20, "eos_token_id": 19, "bos_token_id": 1}
    small = {**VIT, "num_hidden_layers": 2}
    size = 64 if version == "v2" else 48
    config = getattr(t, f"Owl{version}Config")(
        text_config={**small, **text}, projection_dim=16,
        vision_config={**small, "image_size": size, "patch_size": 16},
    )  # fmt: skip
    vocabulary = {"[PAD]": 0, "[BOS]": 1, "[UNK]": 2, **{piece: 3 + i for i, piece in enumerate(PIECES)}, "[EOS]": 19}
    tokenizer = tokenizer_of(vocabulary, "[PAD]", "[UNK]", "[BOS] $A [EOS]", model_max_length=16)
    image = getattr(t, f"Owl{version}ImageProcessor")(size={"height": size, "width": size})
    return getattr(t, f"Owl{version}ForObjectDetection")(config), getattr(t, f"Owl{version}Processor")(image, tokenizer)


def owlvit() -> Built:
    return owl("ViT")


def owlv2() -> Built:
    return owl("v2")


def grounding_dino(version: str = "") -> Built:
    text = {**VIT, "num_hidden_layers": 2, "vocab_size": 1040, "max_position_embeddings": 64}
    config = getattr(t, f"{version}GroundingDinoConfig")(
        **DEFORMABLE, backbone_config=swin(2, 3, 4), text_config={"model_type": "bert", **text}, max_text_len=32,
        num_feature_levels=3, disable_custom_kernels=True,
    )  # fmt: skip
    special = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
    vocabulary = {**special, **{piece: 200 + i for i, piece in enumerate(PIECES)}}
    tokenizer = tokenizer_of(vocabulary, "[PAD]", "[UNK]", "[CLS] $A [SEP]", model_max_length=64)
    image = t.GroundingDinoImageProcessor(**RESIZED)
    model = getattr(t, f"{version}GroundingDinoForObjectDetection")(config)
    return model, t.GroundingDinoProcessor(image, tokenizer)


def mm_grounding_dino() -> Built:
    return grounding_dino("MM")


# Saved -------------------------------------------------------------------------------------------------------


def save(build: Build, folder: Path, seed: int = 0) -> Path:
    """The model, with weights that are large enough to say something, and its processor."""
    torch.manual_seed(seed)
    model, processor = build()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            sharp = 8.0 if "class" in name or "queries" in name else 1.2
            nn.init.normal_(parameter, std=sharp / parameter[0].numel() ** 0.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def changed(folder: Path, **values: Any) -> None:
    """Change values of the saved config."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
