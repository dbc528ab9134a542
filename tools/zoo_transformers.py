"""Vision and vision-language models of Hugging Face transformers, from small configurations: nothing is downloaded."""

from functools import partial
from typing import Any

from torch import Tensor

from zoo_inputs import Build, Built, image, pair, words

WIDE: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
"""A transformer, in the words of most configurations."""

SEES: dict[str, Any] = {**WIDE, "image_size": 32, "patch_size": 8}
READS: dict[str, Any] = {**WIDE, "vocab_size": 97, "max_position_embeddings": 31, "bos_token_id": 0, "eos_token_id": 2}
BOTH: dict[str, Any] = {"vision_config": SEES, "text_config": READS, "projection_dim": 16}

STAGES: dict[str, Any] = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
"""A network of four stages."""

PYRAMID: dict[str, Any] = {
    **STAGES,
    "num_attention_heads": [1, 2, 3, 4],
    "sr_ratios": [8, 4, 2, 1],
    "mlp_ratios": [2, 2, 2, 2],
}
SWIN: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": 12,
    "depths": [1, 1, 2],
    "num_heads": [2, 2, 4],
    "window_size": 4,
}
SWIN_4: dict[str, Any] = {**SWIN, "depths": [1, 1, 2, 1], "num_heads": [2, 2, 4, 4]}

