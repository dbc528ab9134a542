"""Public models, small and with random weights, each with an input that it takes: what `tools/placing.py` tries."""

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

import zoo_transformers
from regard.running import Inputs, undisturbed
from zoo_inputs import Build, Built, image, pair

SIZES = (64, 96, 128)
"""The image sizes that are tried before a model's own."""

TIMM = """
bat_resnext26ts beit_base_patch16_224 beitv2_base_patch16_224 botnet26t_256 caformer_s18 cait_s24_224 cait_xxs24_224
coat_lite_tiny coat_tiny coatnet_pico_rw_224 coatnext_nano_rw_224 convformer_s18 convit_tiny convmixer_1024_20_ks9_p14
convmixer_768_32 convnext_atto convnextv2_atto cpubone_nano crossvit_9_240 crossvit_tiny_240 cs3darknet_focus_s csatv2
cspdarknet53 cspnext_tiny cspresnet50 darknet17 davit_tiny deepseek_vit_412m deit3_small_patch16_224
deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 densenet121 densenetblur121d dla34 dla46x_c dpn48b dpn68
eca_halonext26ts eca_nfnet_l0 eca_vovnet39b ecaresnet26t edgenext_small edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientnet_b0 efficientnet_cc_b0_4e efficientnet_es efficientnet_lite0 efficientnetv2_rw_t
efficientvim_m1 efficientvit_b0 efficientvit_l1 efficientvit_m0 ese_vovnet19b_slim_dw eva02_tiny_patch14_224
fasternet_t0 fastvit_sa12 fastvit_t8 fbnetc_100 fbnetv3_b flexivit_small focalnet_tiny_srf gc_efficientnetv2_rw_t
gcresnet33ts gcvit_xxtiny gemma4_vit_167m gernet_s ghostnet_050 ghostnet_100 ghostnetv3_050 gmixer_12_224
gmlp_ti16_224 halonet_h1 haloregnetz_b hardcorenas_b hgnet_tiny hgnetv2_b0 hiera_tiny_224 hieradet_small
hrnet_w18_small hrnet_w18_small_v2 iformer_t inception_next_atto inception_next_tiny inception_resnet_v2 inception_v3
inception_v4 lambda_resnet26t lamhalobotnet50ts_256 lcnet_035 lcnetv2_small legacy_senet154 legacy_seresnet18
legacy_seresnext26_32x4d legacy_xception levit_128s levit_conv_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256
maxxvit_rmlp_nano_rw_256 maxxvitv2_nano_rw_256 mixer_s16_224 mixnet_s mnasnet_050 mobilenet_edgetpu_v2_xs
mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv4_hybrid_medium mobilenetv5_base mobileone_s1
mobilevit_xxs mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small
nf_regnet_b0 nf_resnet26 nf_seresnet26 nfnet_l0 pit_ti_224 pit_ti_distilled_224 pnasnet5large poolformer_s12
poolformerv2_s12 pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 regnety_002 regnetz_005 regnetz_b16 repghostnet_050
repvgg_a0 repvit_m1 res2net50_26w_4s res2net50d res2next50 resmlp_12_224 resnest14d resnest26d resnet10t resnet18
resnet32ts resnet50 resnetaa34d resnetblur18 resnetrs50 resnetv2_18 resnetv2_50 resnetv2_50x1_bit resnext26ts
rexnet_100 rexnetr_100 sam2_hiera_tiny samvit_base_patch16_224 sebotnet33ts_256 sedarknet21 sehalonet33ts selecsls42
selecsls60b semnasnet_050 sequencer2d_s seresnet18 seresnext26ts shvit_s1 skresnet18 skresnext50_32x4d spnasnet_100
starnet_s050 swiftformer_xs swin_s3_tiny_224 swin_tiny_patch4_window7_224 swinv2_cr_small_ns_224 swinv2_cr_tiny_224
swinv2_tiny_window16_256 tf_efficientnetv2_b0 tiny_vit_5m_224 tinynet_e tnt_s_legacy_patch16_224 tnt_s_patch16_224
tresnet_m twins_pcpvt_small twins_svt_small vgg11 visformer_tiny vit_base_patch16_dinov3 vit_base_resnet26d_224
vit_little_patch16_reg1_gap_256 vit_medium_patch16_rope_reg1_gap_256 vit_pe_core_tiny_patch16_384
vit_relpos_small_patch16_224 vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2 vit_small_patch16_dinov3
vit_small_r26_s32_224 vit_srelpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_patch16_dinov3_qkvb
vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 vovnet39a wide_resnet50_2 xception41 xception41p
xcit_nano_12_p8_224 xcit_tiny_12_p8_224
"""
"""One architecture of every module of timm, mostly the smallest, and more that differ in their blocks."""

