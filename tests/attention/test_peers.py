"""Mechanisms against the maintained libraries that have them too: with their weights, their outputs and gradients.

A peer stands here if it is right, or right but for what its row switches off by name, and if no test of the mechanism's
own family compares with it. Looked at and left out:

- segmentation_models_pytorch, position attention of MAnet: one softmax over all pairs of positions, and tokens that
  become a map without a transposition.
- x-transformers, attention on attention: its gate does not see the query, which that of Huang et al. does. Latent
  attention with positions: it turns whole heads, DeepSeek-V2 turns channels beside those of every head.
- timm, gather-excite with parameters: a TypeError when it is built. Bilinear, light CBAM, strip, simple coordinate and
  efficient local attention: mechanisms that are not here.
- MONAI, fully connected CRF: needs a compiled extension.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from oracle import randomize
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import (
    CBAM,
    AttentionGate,
    ConcurrentSqueezeExcitation,
    CoordinateAttention,
    CosineAttention,
    CrossmodalAttention,
    EfficientChannelAttention,
    FeaturePyramidAttention,
    GatedInstancePooling,
    GlobalAttentionUpsample,
    GlobalContext,
    GroupedQueryAttention,
    MultiHeadCrossAttention,
    MultiHeadLatentAttention,
    MultiHeadSelfAttention,
    NonLocal,
    QueryFormer,
    SelectiveKernel,
    SqueezeExcitation,
    TalkingHeadsAttention,
)

Source = str | Callable[[Any], Mapping[str, Tensor] | Tensor]
"""Where a part of ours comes from: the name of a part of theirs, or what is computed from their weights."""


def call_ours(module: nn.Module, *inputs: Tensor, mask: Tensor | None) -> Tensor:
    return module(*inputs) if mask is None else module(*inputs, mask=mask)


def call_theirs(module: nn.Module, *inputs: Tensor, mask: Tensor | None) -> Tensor:
    assert mask is None
    return module(*inputs)


@dataclass(frozen=True)
class Peer:
    """Who has a mechanism too.

    Args:
        label: the mechanism, and the library.
        theirs: builds theirs; a library is imported by the test alone, which takes seconds.
        ours: builds ours.
        keys: from the name of a part of ours to what it is of theirs. A 1 by 1 convolution is a linear layer.
        shapes: of the inputs, in our order.
        masked: whether both take a mask of the last input as well.
        call: how theirs is called with our inputs, and a mask that is True for what takes part.
        our_call: the same of ours.
    """

    label: str
    theirs: Callable[[], nn.Module]
    ours: Callable[[], nn.Module]
    keys: Mapping[str, Source]
    shapes: tuple[tuple[int, ...], ...]
    masked: bool = False
    call: Callable[..., Tensor] = call_theirs
    our_call: Callable[..., Tensor] = call_ours


def built(where: str, *arguments: object, **named: object) -> Callable[[], nn.Module]:
    """A class of theirs as `"package.module:Class"`, and its arguments."""
    return lambda: resolve_name(where)(*arguments, **named)


def alive(module: nn.Module) -> nn.Module:
    """Random values everywhere, of which none is without effect: no softmax is saturated, and no ReLU always shut."""
    with torch.no_grad():
        for parameter in randomize(module).parameters():
            if parameter.ndim > 1:
                parameter /= parameter[0].numel() ** 0.5
            else:
                parameter.abs_()
    return module


def carried(ours: nn.Module, theirs: nn.Module, keys: Mapping[str, Source]) -> nn.Module:
    """Ours with their weights, all of them."""
    own, state = ours.double().state_dict(), {}
    for name, source in keys.items():
        found = theirs.get_submodule(source).state_dict() if isinstance(source, str) else source(theirs)
        parts = {f"{name}.{part}": x for part, x in found.items()} if isinstance(found, Mapping) else {name: found}
        state |= {part: x.detach().reshape(own[part].shape) for part, x in parts.items()}
    ours.load_state_dict(state)
    return ours


# Parts that are cut otherwise


def stacked(*names: str) -> Source:
    """Linear layers of theirs that are one of ours."""

    def source(theirs: nn.Module) -> dict[str, Tensor]:
        states = [theirs.get_submodule(name).state_dict() for name in names]
        return {part: torch.cat([state[part] for state in states]) for part in states[0]}

    return source


def unbiased(ours: str, theirs: str, our_norm: str, their_norm: str) -> dict[str, Source]:
    """Their convolution has a bias before batch normalisation: in ours the running mean takes it up."""

    def weight(peer: Any) -> dict[str, Tensor]:
        return {"weight": peer.get_submodule(theirs).weight}

    def statistics(peer: Any) -> dict[str, Tensor]:
        state = peer.get_submodule(their_norm).state_dict()
        return {**state, "running_mean": state["running_mean"] - peer.get_submodule(theirs).bias}

    return {ours: weight, our_norm: statistics}


def projections(ours: str, theirs: str) -> dict[str, Source]:
    """`nn.MultiheadAttention` has three of the four in one matrix."""

    def third(at: int, peer: Any) -> dict[str, Tensor]:
        attention = peer.get_submodule(theirs)
        return {"weight": attention.in_proj_weight.chunk(3)[at], "bias": attention.in_proj_bias.chunk(3)[at]}

    thirds = {f"{ours}.{name}": partial(third, at) for at, name in enumerate(("query", "key", "value"))}
    return {**thirds, f"{ours}.output": f"{theirs}.out_proj"}


def neighbours(rows: Tensor) -> Tensor:
    """Four heads of three rows: theirs take their two groups of keys by turns, in ours neighbours share one."""
    return rows.unflatten(0, (2, 2, 3)).transpose(0, 1).flatten(0, 2)


# Theirs, less what is not in the paper


def pyramid() -> nn.Module:
    """The paper does not say which points correspond when it interpolates: the corners in theirs, the cells in ours."""
    block = resolve_name("segmentation_models_pytorch.decoders.pan.decoder:FPABlock")(5, 5)
    block.align_corners = False
    return block


def upsample() -> nn.Module:
    """As `pyramid`; and theirs normalises and rectifies the low level, which section 3.2 only convolves."""
    block = resolve_name("segmentation_models_pytorch.decoders.pan.decoder:GAUBlock")(5, 5)
    block.align_corners = False
    block.conv2.bn, block.conv2.add_relu = nn.Identity(), False
    return block


def global_context(**fusion: bool) -> nn.Module:
    """timm's normalisation of maps has an epsilon of 1e-6, that of the authors of GCNet 1e-5."""
    block = resolve_name("timm.layers:GlobalContext")(11, rd_channels=3, **fusion)
    for layer in block.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = 1e-5
    return block


