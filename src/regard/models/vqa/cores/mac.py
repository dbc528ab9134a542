"""Memory, attention and composition, MAC."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention import Read
from regard.attention.contract import Paper
from regard.attention.layout import map_to_tokens
from regard.attention.offering import MapFact
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.layers import brought
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words

MAC_PAPER = Paper("Compositional Attention Networks for Machine Reasoning", "Hudson and Manning", "ICLR", 2018)


class ControlRead(Read):
    """`Σ_n a_n m_n` with `a = softmax over n of wᵀ (q ∘ k_n)`: which words a step is about, or which steps it recalls.

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys.
    """

    name: ClassVar[str] = "control"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key"), ("key",)),)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_width = self.memory_width = width
        self.score = nn.Linear(width, 1, bias=False)

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        keys: Float[Tensor, "B N D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        mask = self.check(query, memory, mask)
        memory = functional.mask_tokens(memory, mask)
        keys = memory if keys is None else functional.mask_tokens(keys, mask)
        scores = (query * self.score.weight[0]) @ keys.transpose(1, 2)  # (B, T, N)
        weights = functional.masked_softmax(scores, mask)
        weights = self.offer("attention", weights)
        return functional.read(weights, memory)


class KnowledgeRead(Read):
    """The read unit: which cells matter, by what the step is about and by what was found before.

        I_n  = (W_m m + b_m) ∘ (W_k k_n)
        I'_n = W [I_n; k_n]
        r    = Σ_n a_n k_n        with a = softmax over n of wᵀ (c ∘ I'_n)

    `W = [W_I W'_k]` is cut into the parts of both: what depends on the picture alone, `prepare` computes for all steps.

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys.
    """

    name: ClassVar[str] = "knowledge"
    maps: ClassVar[tuple[MapFact, ...]] = ControlRead.maps

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_width = self.memory_width = width
        self.query = nn.Linear(width, width)
        self.memory = nn.Linear(width, width, bias=False)
        self.interaction = nn.Linear(width, width, bias=False)
        self.alone = nn.Linear(width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    @property
    def context_width(self) -> int:
        return self.memory_width

    def prepare(self, memory: Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"]]:
        """What every step makes of the picture: `W_k k` and `W'_k k`."""
        return self.memory(memory), self.alone(memory)

    def forward(
        self,
        query: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B N D"],
        control: Float[Tensor, "B T D"],
        prepared: tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"]],
        mask: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        mask = self.check(query, memory, mask)
        memory, projected, alone = (functional.mask_tokens(tokens, mask) for tokens in (memory, *prepared))
        # wᵀ (c ∘ (W_I I + W'_k k)), with what weighs the second factor first: no vector I' for a pair.
        asking = control * self.score.weight[0]  # (B, T, D)
        weighed = (asking @ self.interaction.weight) * self.query(query)  # (B, T, D)
        scores = weighed @ projected.transpose(1, 2) + asking @ alone.transpose(1, 2)  # (B, T, N)
        weights = functional.masked_softmax(scores, mask)
        weights = self.offer("attention", weights)
        return functional.read(weights, memory)


class Mac(Core):
    """MAC network: a chain of cells, each of which attends to words, then to the picture, then writes a memory.

        q_i  = W_i q + b_i,  a_i = W [c_{i-1}; q_i] + b
        c_i  = Σ_s softmax_s(wᵀ (a_i ∘ h_s)) h_s                                control, over the words `h`
        I_n  = (W_m m_{i-1} + b_m) ∘ (W_k k_n)
        r_i  = Σ_n softmax_n(wᵀ (c_i ∘ (W [I_n; k_n]))) k_n                     read, from the picture `k`
        m_i  = W [r_i; m_{i-1}] + b                                             write
        m_i <- W_s Σ_{j<i} softmax_j(wᵀ (c_i ∘ c_j)) m_j + W_p m_i + b          with self_attention
        m_i <- σ(g_i) m_{i-1} + (1 - σ(g_i)) m_i,  g_i = wᵀ c_i + b             with gate
        z    = [q; m_p]

    All cells share their weights, but for `W_i`. The scores of the read unit are computed without a vector for each
    pair of question and cell: what is linear in it is applied to the question first.

    Paper: Hudson, Manning, "Compositional Attention Networks for Machine Reasoning", ICLR 2018. Its words are the
    states of a bidirectional LSTM of 512, its picture 14 by 14 cells of 1024. (Biases that add
    the same to every score of a softmax are left out: it does not see them.)

    Args:
        sight_width: width of a picture's token.
        words_width: width of a word; where it is not `width`, a linear layer brings it there.
        width: the paper's d; default 512.
        steps: how many cells `p`; default 12, the paper's.
        self_attention: whether a cell recalls the memories of all cells before; default False.
        gate: whether a cell may keep the memory as it was; default False. Its bias starts at 1, as in the paper.
        stem: `"convolution"`, two of 3 by 3 with ELUs, the paper's and the default; `"linear"`, one layer with an ELU,
            for regions.
        dropout: of picture and memory in the read unit; default 0.15.
    """

    name: ClassVar[str] = "mac"
    paper: ClassVar[Paper] = MAC_PAPER
    loss: ClassVar[Loss] = "consensus"
    grid: ClassVar[bool] = True
    reads_words: ClassVar[bool] = True

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        width: int = 512,
        steps: int = 12,
        self_attention: bool = False,
        gate: bool = False,
        stem: Literal["convolution", "linear"] = "convolution",
        dropout: float = 0.15,
    ) -> None:
        super().__init__()
        if stem not in ("convolution", "linear"):
            raise ValueError(f"there is no stem {stem!r}: choose 'convolution' or 'linear'.")
        if steps < 1:
            raise ValueError(f"Mac got steps={steps}: it has at least one cell.")
        self.convolves = stem == "convolution"
        if self.convolves:
            layers = (nn.Conv2d(sight_width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1))
            self.stem = nn.Sequential(layers[0], nn.ELU(), layers[1], nn.ELU())
        else:
            self.stem = nn.Sequential(nn.Linear(sight_width, width), nn.ELU())
        self.words = brought(words_width, width)
        self.summary = brought(words_width, width)
        self.first_control = nn.Parameter(torch.randn(width) * width**-0.5)
        self.first_memory = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positions = nn.ModuleList(nn.Linear(width, width) for _ in range(steps))
        self.ask = nn.Linear(2 * width, width)
        self.control = ControlRead(width)
        self.read = KnowledgeRead(width)
        self.write = nn.Linear(2 * width, width)
        self.recall = ControlRead(width) if self_attention else None
        if self_attention:
            self.recalled = nn.Linear(width, width, bias=False)
            self.written = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1) if gate else None
        if self.gate is not None:
            nn.init.ones_(self.gate.bias)
        self.dropout = nn.Dropout(dropout)
        self.joint_width = 2 * width

    def classifier(self, answers: int) -> nn.Module:
        width = self.joint_width // 2
        return nn.Sequential(nn.Linear(2 * width, width), nn.ELU(), nn.Linear(width, answers))

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        knowledge = map_to_tokens(self.stem(sight.as_map())) if self.convolves else self.stem(sight.tokens)
        knowledge = self.dropout(knowledge)  # (B, N, D)
        prepared = self.read.prepare(knowledge)
        tokens, there = words.flat()
        tokens = self.words(tokens)  # (B·Q, L, D)
        summary = self.summary(words.summary)  # (B, Q, D)
        control, memory = (first.expand_as(summary) for first in (self.first_control, self.first_memory))
        controls: list[Tensor] = []
        memories: list[Tensor] = []
        for position in self.positions:
            asking = self.ask(torch.cat((control, position(summary)), 2))  # (B, Q, D)
            control = words.apart(self.control(asking.flatten(0, 1)[:, None], tokens, there)[:, 0])
            with sight.looking():
                found = self.read(self.dropout(memory), knowledge, control, prepared, sight.mask)  # (B, Q, D)
            written = self.write(torch.cat((found, memory), 2))
            if self.recall is not None:
                written = self.written(written)
                if memories:
                    past, keys = (torch.stack(states, 2).flatten(0, 1) for states in (memories, controls))
                    recalled = self.recall(control.flatten(0, 1)[:, None], past, keys=keys)[:, 0]  # (B·Q, D)
                    written = written + words.apart(self.recalled(recalled))
            if self.gate is not None:
                keep = self.gate(control).sigmoid()  # (B, Q, 1)
                written = keep * memory + (1 - keep) * written
            memory = written
            controls.append(control)
            memories.append(memory)
        return torch.cat((summary, memory), 2)
