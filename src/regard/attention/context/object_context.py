"""Object-contextual representations."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact


class ObjectContext(Refine):
    """Object-contextual representations: every position reads the objects of the map, found as soft regions.

        l_kp = c_k · x_p + b_k                               K soft regions, one for each class of objects
        f_k  = Σ_p softmax over p of l_kp · x_p              the representation of a region
        w_pk = softmax over k of φ(x_p) · ψ(f_k)
        y_p  = g([x_p; ρ(Σ_k w_pk δ(f_k))])

    φ, ψ and δ go to d channels, ρ and g to C, each `relu(bn(W ·))` with weights of its own. The paper trains `l` with a
    cross-entropy against the true classes: it is offered as the map `logit`, through which gradients flow.

    Paper: Yuan, Chen, Wang, "Object-Contextual Representations for Semantic Segmentation", ECCV 2020, section 3.

    Args:
        channels: channels `C` of the map.
        regions: how many regions `K`; default 19, the classes of Cityscapes.
        reduction: `C / d`; default 2, the paper's choice. There is at least one channel.
        scaled: whether `φ · ψ` is divided by `√d`; default False.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        logit: `(batch, region, *spatial)`, `l`: the scores of the regions, to be supervised.
        region: `(batch, region, *spatial)`, where each region lies: sums to one over all positions.
        relation: `(batch, region, *spatial)`, what each position reads: sums to one over the regions.

    Raises:
        ValueError: `reduction` is less than one.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "object_context"
    aliases: ClassVar[tuple[str, ...]] = ("ocr", "ocrnet", "object_attention_block")
    paper: ClassVar[Paper] = Paper(
        "Object-Contextual Representations for Semantic Segmentation", "Yuan et al.", "ECCV", 2020
    )
    formula: ClassVar[str] = (
        "y_p = g([x_p; ρ(Σ_k softmax_k(φ(x_p) · ψ(f_k)) δ(f_k))]) with f_k = Σ_p softmax_p(l_kp) x_p"
    )
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("logit", ("batch", "region", SPATIAL)),
        MapFact("region", ("batch", "region", SPATIAL), (SPATIAL,)),
        MapFact("relation", ("batch", "region", SPATIAL), ("region",)),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "K*(C + 1) + 4*C*d + 6*d + 2*C + 2*C*C + 2*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels", "K": "regions"}
    deviations: ClassVar[tuple[str, ...]] = ("scaled=True: scores are divided by √d, as in the authors' code",)
    placement: ClassVar[str] = "after the last stage of a segmentation network"
    place = "last_stage"

    def __init__(self, channels: int, regions: int = 19, reduction: int = 2, scaled: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.regions = regions
        self.hidden_channels = reduced(channels, reduction)
        self.scaled = scaled
        self.logit = nn.Linear(channels, regions)
        self.query = PositionwiseLayer(channels, self.hidden_channels)  # φ
        self.key = PositionwiseLayer(channels, self.hidden_channels)  # ψ
        self.value = PositionwiseLayer(channels, self.hidden_channels)  # δ
        self.context = PositionwiseLayer(self.hidden_channels, channels)  # ρ
        self.fuse = PositionwiseLayer(2 * channels, channels)  # g

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        tokens = map_to_tokens(x).contiguous()  # (B, N, C)
        logits = map_to_tokens(self.offer("logit", tokens_to_map(self.logit(tokens), spatial)))  # (B, N, K)
        regions = map_to_tokens(self.offer("region", tokens_to_map(logits.softmax(1), spatial)))  # (B, N, K)
        objects = functional.read(regions.transpose(1, 2), tokens)  # (B, K, C)
        scale = self.hidden_channels**-0.5 if self.scaled else 1.0
        relation = functional.dot_scores(self.query(tokens), self.key(objects), scale).softmax(2).to(x.dtype)
        relation = map_to_tokens(self.offer("relation", tokens_to_map(relation, spatial)))
        context = self.context(functional.read(relation, self.value(objects)))  # (B, N, C)
        return tokens_to_map(self.fuse(torch.cat((tokens, context), dim=2)), spatial)  # (B, C, *spatial)


class PositionwiseLayer(nn.Sequential):
    """`relu(bn(W ·))` on every token alone."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, outputs, bias=False), BatchNorm(outputs), nn.ReLU())

    def forward(self, input: Float[Tensor, "B N C"]) -> Float[Tensor, "B N d"]:
        return super().forward(input.flatten(0, 1)).unflatten(0, input.shape[:2])
