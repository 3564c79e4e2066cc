"""Tiny models of the families of Hugging Face transformers of 2025 and 2026, with random weights."""

from __future__ import annotations

from typing import Any

import transformers as t

from hf_models import NAMES, PIECES, REAL_TIME, SQUARE, STAGES, VIT, Built, swin, tokenizer_of

SMALL = {"height": 32, "width": 24}

# Normals, depth, classes -------------------------------------------------------------------------------------


def sapiens2(kind: str, channels: int, **processing: Any) -> Built:
    names = {i: f"axis {i}" for i in range(3)} if kind == "Normal" else NAMES
    assert len(names) == channels
    head = {"upsample_out_channels": [8, 8, 8], "conv_out_channels": [8], "conv_kernel_sizes": [1]}
    config = t.Sapiens2Config(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_attention_heads=1, num_first_full_attention_layers=1, num_last_full_attention_layers=1,
        num_register_tokens=2, patch_size=8,
        image_size=[SMALL["height"], SMALL["width"]], id2label=names,
        head_config={**head, "use_pixel_shuffle": kind == "Normal" or None},
    )  # fmt: skip
    architecture = "NormalEstimation" if kind == "Normal" else "SemanticSegmentation"
    return getattr(t, f"Sapiens2For{architecture}")(config), t.Sapiens2ImageProcessor(size=SMALL, **processing)


def sapiens2_normals() -> Built:
    return sapiens2("Normal", 3, do_pad=True)


def sapiens2_normals_stretched() -> Built:
    return sapiens2("Normal", 3)


def sapiens2_parts() -> Built:
    return sapiens2("Parts", 5)


def tipsv2(architecture: str = "DensePrediction") -> Built:
    backbone = {
        "model_type": "tipsv2_vision_model", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
        "intermediate_size": 32, "patch_size": 14, "image_size": 56, "out_indices": [1, 2, 3, 4],
        "apply_layernorm": True, "reshape_hidden_states": False,
    }  # fmt: skip
    config = t.Tipsv2DptConfig(
        backbone_config=backbone, neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, num_depth_bins=16, id2label=NAMES
    )
    processor = t.Tipsv2DptImageProcessor(size={"height": 56, "width": 56})
    return getattr(t, f"Tipsv2DptFor{architecture}")(config), processor


def tipsv2_normals() -> Built:
    return tipsv2("NormalEstimation")


# Boxes and instances -----------------------------------------------------------------------------------------

LIGHT = {
    "d_model": 16, "decoder_ffn_dim": 16, "decoder_layers": 2, "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2, "num_queries": 12, "group_detr": 2, "id2label": NAMES,
}  # fmt: skip


def rf_detr(architecture: str) -> Built:
    backbone = {
        "model_type": "rf_detr_dinov2", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
        "mlp_ratio": 2, "image_size": 64, "patch_size": 16, "num_windows": 2, "out_indices": [2, 4],
    }  # fmt: skip
    config = t.RfDetrConfig(**LIGHT, backbone_config=backbone)
    return getattr(t, f"RfDetrFor{architecture}")(config), t.RfDetrImageProcessor(**SQUARE)


def rf_detr_boxes() -> Built:
    return rf_detr("ObjectDetection")


def rf_detr_instances() -> Built:
    return rf_detr("InstanceSegmentation")


def lw_detr() -> Built:
    backbone = {
        "model_type": "lw_detr_vit", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
        "mlp_ratio": 2, "image_size": 64, "pretrain_image_size": 64, "patch_size": 16, "num_windows": 4,
        "window_block_indices": [0, 2], "out_indices": [2, 4],
    }  # fmt: skip
    config = t.LwDetrConfig(**LIGHT, backbone_config=backbone, projector_scale_factors=[1.0])
    return t.LwDetrForObjectDetection(config), t.DeformableDetrImageProcessor(**SQUARE)


def deimv2() -> Built:
    backbone = t.HGNetV2Config(
        stem_channels=[3, 4, 8], stage_in_channels=[8, 8, 8, 16], stage_mid_channels=[4, 4, 8, 8],
        stage_out_channels=[8, 8, 16, 16], stage_num_blocks=[1] * 4, stage_numb_of_layers=[1] * 4,
        hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, embedding_size=8, out_features=STAGES[1:],
    )  # fmt: skip
    config = t.Deimv2Config(**REAL_TIME, backbone_config=backbone, depth_mult=0.34)
    return t.Deimv2ForObjectDetection(config), t.RTDetrImageProcessor(**SQUARE)


# Prompts -----------------------------------------------------------------------------------------------------


def clip_tokenizer(longest: int) -> Any:
    vocabulary = {"[PAD]": 0, "[BOS]": 1, "[UNK]": 2, **{piece: 3 + i for i, piece in enumerate(PIECES)}}
    vocabulary |= {"detect": 15, ",": 16, ".": 17, "[EOS]": 19}
    return tokenizer_of(vocabulary, "[PAD]", "[UNK]", "[BOS] $A [EOS]", model_max_length=longest)


