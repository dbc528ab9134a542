"""Relationships from an entity stream, read softly or hard."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import Attention
from regard.attention.contract import Paper
from regard.attention.offering import MapFact
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.layers import brought
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class EntityRead(Attention):
    """One entity, or none: a learned blank key stands beside those of the picture, and its value is zero.

        a = softmax over n of qᵀ k_n, the blank's among them,  y = Σ_n a_n v_n

    Hard, one entity is read: in training the one with the highest sum of score and Gumbel noise, with the gradient of
    the softmax of those sums (Jang et al. 2017); in evaluation the one with the highest score.

    Args:
        key_width: width of queries and keys.
        hard: whether one entity is read, and not their mean; default False.
        temperature: of the softmax behind the gradient, if hard; default 1.

    Maps:
        attention: of the picture's tokens, `(batch, query, key)`; what is missing to one is the blank's.
        choice: if hard, one at the token that was read, `(batch, query, key)`.
    """

    name: ClassVar[str] = "entity"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "query", "key")),
        MapFact("choice", ("batch", "query", "key")),
    )

    def __init__(self, key_width: int, hard: bool = False, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"EntityRead got temperature={temperature}, expected a positive number.")
        self.blank = nn.Parameter(torch.randn(key_width))
        self.hard = hard
        self.temperature = temperature

    def forward(
        self,
        query: Float[Tensor, "B T K"],
        keys: Float[Tensor, "B N K"],
        values: Float[Tensor, "B N V"],
        mask: Bool[Tensor, "B #T N"] | None = None,
    ) -> tuple[Float[Tensor, "B T V"], Float[Tensor, "B T N"]]:
        """What is read, and the weights it is read with."""
        keys, undefined = functional.exclude_nonfinite(keys, mask)
        values, of_values = functional.exclude_nonfinite(values, mask)
        if undefined is not None and of_values is not None:
            undefined = undefined | of_values
        scores = torch.cat((query @ keys.transpose(1, 2), (query @ self.blank)[..., None]), 2)  # (B, T, N + 1)
        there = None if mask is None else F.pad(mask, (0, 1), value=True)
        weights = functional.masked_softmax(scores, there)
        own = weights[..., :-1]  # (B, T, N)
        replaced = self.offer("attention", own)
        if replaced is not own:  # what is missing to one is the blank's, and what is chosen follows from both
            weights = torch.cat((replaced, (1 - replaced.sum(-1, keepdim=True)).clamp_min(0)), -1)
            scores = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
        if self.hard:
            soft = functional.gumbel_softmax(scores, there, self.temperature) if self.training else weights
            choice = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
            choice = self.offer("choice", choice[..., :-1])
            soft = soft[..., :-1]
            weights = choice + soft - soft.detach()
        else:
            weights = weights[..., :-1]
        return functional.mark_undefined(functional.read(weights, values), undefined), weights


class EntityStream(Core):
    """Relationships from an entity stream: a recurrent network asks for one entity after the other, another listens.

        h_i = GRU1(v_{i-1}; h_{i-1}),  g_i = GRU2(h_i; g_{i-1})        with h_0 = [q; r]
        v_i = Σ_n softmax_n(k_nᵀ (W relu(g_i) + b)) v_n                 over the entities and a blank one, not scaled
        z   = last state of GRU4(GRU3(v_1, ..., v_S))                   where GRU3 begins with [q; r']

    A token is cut into its key and its value, and where it lies is put beside both. What is read before the first look,
    `v_0`, the rests `r` and `r'`, and what GRU2 and GRU4 begin with are learned.

    Paper: Andrews, Witteveen, "Relationships from Entity Stream", ViGIL workshop at NeurIPS 2017 (in the form of the
    authors' code, github.com/mdda/relationships-from-entity-stream).

    Args:
        sight_width: width of a picture's token; where it is not `token_width`, a linear layer brings it there.
        words_width: width of the questions; where it is not below `width`, a linear layer brings it there.
        width: width of the recurrent networks; default 32, the paper's.
        token_width: default 24, the paper's.
        key_width: how much of a token is its key; default 10, the paper's.
        steps: how many entities are read; default 6, the paper's.
        coordinates: whether where a token lies is put beside it; default True. Without it regions need no boxes.
        sharpness: how many times PyTorch's usual size the layer that asks begins with; default 1, the paper's.
        learned_states: whether what is learned to begin with is so, each for itself, from standard normal values, as is
            the blank key; default True, as in the authors' code. If False it is zero, but for one rest, learned from
            zero, which is both `r` and `r'`, and the blank key begins smaller by the root of its width. Either way it
            can take more than a hundred epochs until one entity is found (docs/sort_of_clevr.md).
    """

    name: ClassVar[str] = "entity_stream"
    paper: ClassVar[Paper] = Paper(
        "Relationships from Entity Stream", "Andrews and Witteveen", "NeurIPS ViGIL workshop", 2017
    )
    loss: ClassVar[Loss] = "consensus"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        width: int = 32,
        token_width: int = 24,
        key_width: int = 10,
        steps: int = 6,
        coordinates: bool = True,
        sharpness: float = 1.0,
        learned_states: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < key_width < token_width:
            raise ValueError(f"a key of {key_width} cannot be cut off a token of {token_width}: give both some.")
        self.sight = brought(sight_width, token_width)
        self.question = nn.Identity() if words_width < width else nn.Linear(words_width, width)
        rest = max(width - words_width, 0)
        self.rest = nn.Parameter(torch.zeros(rest)) if rest else None
        self.coordinates = coordinates
        self.key_width = key_width
        self.steps = steps
        asked, value_width = key_width + 2 * coordinates, token_width - key_width + 2 * coordinates
        self.listen = nn.GRUCell(value_width, width)
        self.think = nn.GRUCell(width, width)
        self.ask = nn.Linear(width, asked)
        with torch.no_grad():
            for parameter in self.ask.parameters():
                parameter *= sharpness
        self.read = EntityRead(asked)
        self.distinct = False
        self.hear = nn.GRU(value_width, width, batch_first=True)
        self.conclude = nn.GRU(width, width, batch_first=True)
        self.joint_width = width

        def learned(size: int) -> nn.Parameter | None:
            return nn.Parameter(torch.randn(size)) if learned_states and size else None

        self.first_value = learned(value_width)
        self.first_thought = learned(width)
        self.first_conclusion = learned(width)
        self.rest_to_hear = learned(rest)
        with torch.no_grad():
            if not learned_states:
                self.read.blank *= asked**-0.5
            elif self.rest is not None:
                self.rest.normal_()

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        token = self.sight(sight.tokens)
        keys, values = token[..., : self.key_width], token[..., self.key_width :]
        if self.coordinates:
            where = sight.coordinates()  # (B, N, 2)
            keys, values = torch.cat((keys, where), 2), torch.cat((values, where), 2)
        question = self.question(words.summary).flatten(0, 1)  # (B·Q, _)
        heard = start = _beside(question, self.rest)  # (B·Q, D)
        value = _begun(self.first_value, question, values.shape[2])
        thought = _begun(self.first_thought, question, heard.shape[1])
        free = None if sight.mask is None else sight.mask[:, None]  # (B, #Q, N)
        stream: list[Tensor] = []
        for _ in range(self.steps):
            heard = self.listen(value, heard)
            thought = self.think(heard, thought)
            query = words.apart(self.ask(thought.relu()))  # (B, Q, K)
            with sight.looking():
                value, weights = self.read(query, keys, values, free)
            value = value.flatten(0, 1)  # (B·Q, V)
            stream.append(value)
            if self.distinct:
                unread = weights < 0.5  # (B, Q, N)
                free = unread if free is None else free & unread
        if self.rest_to_hear is not None:
            start = _beside(question, self.rest_to_hear)
        states, _ = self.hear(torch.stack(stream, 1), start[None].contiguous())
        begun = _begun(self.first_conclusion, question, start.shape[1])
        return words.apart(self.conclude(states, begun[None].contiguous())[0][:, -1])


def _beside(question: Float[Tensor, "M P"], rest: Tensor | None) -> Float[Tensor, "M D"]:
    """A state that begins with the question."""
    return question if rest is None else torch.cat((question, rest.expand(question.shape[0], -1)), 1)


def _begun(state: Tensor | None, question: Float[Tensor, "M P"], width: int) -> Float[Tensor, "M D"]:
    """A state for each question, zero where none was learned."""
    return question.new_zeros(question.shape[0], width) if state is None else state.expand(question.shape[0], -1)


class HardEntityStream(EntityStream):
    """Relationships from an entity stream, each step reading one entity alone: `EntityStream` with `EntityRead` hard.

    Here a step reads one entity and no other, in training too. The authors' code is softer: there the softmax of scores
    with noise is read in training, and in evaluation the entity with the highest score by 86 %, all others by what is
    left; and where an entity lies is a tenth as large.

    Args:
        sight_width, words_width, token_width, key_width, steps, coordinates, sharpness, learned_states: as of
            `EntityStream`.
        width: default 64, the paper's for hard reading.
        temperature: of the gradient, see `EntityRead`; default 1.
        distinct: whether an entity that was read is not read again for the same question, as the visited cities of
            pointer networks (Bello et al. 2017); default False, the paper's. The blank can be read again.
    """

    name: ClassVar[str] = "hard_entity_stream"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        width: int = 64,
        token_width: int = 24,
        key_width: int = 10,
        steps: int = 6,
        coordinates: bool = True,
        sharpness: float = 1.0,
        learned_states: bool = True,
        temperature: float = 1.0,
        distinct: bool = False,
    ) -> None:
        super().__init__(
            sight_width, words_width, width, token_width, key_width, steps, coordinates, sharpness, learned_states
        )
        blank = self.read.blank
        self.read = EntityRead(self.ask.out_features, True, temperature)
        self.read.blank = blank
        self.distinct = distinct
