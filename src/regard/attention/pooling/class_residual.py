"""Class-specific residual attention."""

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class ClassResidualPooling(Read):
    """Class-specific residual attention: the mean score of a class, plus a share of its score where it is likeliest.

        y^h_kn = w^h_k · m_n                                     score of class k at position n, in every head h
        a^h_kn = softmax over n of τ_h y^h_kn                    where τ_h is infinite: one at the highest score
        c_k    = Σ_h (mean over n of y^h_kn + λ Σ_n a^h_kn y^h_kn)

    It is the classifier: the context has one logit a class. The paper's class-specific feature is
    `mean_n m_n + λ Σ_n a_kn m_n`, whose product with `w_k` is the above.

    Paper: Zhu, Wu, "Residual Attention: A Simple but Effective Method for Multi-Label Recognition", ICCV 2021,
    equations 2 to 6.

    A query is taken all the same, so that it stands wherever any other `Read` stands; it is not looked at.

    Args:
        query_width: width `Dq` of a query that is given and not looked at; None if none will be given.
        memory_width: width `M` of a memory token.
        classes: number of classes `K`; default 80, those of MS-COCO.
        temperatures: τ of every head, `math.inf` for the highest score; default one head of temperature 1. The paper's
            for 2 heads are 1, ∞; for 4 heads 1, 2, 4, ∞.
        residual: λ; default 0.1. The best one depends on the data set.
        normalized: whether the rows `w_k` are divided by their length; default False.

    Shapes:
        query `(B, T, Dq)`, or None for one row (`T` = 1); memory `(B, N, M)`; mask `(B, N)` or `(B, T, N)` with
        True = takes part. Gives the logits `(B, T, K)`; where there is nothing to attend to, they are zero.

    Maps:
        attention: `(batch, query, heads, class, key)`, sums to one over the keys.

    Raises:
        ValueError: there is no class or no temperature, or one is not positive.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "class_residual"
    aliases: ClassVar[tuple[str, ...]] = ("csra",)
    paper: ClassVar[Paper] = Paper(
        "Residual Attention: A Simple but Effective Method for Multi-Label Recognition", "Zhu, Wu", "ICCV", 2021
    )
    formula: ClassVar[str] = "c_k = Σ_h (mean_n(y^h_kn) + λ Σ_n softmax_n(τ_h y^h_kn) y^h_kn) with y^h_kn = w^h_k · m_n"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "heads", "class", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "H*K*M"
    letters: ClassVar[dict[str, str]] = {"H": "heads", "K": "classes", "M": "memory_width"}
    deviations: ClassVar[tuple[str, ...]] = (
        "normalized=True: every class's weights have length one, as in the authors' code",
    )
    placement: ClassVar[str] = "in place of mean pooling and the classifier, for images of several labels"

    def __init__(
        self,
        query_width: int | None,
        memory_width: int,
        classes: int = 80,
        temperatures: tuple[float, ...] = (1.0,),
        residual: float = 0.1,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.query_width = 0 if query_width is None else query_width
        self.memory_width = memory_width
        self.classes = classes
        self.temperatures = temperatures
        self.heads = len(temperatures)
        self.residual = residual
        self.normalized = normalized
        self.weight = nn.Parameter(torch.empty(self.heads, classes, memory_width))
        nn.init.uniform_(self.weight, -(memory_width**-0.5), memory_width**-0.5)

    @property
    def context_width(self) -> int:
        return self.classes

    def forward(
        self,
        query: Float[Tensor, "B T Dq"] | None,
        memory: Float[Tensor, "B N M"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T K"]:
        if query is None:
            query = memory.new_empty(memory.shape[0], 1, self.query_width)
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        T = query.shape[1]
        weight = F.normalize(self.weight, dim=-1) if self.normalized else self.weight
        scores = F.linear(memory, weight.flatten(0, 1))  # (B, N, H·K)
        mean = functional.masked_mean(scores, mask).unflatten(2, (self.heads, -1))  # (B, #T, H, K)
        scores = scores.transpose(1, 2).unflatten(1, (self.heads, -1))[:, None]  # (B, 1, H, K, N)
        part = None if mask is None else mask[:, :, None]  # (B, #T, 1, N)
        weights = torch.stack(
            [self.weigh(y, tau, part) for y, tau in zip(scores.unbind(2), self.temperatures, strict=True)], dim=2
        )  # (B, #T, H, K, N)
        # Read once for all queries, unless others give each of them weights of its own.
        replaced = self.offer(
            "attention", lambda request: request.pick(weights.expand(-1, T, -1, -1, -1), heads=2, queries=1)
        )
        read = ((weights if replaced is None else replaced) * scores).sum(-1)  # (B, #T, H, K)
        logits = functional.mark_undefined((mean + self.residual * read).sum(2), undefined)  # (B, #T, K)
        return logits.expand(-1, T, -1).contiguous()  # (B, T, K)

    def weigh(
        self, scores: Float[Tensor, "B 1 K N"], temperature: float, mask: Bool[Tensor, "B #T 1 N"] | None
    ) -> Float[Tensor, "B #T K N"]:
        """The weights of one head; of an infinite temperature, the highest scores share them alike."""
        if mask is not None:
            scores = scores.expand(-1, mask.shape[1], -1, -1)
        if not math.isinf(temperature):
            return functional.masked_softmax(scores * temperature, mask)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        highest = (scores == scores.amax(-1, keepdim=True)).to(scores.dtype)
        weights = highest / highest.sum(-1, keepdim=True)
        return weights if mask is None else weights.masked_fill(~mask, 0.0)