def cosine_window() -> nn.Module:
    """A single window, in which all pairs of positions have the same bias, that is none."""
    window = resolve_name("timm.models.swin_transformer_v2:WindowAttention")(12, (3, 5), 2)
    window.cpb_mlp = nn.Threshold(float("inf"), 0.0)  # zeros, for the two heads
    return window


def multiple_instances() -> nn.Module:
    """A model whose features are its inputs, and whose answer is what it pooled."""
    model = resolve_name("monai.networks.nets.milmodel:MILModel")(1, backbone=nn.Identity(), backbone_num_features=5)
    model.myfc = nn.Identity()
    return model


def two_layers_of_bert() -> nn.Module:
    """Those of the query former, of which only the first reads the memory."""
    same = {"dropout": 0.0, "activation": "gelu", "layer_norm_eps": 1e-12, "batch_first": True}
    return nn.ModuleDict(
        {
            "query": nn.Embedding(5, 12),
            "norm": nn.LayerNorm(12, eps=1e-12),
            "crossing": nn.TransformerDecoderLayer(12, 3, 24, **same),
            "plain": nn.TransformerEncoderLayer(12, 3, 24, **same),
        }
    )


def call_bert(layers: Any, memory: Tensor, mask: Tensor | None) -> Tensor:
    x = layers["norm"](layers["query"].weight).expand(len(memory), -1, -1)
    return layers["plain"](layers["crossing"](x, memory, memory_key_padding_mask=None if mask is None else ~mask))


# Peers

MAP = ((3, 11, 5, 7),)
TOKENS = ((3, 7, 12),)

