"""Hard attention."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from regard import functional
from regard.attention import offering
from regard.attention.alignment.score import ScoreKind, make_score
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact, Request

Estimator = Literal["score_function", "straight_through", "gumbel"]


class HardRead(Read):
    """Hard attention: every query reads one memory token, drawn in training, the likeliest in evaluation.

        e_tn = vᵀ tanh(W q_t + U m_n)
        p_tn = softmax over n of e_tn
        s_t  ~ p_t in training,  s_t = argmax over n of p_tn in evaluation
        c_t  = m_{s_t}

    Paper: Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel, Bengio, "Show, Attend and Tell: Neural Image Caption
    Generation with Visual Attention", ICML 2015, section 4.1.

    No gradient passes a choice. The scores learn from the log-probability of what was drawn: open
    `offering.recording_choices()` around the forward pass, and add `functional.score_function_loss` of what it
    collected to the loss, with an `alignment.baseline.MovingBaseline` if need be. In the paper, half of the images
    besides read `Σ_n p_tn m_n` in training in place of a draw, against variance: `mean_probability=0.5`.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token, and of the context.
        score: `"additive"`, the paper's and the default; `"dot"`, `"general"` or `"scaled_dot"`.
        hidden_width: width of the additive score's network; default `memory_width`.
        estimator: how the scores learn. `"score_function"`, the paper's and the default, as above.
            `"straight_through"`: forward the drawn token, backward the gradient of the soft read (Bengio et al. 2013).
            `"gumbel"`: the same with the softmax of scores and Gumbel noise (Jang et al. 2017, Maddison et al. 2017).
            The last two need no reward, and record no choice.
        temperature: of the Gumbel softmax; default 1. A lower one is closer to the draw and has a noisier gradient.
        mean_probability: the probability with which, in training, all queries of an image read the mean of its memory
            under `p`; default 0. The mean's gradient reaches the scores as that of soft attention does.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, Dm)`.
        Recorded in training with `"score_function"`: the log-probability of the drawn tokens and the entropy of `p`,
        `(B, T)` each, both 0 where a query has nothing to attend to. Where the mean was read, nothing was drawn:
        the log-probability is 0.

    Maps:
        attention: the distribution `p`, `(batch, query, key)`, sums to one over the keys.
        choice: one at the token that was read, zero elsewhere, `(batch, query, key)`; where the mean was read, `p`.

    Raises:
        ValueError: the score or the estimator is unknown, an argument has no use with it, or `mean_probability` is no
            probability.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "hard"
    aliases: ClassVar[tuple[str, ...]] = ("hard_attention",)
    paper: ClassVar[Paper] = Paper(
        "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", "Xu et al.", "ICML", 2015
    )
    formula: ClassVar[str] = "c_t = m_s with s ~ softmax_n(vᵀ tanh(W q_t + U m_n)); argmax in evaluation"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "query", "key"), ("key",)),
        MapFact("choice", ("batch", "query", "key"), ("key",)),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(Q + M + 1)*A"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "A": "hidden_width"}
    deviations: ClassVar[tuple[str, ...]] = (
        'score="dot": the product of query and token in place of the scoring network',
        'score="general": the product of projected query and token in place of the scoring network',
        'score="scaled_dot": the product divided by √D in place of the scoring network',
        'estimator="straight_through": the gradient of the soft read in place of the score function\'s',
        'estimator="gumbel": the gradient of the Gumbel softmax in place of the score function\'s',
        "mean_probability=0.5: in training half of the images read the mean of the memory; the paper's second remedy "
        "against variance, besides the moving baseline",
    )
    placement: ClassVar[str] = "between a decoder's state or a question and the cells of an image"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        score: ScoreKind = "additive",
        hidden_width: int | None = None,
        estimator: Estimator = "score_function",
        temperature: float = 1.0,
        mean_probability: float = 0.0,
    ) -> None:
        super().__init__()
        if temperature != 1.0 and estimator != "gumbel":
            raise ValueError(
                f"HardRead got temperature={temperature} with estimator={estimator!r}: "
                "only estimator='gumbel' has a temperature."
            )
        self.query_width = query_width
        self.memory_width = memory_width
        self.hidden_width = memory_width if hidden_width is None else hidden_width
        self.score = make_score(score, query_width, memory_width, hidden_width)
        self.estimator = estimator
        self.temperature = temperature
        self.mean_probability = mean_probability

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T Dm"]:
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        scores = self.score(query, memory)  # (B, T, N)
        own = functional.masked_softmax(scores, mask)  # (B, T, N)
        weights = self.offer("attention", own)
        if weights is not own:  # what is chosen follows from what takes their place
            scores = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
        soft = weights  # (B, T, N), what the straight-through gradient flows to
        if self.training and self.estimator == "gumbel":
            soft = functional.gumbel_softmax(scores, mask, self.temperature)  # (B, T, N)
            index = soft.argmax(-1)  # (B, T)
        else:
            index = functional.draw(weights) if self.training else weights.argmax(-1)  # (B, T)
        some = None if mask is None else mask.any(-1, keepdim=True)  # (B, #T, 1)
        averaged = None  # the images that read the mean
        if self.training and self.mean_probability > 0:
            averaged = torch.rand(query.shape[0], 1, 1, device=query.device) < self.mean_probability  # (B, 1, 1)

        def choose() -> Tensor:
            choice = F.one_hot(index, memory.shape[1]).to(weights.dtype)  # (B, T, N)
            choice = choice if some is None else choice.masked_fill(~some, 0.0)
            return choice if averaged is None else torch.where(averaged, weights, choice)

        def choices(request: Request) -> Tensor:
            return request.pick(choose(), queries=1)

        replaced = self.offer("choice", choices)
        if self.estimator != "score_function":
            through = soft - soft.detach()  # (B, T, N), zeros with a gradient; the mean has its own
            through = through if averaged is None else through.masked_fill(averaged, 0.0)
            context = functional.read((choose() if replaced is None else replaced) + through, memory)  # (B, T, Dm)
            return functional.mark_undefined(context, undefined)
        if self.training and offering.recording():
            log_weights = functional.masked_log_softmax(scores, mask)  # (B, T, N)
            # Of a query with nothing to attend to, every log-probability and so both of these are 0.
            log_probability = log_weights.gather(2, index[..., None])[..., 0]  # (B, T)
            if averaged is not None:
                log_probability = log_probability.masked_fill(averaged[..., 0], 0.0)
            offering.record_choice(log_probability, -(weights * log_weights).sum(-1))
        if replaced is not None:
            return functional.mark_undefined(functional.read(replaced, memory), undefined)
        context = memory.gather(1, index[..., None].expand(-1, -1, memory.shape[2]))  # (B, T, Dm)
        context = context if some is None else context.masked_fill(~some, 0.0)
        context = context if averaged is None else torch.where(averaged, functional.read(weights, memory), context)
        return functional.mark_undefined(context, undefined)