def clip_text(longest: int) -> dict[str, Any]:
    return {
        **VIT, "num_hidden_layers": 2, "model_type": "clip_text_model", "vocab_size": 20, "eos_token_id": 19,
        "bos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": longest, "projection_dim": 16,
    }  # fmt: skip


def omdet_turbo() -> Built:
    config = t.OmDetTurboConfig(
        backbone_config=swin(2, 3, 4), text_config={**clip_text(77), "hidden_size": 24},
        apply_layernorm_after_vision_backbone=False,
        image_size=64, text_projection_in_dim=24, text_projection_out_dim=24, task_encoder_hidden_dim=16,
        class_embed_dim=24, num_queries=12, encoder_hidden_dim=16, vision_features_channels=[16] * 3,
        encoder_in_channels=[16, 32, 64], encoder_attention_heads=2, encoder_dim_feedforward=16, decoder_hidden_dim=16,
        decoder_num_heads=2, decoder_num_layers=2, decoder_dim_feedforward=16, disable_custom_kernels=True,
    )  # fmt: skip
    image = t.DetrImageProcessor(**SQUARE, do_pad=False)
    return t.OmDetTurboForObjectDetection(config), t.OmDetTurboProcessor(image, clip_tokenizer(77))


def sam3_config() -> t.Sam3Config:
    layers = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return t.Sam3Config(
        vision_config=sam3_vision(), text_config=clip_text(32), geometry_encoder_config=dict(layers),
        detr_encoder_config=dict(layers), detr_decoder_config={**layers, "num_queries": 12},
        mask_decoder_config={"hidden_size": 32, "num_upsampling_stages": 3, "num_attention_heads": 2},
    )  # fmt: skip


def sam3_vision() -> dict[str, Any]:
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 56, "pretrain_image_size": 28, "patch_size": 14, "window_size": 2,
        "global_attn_indexes": [1],
    }  # fmt: skip
    return {"backbone_config": backbone, "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}


def sam3() -> Built:
    image = t.Sam3ImageProcessor(size={"height": 56, "width": 56})
    return t.Sam3Model(sam3_config()), t.Sam3Processor(image, clip_tokenizer(32))


# Masks of points ---------------------------------------------------------------------------------------------

DECODER = {"hidden_size": 32, "num_attention_heads": 2, "mlp_dim": 32, "iou_head_hidden_dim": 16}


def sam(version: str = "") -> Built:
    vision = {
        **VIT, "hidden_size": 32, "output_channels": 32, "image_size": 64, "patch_size": 16, "window_size": 2,
        "global_attn_indexes": [1, 3], "mlp_dim": 32, "num_pos_feats": 16,
    }  # fmt: skip
    prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {**DECODER, **({"vit_dim": 32} if version else {})}
    config = getattr(t, f"Sam{version}Config")(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )
    processor = t.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    return getattr(t, f"Sam{version}Model")(config), processor


def sam_hq() -> Built:
    return sam("HQ")


def sam2_parts() -> dict[str, Any]:
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 16, "num_attention_heads": 1, "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [8, 4, 4, 4],
        "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4],
    }  # fmt: skip
    vision = {
        "backbone_config": backbone, "backbone_channel_list": [128, 64, 32, 16], "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }  # fmt: skip
    prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    return {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": dict(DECODER)}


def sam2() -> Built:
    return t.Sam2Model(t.Sam2Config(**sam2_parts())), t.Sam2ImageProcessor(size={"height": 64, "width": 64})


MEMORY = {
    "memory_attention_hidden_size": 32, "memory_attention_num_layers": 1, "memory_attention_rope_feat_sizes": [4, 4],
    "memory_attention_feed_forward_hidden_size": 32, "memory_encoder_hidden_size": 32,
    "memory_encoder_output_channels": 8, "mask_downsampler_embed_dim": 32, "memory_fuser_embed_dim": 32,
    "memory_fuser_intermediate_dim": 32,
}  # fmt: skip


def sam2_video() -> Built:
    """The published form of SAM 2."""
    config = t.Sam2VideoConfig(**sam2_parts(), **MEMORY, image_size=64)
    return t.Sam2VideoModel(config), sam2()[1]


def sam3_tracker() -> Built:
    prompt = {"hidden_size": 32, "image_size": 56, "patch_size": 14, "mask_input_channels": 4}
    config = t.Sam3TrackerConfig(
        vision_config=sam3_vision(), prompt_encoder_config=prompt, mask_decoder_config=dict(DECODER)
    )
    return t.Sam3TrackerModel(config), t.Sam3ImageProcessor(size={"height": 56, "width": 56})


def sam3_video() -> Built:
    """The published form: detector of concepts and tracker of masks in one file."""
    tracker = {
        "model_type": "sam3_tracker_video", "vision_config": sam3_vision(),
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 56, "patch_size": 14, "mask_input_channels": 4},
        "mask_decoder_config": dict(DECODER), "image_size": 56, **MEMORY,
    }  # fmt: skip
    config = t.Sam3VideoConfig(detector_config=sam3_config().to_dict(), tracker_config=tracker)
    return t.Sam3VideoModel(config), sam3()[1]