TIMM = [
    *(
        Peer(
            f"se-bias={bias}-timm",
            built("timm.layers:SqueezeExcite", 11, rd_channels=3, bias=bias),
            partial(SqueezeExcitation, 11, reduction=3, bias=bias),
            {"squeeze": "fc1", "excite": "fc2"},
            MAP,
        )
        for bias in (True, False)
    ),
    *(
        Peer(
            f"eca-{channels}-timm",  # the kernel size follows the channels
            built("timm.layers:EfficientChannelAttn", channels),
            partial(EfficientChannelAttention, channels),
            {"mix": "conv"},
            ((2, channels, 3, 2),),
        )
        for channels in (11, 131)
    ),
    Peer(
        "cbam-timm",
        built("timm.layers.cbam:CbamModule", 11, rd_channels=3, spatial_kernel_size=5),
        partial(CBAM, 11, reduction=3, kernel_size=5, bias=False),
        {
            "squeeze": "channel.fc1",
            "excite": "channel.fc2",
            # The mean comes first there, the maximum here, as in the authors' code.
            "spatial": lambda theirs: {"weight": theirs.spatial.conv.conv.weight.flip(1)},
            "norm": "spatial.conv.bn",
        },
        MAP,
    ),
    Peer(
        "coordinate-timm",
        built("timm.layers.coord_attn:CoordAttn", 11, rd_channels=8, bias=True),
        partial(CoordinateAttention, 11),
        {"squeeze": "conv1", "norm": "bn1", "height": "conv_h", "width": "conv_w"},
        MAP,
    ),
    *(
        Peer(
            f"gc-{fusion}-timm",
            partial(global_context, fuse_add=fusion == "add", fuse_scale=fusion == "scale"),
            partial(GlobalContext, 11, reduction=3, fusion=fusion),
            {
                "score": "conv_attn",
                "squeeze": f"mlp_{fusion}.fc1",
                "norm": f"mlp_{fusion}.norm",
                "excite": f"mlp_{fusion}.fc2",
            },
            MAP,
        )
        for fusion in ("add", "scale")
    ),
    Peer(
        "non_local-timm",
        # Its scale, where it has one, is of the channels before the projection: the paper has none.
        built("timm.layers:NonLocalAttn", 11, use_scale=False, rd_channels=5),
        partial(NonLocal, 11),
        {"query": "t", "key": "p", "value": "g", **unbiased("output", "z", "norm", "norm")},
        MAP,
    ),
    Peer(
        "cosine-swin_v2-timm",
        cosine_window,
        partial(CosineAttention, 12, heads=2, variant="swin_v2"),
        {
            "project.weight": lambda theirs: theirs.qkv.weight,
            "project.bias": lambda theirs: torch.cat([theirs.q_bias, theirs.k_bias, theirs.v_bias]),
            "output": "proj",
            "scale": lambda theirs: theirs.logit_scale,
        },
        ((3, 15, 12),),
    ),
    *(
        Peer(
            f"sk-stride={stride}-timm",
            # It splits the input among its branches otherwise, which the paper does not.
            built("timm.layers:SelectiveKernel", 6, 10, stride=stride, groups=2, rd_channels=7, split_input=False),
            partial(SelectiveKernel, 6, 10, stride=stride, groups=2, minimum_width=7),
            {
                **{f"convolutions.{branch}.0": f"paths.{branch}.conv" for branch in (0, 1)},
                **{f"convolutions.{branch}.1": f"paths.{branch}.bn" for branch in (0, 1)},
                "squeeze.0": "attn.fc_reduce",
                "squeeze.1": "attn.bn",
                "select": "attn.fc_select",
            },
            ((3, 6, 7, 5),),
        )
        for stride in (1, 2)
    ),
]

TORCH = [
    Peer(
        "se-torchvision",
        built("torchvision.ops:SqueezeExcitation", 11, 3),
        partial(SqueezeExcitation, 11, reduction=3),
        {"squeeze": "fc1", "excite": "fc2"},
        MAP,
    ),
    Peer(
        "crossmodal-torch",
        # One layer of MulT's code that reads itself: the memory's normalisation is then the query's.
        partial(nn.TransformerEncoderLayer, 12, 3, 48, dropout=0.0, norm_first=True, batch_first=True),
        partial(CrossmodalAttention, 12, 12, heads=3, variant="code"),
        {
            **projections("attend", "self_attn"),
            "query_norm": "norm1",
            "memory_norm": "norm1",
            "norm": "norm2",
            "feed_forward.0": "linear1",
            "feed_forward.2": "linear2",
        },
        TOKENS,
        masked=True,
        call=lambda theirs, x, mask: theirs(x, src_key_padding_mask=None if mask is None else ~mask),
        our_call=lambda ours, x, mask: ours(x, x, mask),
    ),
    Peer(
        "query_former-torch",
        two_layers_of_bert,
        partial(QueryFormer, 12, queries=5, layers=2, heads=3, expansion=2),
        {
            "query": lambda theirs: theirs["query"].weight,
            "norm": "norm",
            **projections("layers.0.attention", "crossing.self_attn"),
            **projections("layers.0.crossing", "crossing.multihead_attn"),
            "layers.0.hidden": "crossing.linear1",
            "layers.0.output": "crossing.linear2",
            "layers.0.attention_norm": "crossing.norm1",
            "layers.0.crossing_norm": "crossing.norm2",
            "layers.0.output_norm": "crossing.norm3",
            **projections("layers.1.attention", "plain.self_attn"),
            "layers.1.hidden": "plain.linear1",
            "layers.1.output": "plain.linear2",
            "layers.1.attention_norm": "plain.norm1",
            "layers.1.output_norm": "plain.norm2",
        },
        TOKENS,
        masked=True,
        call=call_bert,
    ),
]