BACKBONE: dict[str, Any] = {
    **STAGES,
    "model_type": "resnet",
    "embedding_size": 8,
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
LAST: dict[str, Any] = {**BACKBONE, "out_features": ["stage4"]}
DETR: dict[str, Any] = {
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 7,
}

IMAGES: dict[str, tuple[str, dict[str, Any], int]] = {
    "beit": ("BeitForImageClassification", SEES, 32),
    "beit_segmentation": (
        "BeitForSemanticSegmentation",
        {**SEES, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]},
        32,
    ),
    "bit": ("BitForImageClassification", {**STAGES, "embedding_size": 32, "hidden_sizes": [128, 128, 256, 256]}, 64),
    "clip_vision": ("CLIPVisionModel", SEES, 32),
    "conditional_detr": ("ConditionalDetrForObjectDetection", {**DETR, "backbone_config": LAST}, 64),
    "convnext": ("ConvNextForImageClassification", STAGES, 64),
    "convnextv2": ("ConvNextV2ForImageClassification", STAGES, 64),
    "cvt": ("CvtForImageClassification", {"embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}, 64),
    "dab_detr": ("DabDetrForObjectDetection", {**DETR, "hidden_size": 24, "backbone_config": LAST}, 64),
    "data2vec_vision": ("Data2VecVisionForImageClassification", SEES, 32),
    "deformable_detr": (
        "DeformableDetrForObjectDetection",
        {**DETR, "d_model": 32, "num_feature_levels": 3, "backbone_config": BACKBONE, "disable_custom_kernels": True},
        64,
    ),
    "deit": ("DeiTForImageClassification", SEES, 32),
    "depth_anything": (
        "DepthAnythingForDepthEstimation",
        {
            "backbone_config": {
                **SEES,
                "model_type": "dinov2",
                "num_hidden_layers": 4,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
                "reshape_hidden_states": False,
            },
            "patch_size": 8,
            "reassemble_hidden_size": 24,
            "neck_hidden_sizes": [8, 16, 24, 24],
            "fusion_hidden_size": 16,
            "head_hidden_size": 8,
        },
        32,
    ),
    "detr": ("DetrForObjectDetection", {**DETR, "backbone_config": LAST}, 64),
    "detr_segmentation": (
        "DetrForSegmentation",
        {**DETR, "d_model": 32, "encoder_attention_heads": 8, "backbone_config": BACKBONE},
        64,
    ),
    "dinov2": ("Dinov2ForImageClassification", SEES, 32),
    "dinov2_with_registers": ("Dinov2WithRegistersForImageClassification", SEES, 32),
    "dinov3_convnext": ("DINOv3ConvNextModel", STAGES, 64),
    "dinov3_vit": ("DINOv3ViTModel", {**SEES, "num_attention_heads": 3, "num_register_tokens": 3}, 32),
    "donut_swin": ("DonutSwinForImageClassification", SWIN, 64),
    "dpt": (
        "DPTForDepthEstimation",
        {
            **SEES,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 16, 24, 24],
            "fusion_hidden_size": 16,
        },
        32,
    ),
    "efficientnet": (
        "EfficientNetForImageClassification",
        {"image_size": 64, "hidden_dim": 1280, "width_coefficient": 1.0, "depth_coefficient": 1.0},
        64,
    ),
    "focalnet": ("FocalNetForImageClassification", {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 2, 1]}, 64),
    "glpn": ("GLPNForDepthEstimation", {**PYRAMID, "decoder_hidden_size": 16}, 64),
    "hgnet_v2": ("HGNetV2ForImageClassification", {}, 64),
    "hiera": (
        "HieraForImageClassification",
        {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
        64,
    ),
    "ijepa": ("IJepaForImageClassification", SEES, 32),
    "levit": (
        "LevitForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        64,
    ),
    "mask2former": (
        "Mask2FormerForUniversalSegmentation",
        {
            "backbone_config": {
                **SWIN_4,
                "model_type": "swin",
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 48,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "num_attention_heads": 4,
            "dim_feedforward": 48,
            "num_queries": 7,
        },
        64,
    ),
    "maskformer": (
        "MaskFormerForInstanceSegmentation",
        {
            "backbone_config": {
                **SWIN_4,
                "model_type": "swin",
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "decoder_config": {**DETR, "model_type": "detr", "d_model": 32},
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
        },
        64,
    ),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", {"depth_multiplier": 0.25}, 64),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.35}, 64),
    "mobilevit": ("MobileViTForImageClassification", {}, 64),
    "mobilevit_segmentation": ("MobileViTForSemanticSegmentation", {}, 64),
    "mobilevitv2": ("MobileViTV2ForImageClassification", {"width_multiplier": 0.5}, 64),
    "poolformer": ("PoolFormerForImageClassification", STAGES, 64),
    "pp_lcnet": ("PPLCNetForImageClassification", {}, 64),
    "pvt": ("PvtForImageClassification", {**PYRAMID, "image_size": 64}, 64),
    "pvt_v2": ("PvtV2ForImageClassification", {**PYRAMID, "image_size": 64}, 64),
    "regnet": ("RegNetForImageClassification", {**STAGES, "embedding_size": 8, "groups_width": 4}, 64),
    "resnet": ("ResNetForImageClassification", {**STAGES, "embedding_size": 8, "layer_type": "basic"}, 64),
    "rt_detr": (
        "RTDetrForObjectDetection",
        {
            **DETR,
            "backbone_config": {**BACKBONE, "model_type": "rt_detr_resnet"},
            "encoder_hidden_dim": 24,
            "encoder_in_channels": [16, 24, 32],
            "decoder_in_channels": [24, 24, 24],
        },
        64,
    ),
    "segformer": ("SegformerForImageClassification", PYRAMID, 64),
    "segformer_segmentation": ("SegformerForSemanticSegmentation", {**PYRAMID, "decoder_hidden_size": 16}, 64),
    "siglip_vision": ("SiglipVisionModel", SEES, 32),
    "swiftformer": ("SwiftFormerForImageClassification", {"embed_dims": [16, 24, 32, 40], "depths": [1, 1, 2, 1]}, 64),
    "swin": ("SwinForImageClassification", SWIN, 64),
    "swin2sr": ("Swin2SRForImageSuperResolution", {**SWIN, "image_size": 16, "upscale": 2}, 16),
    "swinv2": ("Swinv2ForImageClassification", SWIN, 64),
    "table_transformer": ("TableTransformerForObjectDetection", {**DETR, "backbone_config": LAST}, 64),
    "textnet": (
        "TextNetForImageClassification",
        {
            "conv_layer_kernel_sizes": [[[3, 3]] * 2] * 4,
            "conv_layer_strides": [[1, 2]] * 4,
            "hidden_sizes": [8, 8, 16, 24, 32],
            "stem_out_channels": 8,
        },
        64,
    ),
    "upernet": (
        "UperNetForSemanticSegmentation",
        {
            "backbone_config": {**BACKBONE, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
            "hidden_size": 16,
            "pool_scales": [1, 2],
            "auxiliary_in_channels": 24,
            "auxiliary_channels": 16,
        },
        64,
    ),
    "vit": ("ViTForImageClassification", SEES, 32),
    "vit_mae": ("ViTMAEModel", SEES, 32),
    "vit_msn": ("ViTMSNForImageClassification", SEES, 32),
    "vitdet": ("VitDetModel", SEES, 32),
    "vitmatte": (
        "VitMatteForImageMatting",
        {
            "backbone_config": {
                **SEES,
                "model_type": "vitdet",
                "patch_size": 16,
                "num_channels": 4,
                "out_features": ["stage2"],
            },
            "hidden_size": 24,
            "convstream_hidden_sizes": [8, 16, 24],
            "fusion_hidden_sizes": [24, 16, 16, 8],
        },
        32,
    ),
    "yolos": ("YolosForObjectDetection", {**SEES, "image_size": [32, 32], "num_detection_tokens": 5}, 32),
}
"""What sees only: the class of the model, what its configuration is told, and the size of the image."""

SEES_AND_READS: dict[str, tuple[str, dict[str, Any]]] = {
    "altclip": ("AltCLIPModel", {**BOTH, "text_config": {**READS, "project_dim": 24, "pad_token_id": 1}}),
    "blip": ("BlipModel", BOTH),
    "blip_captioning": ("BlipForConditionalGeneration", BOTH),
    "blip_retrieval": ("BlipForImageTextRetrieval", {**BOTH, "image_text_hidden_size": 16}),
    "bridgetower": (
        "BridgeTowerModel",
        {
            **WIDE,
            "text_config": READS,
            "vision_config": {"hidden_size": 64, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
        },
    ),
    "chinese_clip": ("ChineseCLIPModel", {**BOTH, "text_config": {**READS, "pad_token_id": 0}}),
    "clip": ("CLIPModel", BOTH),
    "clipseg": (
        "CLIPSegForImageSegmentation",
        {
            **BOTH,
            "projection_dim": 24,
            "extract_layers": [0, 1],
            "reduce_dim": 16,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 32,
            "conditional_layer": 0,
        },
    ),
    "git": ("GitForCausalLM", {**READS, "vision_config": SEES, "pad_token_id": 1}),
    "metaclip_2": ("MetaClip2Model", BOTH),
    "siglip": ("SiglipModel", {"vision_config": SEES, "text_config": {**READS, "projection_size": 24}}),
    "vilt": ("ViltModel", {**READS, **SEES}),
    "vilt_vqa": ("ViltForQuestionAnswering", {**READS, **SEES}),
}
"""What takes an image of 32 pixels and a sentence."""


def models() -> dict[str, Build]:
    """All of them."""
    found: dict[str, Build] = {}
    for name, (kind, settings, size) in IMAGES.items():
        pixels = image(2, 4, size, size) if name == "vitmatte" else pair(size)
        found[name] = partial(build, kind, settings, {"pixel_values": pixels})
    for name, (kind, settings) in SEES_AND_READS.items():
        found[name] = partial(build, kind, settings, {"input_ids": words(), "pixel_values": pair(32)})
    question = {"input_ids": words(), "pixel_values": pair(32), "decoder_input_ids": words(5)}
    found["blip_vqa"] = partial(build, "BlipForQuestionAnswering", BOTH, question)
    blip_2 = {
        "vision_config": SEES,
        "qformer_config": {**READS, "encoder_hidden_size": 24},
        "text_config": {
            "model_type": "opt",
            **READS,
            "ffn_dim": 48,
            "word_embed_proj_dim": 24,
            "pad_token_id": 1,
        },
        "num_query_tokens": 5,
        "image_token_index": 96,
    }
    prompt = words(12)
    prompt[:, :5] = 96
    found["blip_2"] = partial(
        build, "Blip2ForConditionalGeneration", blip_2, {"input_ids": prompt, "pixel_values": pair(32)}
    )
    llava = {
        "vision_config": {**SEES, "model_type": "clip_vision_model"},
        "text_config": {**READS, "model_type": "llama", "num_key_value_heads": 2},
        "image_token_index": 96,
    }
    prompt = words(20)
    prompt[:, 1:17] = 96
    found["llava"] = partial(
        build, "LlavaForConditionalGeneration", llava, {"input_ids": prompt, "pixel_values": pair(32)}
    )
    video = image(2, 4, 3, 32, 32)
    found["videomae"] = partial(
        build, "VideoMAEForVideoClassification", {**SEES, "num_frames": 4}, {"pixel_values": video}
    )
    found["timesformer"] = partial(
        build, "TimesformerForVideoClassification", {**SEES, "num_frames": 4}, {"pixel_values": video}
    )
    vivit = {**SEES, "num_frames": 4, "tubelet_size": [2, 8, 8]}
    found["vivit"] = partial(build, "VivitForVideoClassification", vivit, {"pixel_values": video})
    features: dict[str, Tensor] = {"visual_feats": image(2, 5, 11), "visual_pos": image(2, 5, 4).sigmoid()}
    lxmert = {**READS, "visual_feat_dim": 11, "l_layers": 2, "x_layers": 2, "r_layers": 2}
    found["lxmert"] = partial(build, "LxmertModel", lxmert, {"input_ids": words(), **features})
    found["visual_bert"] = partial(
        build,
        "VisualBertModel",
        {**READS, "visual_embedding_dim": 11},
        {"input_ids": words(), "visual_embeds": image(2, 5, 11)},
    )
    return found


def build(kind: str, settings: dict[str, Any], inputs: dict[str, Tensor]) -> Built:
    """A model from the settings of its configuration."""
    import transformers

    transformers.logging.set_verbosity_error()
    model_class = getattr(transformers, kind)
    return model_class(model_class.config_class(**settings)), inputs