SHALLOW: dict[str, dict[str, Any]] = {"deepseek_vit_412m": {"depth": 2}, "gemma4_vit_167m": {"depth": 2}}
"""What the largest of them are told."""


def models() -> dict[str, Build]:
    """Every model, by `package/name`. Packages that are not installed are left out."""
    families: dict[str, Callable[[], Mapping[str, Build]]] = {
        "timm": timm_models,
        "torchvision": torchvision_models,
        "segmentation_models_pytorch": segmentation_models,
        "transformers": zoo_transformers.models,
        "monai": monai_models,
        "torch": plain_models,
        "ultralytics": ultralytics_models,
    }
    return {
        f"{package}/{name}": build
        for package, family in families.items()
        if find_spec(package)
        for name, build in family().items()
    }


def smallest(model: nn.Module) -> tuple[Tensor]:
    """A pair of images of the first size that the model takes."""
    return (next((pair(size) for size in SIZES if takes(model, pair(size))), pair(224)),)


def takes(model: nn.Module, *inputs: Any) -> bool:
    """Whether the model runs on these."""
    try:
        with undisturbed(model):
            Inputs(inputs).run(model)
    except Exception:
        return False
    return True


def timm_models() -> dict[str, Build]:
    """Those of `TIMM`."""
    return {name: partial(build_timm, name) for name in TIMM.split()}


def build_timm(name: str) -> Built:
    """The model at the smallest size that it takes, told to the constructor where that has to know."""
    import timm
    from timm.models import get_pretrained_cfg_value

    told = {"num_classes": 7, **SHALLOW.get(name, {})}
    if not get_pretrained_cfg_value(name, "fixed_input_size"):
        model = timm.create_model(name, **told)
        for size in SIZES:
            if takes(model, pair(size)):
                return model, (pair(size),)
    for size in SIZES:
        try:
            model = timm.create_model(name, **told, img_size=size)
        except Exception:
            continue
        if takes(model, pair(size)):
            return model, (pair(size),)
    own = get_pretrained_cfg_value(name, "input_size") or (3, 224, 224)
    return timm.create_model(name, **told), (image(2, *own),)


def torchvision_models() -> dict[str, Build]:
    """All but those of 8-bit integers, which have the graphs of the others."""
    from torchvision import models as tv

    found: dict[str, Build] = {}
    for modules, build in (
        ((tv,), build_torchvision),
        ((tv.detection,), build_detector),
        ((tv.segmentation,), build_segmenter),
        ((tv.video,), build_video),
        ((tv.optical_flow,), build_flow),
    ):
        for module in modules:
            found |= {name: partial(build, name) for name in tv.list_models(module=module)}
    return found


def build_torchvision(name: str) -> Built:
    """A classifier. Transformers are told the size of the image."""
    from torchvision.models import get_model

    if name.startswith("vit"):
        size = 56 if name == "vit_h_14" else 64
        return get_model(name, weights=None, num_classes=7, image_size=size), (pair(size),)
    if name.startswith("maxvit"):
        return get_model(name, weights=None, num_classes=7, input_size=(224, 224)), (pair(224),)
    # Inception's auxiliary classifier pools as if the image had its own size.
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = get_model(name, weights=None, num_classes=7, **extra)
    return model, smallest(model)