SEGMENTATION = [
    Peer(
        "scse-segmentation_models_pytorch",
        built("segmentation_models_pytorch.base.modules:SCSEModule", 11, reduction=2),
        partial(ConcurrentSqueezeExcitation, 11),
        {"squeeze": "cSE.1", "excite": "cSE.3", "spatial": "sSE.0"},
        MAP,
    ),
    Peer(
        "feature_pyramid-segmentation_models_pytorch",
        pyramid,
        partial(FeaturePyramidAttention, 5),
        {
            our_key: source
            for ours, theirs in {
                "main": "mid.0",
                "context": "branch1.1",
                "down.0": "down1.1",
                "down.1": "down2.1",
                "down.2": "down3.1",
                "across.2": "down3.2",
                "across.1": "conv2",
                "across.0": "conv1",
            }.items()
            for our_key, source in unbiased(f"{ours}.0", f"{theirs}.conv", f"{ours}.1", f"{theirs}.bn").items()
        },
        ((3, 5, 8, 24),),  # theirs takes nothing that three halvings do not divide
    ),
    Peer(
        "global_attention_upsample-segmentation_models_pytorch",
        upsample,
        partial(GlobalAttentionUpsample, 5, gate="sigmoid"),
        {**unbiased("excite", "conv1.1.conv", "norm", "conv1.1.bn"), "project": "conv2.conv"},
        ((3, 5, 2, 3), (3, 5, 7, 4)),
        call=lambda theirs, high, low, mask: theirs(low, high),
    ),
]

MONAI = [
    *(
        Peer(
            f"se-{dims}d-monai",
            built("monai.networks.blocks:ChannelSELayer", dims, 11, r=3),
            partial(SqueezeExcitation, 11, reduction=3),
            {"squeeze": "fc.0", "excite": "fc.2"},
            ((3, 11, *(5, 7, 2)[:dims]),),
        )
        for dims in (1, 2, 3)
    ),
    *(
        Peer(
            f"attention_gate-{dims}d-monai",
            built("monai.networks.nets.attentionunet:AttentionBlock", dims, f_int=3, f_g=7, f_l=11),
            partial(AttentionGate, 11, gating_channels=7, hidden_channels=3, variant="simple"),
            {
                "skip.0": "W_x.0.conv",
                "skip.1": "W_x.1",
                "gating.0": "W_g.0.conv",
                "gating.1": "W_g.1",
                "score.0": "psi.0.conv",
                "score.1": "psi.1",
            },
            ((3, 11, *(5, 7, 2)[:dims]), (3, 7, *(5, 7, 2)[:dims])),
            call=lambda theirs, x, gating, mask: theirs(gating, x),
        )
        for dims in (1, 2, 3)
    ),
    Peer(
        "multi_head_self-monai",
        built("monai.networks.blocks.selfattention:SABlock", 12, 3, qkv_bias=True),
        partial(MultiHeadSelfAttention, 12, heads=3),
        {"project": "qkv", "output": "out_proj"},
        TOKENS,
        masked=True,
        call=lambda theirs, x, mask: theirs(x, attn_mask=mask),
    ),
    Peer(
        "multi_head_cross-monai",
        built("monai.networks.blocks.crossattention:CrossAttentionBlock", 12, 3, context_input_size=5, qkv_bias=True),
        partial(MultiHeadCrossAttention, 12, 5, heads=3),
        {"query": "to_q", "key": "to_k", "value": "to_v", "output": "out_proj"},
        ((3, 7, 12), (3, 11, 5)),
    ),
    Peer(
        "gated_instance-monai",
        multiple_instances,
        partial(GatedInstancePooling, None, 5, hidden_width=2048, gated=False, bias=True),
        {"hidden": "attention.0", "vector": "attention.2"},
        ((3, 7, 5),),
        call=lambda theirs, memory, mask: theirs(memory[..., None, None])[:, None],
        our_call=lambda ours, memory, mask: ours(None, memory),
    ),
]


