"""Multi-head attention pooling."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact, Request


class MultiHeadAttentionPooling(Read):
    """Multi-head attention pooling: learned seeds read the memory, and a small network follows.

        a^i_sn = softmax over n of (W_q^i p_s)ᵀ (W_k^i m_n) / √d      for the heads i = 1..h, d = D / h
        z_s    = W_o concat over i of Σ_n a^i_sn W_v^i m_n
        c_s    = z_s + W2 gelu(W1 norm(z_s))

    The seeds `p` are parameters, and every projection has a bias.

    Paper: Zhai, Kolesnikov, Houlsby, Beyer, "Scaling Vision Transformers", CVPR 2022, section 3.3, the head that it
    calls MAP; learned seeds are those of Lee, Lee, Kim, Kosiorek, Choi, Teh, "Set Transformer", ICML 2019, section 3.2.

    A query is taken all the same, so that it stands wherever any other `Read` stands; it is not looked at.

    Args:
        query_width: width `Dq` of a query that is given and not looked at; None if none will be given.
        memory_width: width `D` of a memory token, and of the context.
        heads: number of heads; must divide `memory_width`; default 8.
        seeds: number of learned seeds; default 1, the paper's choice. Of one seed every query receives the context; of
            several each query receives that of its own seed.
        mlp: whether the network follows; default True.
        mlp_ratio: how many times as wide as a token its hidden layer is; default 4, the paper's choice.

    Shapes:
        query `(B, T, Dq)`, or None for one row a seed; memory `(B, N, D)`; mask `(B, N)` or `(B, T, N)` with
        True = takes part. Gives the context `(B, T, D)`; where there is nothing to attend to, it is zero.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: the heads do not divide the width, or there is no seed.
        ShapeError: a width, a batch size or the mask does not fit, or there are not as many queries as seeds.
    """

    name: ClassVar[str] = "multi_head_pool"
    aliases: ClassVar[tuple[str, ...]] = ("pma", "attention_pool_latent")
    paper: ClassVar[Paper] = Paper("Scaling Vision Transformers", "Zhai et al.", "CVPR", 2022)
    formula: ClassVar[str] = (
        "c = z + mlp(norm(z)) with z = W_o concat_i Σ_n softmax_n((W_q^i p)ᵀ W_k^i m_n / √d) W_v^i m_n"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "S*D + 4*(D*D + D) + 2*D + 2*D*H + H + D"
    letters: ClassVar[dict[str, str]] = {"S": "seeds", "D": "memory_width", "H": "hidden_width"}
    deviations: ClassVar[tuple[str, ...]] = ("mlp=False: the read alone, without the network after it",)
    placement: ClassVar[str] = "between an encoder and a classifier, in place of mean pooling or a class token"

    def __init__(
        self,
        query_width: int | None,
        memory_width: int,
        heads: int = 8,
        seeds: int = 1,
        mlp: bool = True,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.query_width = 0 if query_width is None else query_width
        self.memory_width = memory_width
        self.heads = choose_heads(memory_width, heads)
        self.seeds = seeds
        self.hidden_width = max(1, int(memory_width * mlp_ratio))
        self.seed = nn.Parameter(torch.empty(seeds, memory_width))
        nn.init.trunc_normal_(self.seed, std=memory_width**-0.5)
        self.query = nn.Linear(memory_width, memory_width)
        self.key = nn.Linear(memory_width, memory_width)
        self.value = nn.Linear(memory_width, memory_width)
        self.output = nn.Linear(memory_width, memory_width)
        self.mlp = (
            nn.Sequential(
                nn.LayerNorm(memory_width),
                nn.Linear(memory_width, self.hidden_width),
                nn.GELU(),
                nn.Linear(self.hidden_width, memory_width),
            )
            if mlp
            else None
        )

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"] | None,
        memory: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        if query is None:
            query = memory.new_empty(memory.shape[0], self.seeds, self.query_width)
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        T = query.shape[1]
        if self.seeds not in (1, T):
            raise self.refuse(f"{T} queries", f"{self.seeds}", "give one a seed, or None")
        # One seed is read once for all queries, unless each of them has a mask of its own.
        rows = self.seeds if mask is None or mask.shape[1] == 1 else T
        q = self.split(self.query(self.seed)[None]).expand(memory.shape[0], -1, rows, -1)  # (B, h, R, d)
        k, v = self.split(self.key(memory)), self.split(self.value(memory))  # (B, h, N, d)
        heads = None if mask is None else mask[:, None]  # (B, 1, #T, N)

        def weights(request: Request) -> Tensor:
            part = None if heads is None else request.pick(heads.expand(-1, -1, T, -1), queries=2)
            every = request.pick(q.expand(-1, -1, T, -1), heads=1, queries=2)
            return functional.scaled_dot_product_weights(every, request.pick(k, heads=1), part)  # (B, h, T, N)

        replaced = self.offer("attention", weights)
        read = replaced @ v if replaced is not None else functional.scaled_dot_product_attention(q, k, v, heads)
        # (B, h, R, d), or one for each query if others give it weights of its own
        context = self.output(read.transpose(1, 2).flatten(2))  # (B, R, D)
        if self.mlp is not None:
            context = context + self.mlp(context)
        context = functional.mark_undefined(context, undefined)
        if mask is not None:
            context = context.masked_fill(~mask.any(-1, keepdim=True), 0.0)
        return context.expand(-1, T, -1).contiguous()  # (B, T, D)

    def split(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B h N d"]:
        """The heads' parts of every token."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)