def build_detector(name: str) -> Built:
    """A detector, which takes a list of images. It keeps every box: random weights are sure of none.

    In double precision: it sorts by scores that hardly differ, and rounding would decide on the order.
    """
    from torchvision.models import get_model

    size = 64
    extra: dict[str, Any] = {}
    if name.startswith(("fasterrcnn", "maskrcnn", "keypointrcnn")):
        extra = {"min_size": size, "max_size": size, "box_score_thresh": 0.0, "rpn_post_nms_top_n_test": 8}
    elif name.startswith(("fcos", "retinanet")):
        extra = {"min_size": size, "max_size": size, "score_thresh": 0.0}
    elif name.startswith("ssd"):
        extra = {"score_thresh": 0.0}
    model = get_model(name, weights=None, weights_backbone=None, num_classes=3, **extra)
    return model.double(), ([*image(2, 3, size, size).double()],)


def build_segmenter(name: str) -> Built:
    """A segmentation model."""
    from torchvision.models import get_model

    return get_model(name, weights=None, weights_backbone=None, num_classes=3), (pair(64),)


def build_video(name: str) -> Built:
    """A video classifier."""
    from torchvision.models import get_model

    if name.startswith("mvit"):
        return multiscale_transformer(second="v2" in name), (image(2, 3, 4, 64, 64),)
    shape = (1, 3, 16, 224, 224) if name == "s3d" else (2, 3, 4, 64, 64)  # S3D's last pooling has the size of its map
    return get_model(name, weights=None, num_classes=7), (image(*shape),)


def multiscale_transformer(second: bool) -> nn.Module:
    """MViT of the first or second version with four blocks: torchvision's builders know one size only."""
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(heads, given, made, [3, 3, 3], [3, 3, 3], [1, step, step], [1, reduced, reduced])
        for heads, given, made, step, reduced in (
            (1, 16, 16, 1, 4),
            (2, 16, 32, 2, 2),
            (2, 32, 32, 1, 2),
            (4, 32, 64, 2, 1),
        )
    ]
    return MViT(
        spatial_size=(64, 64),
        temporal_size=4,
        block_setting=blocks,
        residual_pool=second,
        residual_with_cls_embed=not second,
        rel_pos_embed=second,
        proj_after_attn=second,
        num_classes=7,
    )


def build_flow(name: str) -> Built:
    """A model of the motion between two images."""
    from torchvision.models import get_model

    return get_model(name, weights=None), (image(1, 3, 128, 128), image(1, 3, 128, 128).flip(3), 2)


def segmentation_models() -> dict[str, Build]:
    """Every decoder of segmentation-models-pytorch behind a ResNet-18, and three other encoders."""
    import segmentation_models_pytorch as smp

    found: dict[str, Build] = {}
    for name in smp.MODEL_ARCHITECTURES_MAPPING:
        encoder = "tu-vit_tiny_patch16_224" if name == "dpt" else "resnet18"
        found[name] = partial(build_decoder, name, encoder)
    for encoder in ("mit_b0", "efficientnet-b0", "tu-convnext_atto"):
        found[f"unet-{encoder}"] = partial(build_decoder, "unet", encoder)
    return found


def build_decoder(name: str, encoder: str) -> Built:
    """One decoder."""
    import segmentation_models_pytorch as smp

    extra = {"dynamic_img_size": True} if name == "dpt" else {}
    model = smp.create_model(name, encoder_name=encoder, encoder_weights=None, classes=3, **extra)
    return model, smallest(model)


def plain_models() -> dict[str, Build]:
    """What people write themselves."""
    return {
        "sequential": lambda: (sequential(), (pair(16),)),
        "residual_1d": lambda: (residual_1d(), (image(2, 3, 32),)),
        "transformer_encoder": lambda: (transformer_encoder(), (image(2, 11, 16),)),
    }


def sequential() -> nn.Module:
    """Convolutions in a row."""
    layers: list[nn.Module] = []
    for given, made in ((3, 8), (8, 16), (16, 24)):
        layers.append(nn.Sequential(nn.Conv2d(given, made, 3, 2, 1), nn.BatchNorm2d(made), nn.ReLU(inplace=True)))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 7))