def attention(**named: object) -> Callable[[], nn.Module]:
    """Four heads; fused, because their own softmax is of single precision."""
    return built("x_transformers.x_transformers:Attention", 12, **{"heads": 4, "dim_head": 3, "flash": True} | named)


def call_x_transformers(module: nn.Module, x: Tensor, *memory: Tensor, mask: Tensor | None) -> Tensor:
    return module(x, *memory, context_mask=mask)


PROJECTIONS = {"project": stacked("to_q", "to_k", "to_v"), "output": "to_out"}

X_TRANSFORMERS = [
    Peer(f"{label}-x_transformers", theirs, ours, keys, shapes, masked=True, call=call_x_transformers)
    for label, theirs, ours, keys, shapes in (
        (
            "multi_head_self",
            attention(),
            partial(MultiHeadSelfAttention, 12, heads=4, bias=False),
            PROJECTIONS,
            TOKENS,
        ),
        (
            "multi_head_cross",
            attention(dim_context=5),
            partial(MultiHeadCrossAttention, 12, 5, heads=4, bias=False),
            {"query": "to_q", "key": "to_k", "value": "to_v", "output": "to_out"},
            ((3, 7, 12), (3, 11, 5)),
        ),
        (
            "talking_heads",
            attention(
                flash=False, custom_attn_fn=partial(F.softmax, dim=-1), pre_talking_heads=True, post_talking_heads=True
            ),
            partial(TalkingHeadsAttention, 12, heads=4),
            {
                **PROJECTIONS,
                # There the heads add what they exchange to their own scores.
                "mix_scores.weight": lambda theirs: (
                    theirs.attend.pre_softmax_talking_heads.weight[..., 0, 0] + torch.eye(4)
                ),
                "mix_weights": "attend.post_softmax_talking_heads",
            },
            TOKENS,
        ),
        (
            "cosine",
            attention(qk_norm=True, qk_norm_scale=7),
            partial(CosineAttention, 12, heads=4, bias=False),
            {**PROJECTIONS, "scale": lambda theirs: torch.tensor(7.0)},
            TOKENS,
        ),
        (
            "multi_query",
            attention(kv_heads=1),
            partial(GroupedQueryAttention, 12, heads=4, groups=1),
            PROJECTIONS,
            TOKENS,
        ),
        (
            "grouped_query",
            attention(kv_heads=2),
            partial(GroupedQueryAttention, 12, heads=4, groups=2),
            {
                "project.weight": lambda theirs: torch.cat(
                    [neighbours(theirs.to_q.weight), theirs.to_k.weight, theirs.to_v.weight]
                ),
                "output.weight": lambda theirs: neighbours(theirs.to_out.weight.T).T,
            },
            TOKENS,
        ),
        (
            "latent",  # without positions
            attention(causal=True, use_latent_q=True, dim_latent_q=5, use_latent_kv=True, dim_latent_kv=7),
            partial(MultiHeadLatentAttention, 12, heads=4, query_rank=5, key_rank=7, rotary_width=0),
            {
                "project": stacked("to_latent_kv", "to_latent_q"),
                "expand_key_value": stacked("to_k", "to_v"),
                "expand_query": "to_q",
                "output": "to_out",
            },
            TOKENS,
        ),
    )
]

PEERS = [
    *(pytest.param(peer, id=peer.label) for peer in [*TIMM, *TORCH, *SEGMENTATION]),
    *(pytest.param(peer, id=peer.label, marks=pytest.mark.slow) for peer in MONAI),  # four seconds to import
    *(
        pytest.param(
            peer,
            id=peer.label,
            # It scripts a function when it is imported, which PyTorch advises against.
            marks=pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
        )
        for peer in X_TRANSFORMERS
    ),
]


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
@pytest.mark.parametrize("peer", PEERS)
def test_gives_what_its_peer_gives_with_the_same_gradients(peer, training):
    theirs = alive(peer.theirs()).train(training)
    ours = carried(peer.ours(), theirs, peer.keys).train(training)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in peer.shapes]
    mask = torch.rand(inputs[-1].shape[:2]) < 0.6
    mask[:, 0] = True
    for given in (None, mask) if peer.masked else (None,):
        expected = peer.call(theirs, *inputs, mask=given)
        found = peer.our_call(ours, *inputs, mask=given)
        torch.testing.assert_close(found, expected)
        upstream = torch.randn_like(expected)
        gradients = torch.autograd.grad(expected, inputs, upstream)
        assert all(gradient.abs().max() > 1e-3 for gradient in gradients)
        torch.testing.assert_close(torch.autograd.grad(found, inputs, upstream), gradients)