class Residual1d(nn.Module):
    """`x + convolution(x)` of a sequence."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


def residual_1d() -> nn.Module:
    """A residual network for sequences."""
    return nn.Sequential(
        nn.Conv1d(3, 16, 7, stride=2, padding=3),
        nn.Sequential(Residual1d(16), Residual1d(16)),
        nn.Conv1d(16, 24, 3, stride=2, padding=1),
        nn.Sequential(Residual1d(24), Residual1d(24)),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(24, 7),
    )


def transformer_encoder() -> nn.Module:
    """The encoder of torch itself, without its fused path, which runs no hooks."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def monai_models() -> dict[str, Build]:
    """Networks of MONAI in two and three dimensions."""
    shape: dict[int, tuple[int, ...]] = {2: (64, 64), 3: (32, 32, 32)}
    steps: dict[str, Any] = {"channels": (8, 16, 24), "strides": (2, 2)}
    classes: dict[str, Any] = {"in_channels": 1, "out_channels": 3}
    networks: dict[str, dict[str, Any]] = {
        "UNet": {**classes, **steps, "num_res_units": 2},
        "SegResNet": {**classes, "init_filters": 8, "blocks_down": (1, 2, 2), "blocks_up": (1, 1)},
        "SegResNetDS": {**classes, "init_filters": 8, "blocks_down": (1, 2, 2)},
        "AttentionUnet": {**classes, **steps},
        "BasicUNet": {**classes, "features": (8, 8, 16, 24, 32, 8)},
        "BasicUNetPlusPlus": {**classes, "features": (8, 8, 16, 24, 32, 8)},
        "DynUNet": {**classes, "filters": (8, 16, 24), "upsample_kernel_size": (2, 2)},
        "VNet": {**classes},
        "SwinUNETR": {**classes, "feature_size": 12},
        "UNETR": {**classes, "feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 4},
        "DenseNet121": {**classes},
        "ResNet": {"block": "basic", "layers": (1, 1, 1, 1), "block_inplanes": (8, 16, 24, 32), "num_classes": 3},
        "MedNeXt": {**classes, "init_filters": 8},
        "HighResNet": {**classes},
        "SEResNet50": {"in_channels": 1, "num_classes": 3},
        "ViT": {"in_channels": 1, "patch_size": 16, "hidden_size": 24, "mlp_dim": 48, "num_layers": 2, "num_heads": 4},
    }
    shapes = {"SwinUNETR": {2: (64, 32), 3: (64, 32, 32)}}  # its last map must be more than one position
    return {
        f"{name}-{rank}d": partial(build_monai, name, rank, shapes.get(name, shape)[rank], settings)
        for name, settings in networks.items()
        for rank in (2, 3)
    }


def build_monai(name: str, rank: int, shape: tuple[int, ...], settings: dict[str, Any]) -> Built:
    """One network."""
    from monai.networks import nets

    extra: dict[str, Any] = {"spatial_dims": rank}
    if name in ("UNETR", "ViT"):
        extra["img_size"] = shape
    if name == "DynUNet":
        extra |= {"kernel_size": (3, 3, 3), "strides": (1, 2, 2)}
    if name == "ResNet":
        extra |= {"n_input_channels": 1}
    if name == "VNet":
        extra |= {"dropout_dim": rank}
    model = getattr(nets, name)(**settings, **extra)
    return model, (image(2, 1, *shape),)


def ultralytics_models() -> dict[str, Build]:
    """YOLO graphs, as the package itself writes them down. It is no dependency: its licence is the AGPL."""
    names = (
        *("yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-cls", "yolov9t"),
        *("yolov10n", "yolo11n", "yolo11n-seg", "yolo12n", "yolo26n"),
    )
    return {name: partial(build_yolo, name) for name in names}


def build_yolo(name: str) -> Built:
    """One graph."""
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="ultralytics-"))  # it keeps settings
    os.environ.setdefault("YOLO_VERBOSE", "False")
    from ultralytics.nn import tasks  # pyright: ignore[reportMissingImports]

    kinds = {"seg": tasks.SegmentationModel, "pose": tasks.PoseModel, "cls": tasks.ClassificationModel}
    kind = kinds.get(name.partition("-")[2], tasks.DetectionModel)
    return kind(f"{name}.yaml", verbose=False), (pair(64),)
