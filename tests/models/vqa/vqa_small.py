"""Every core at tiny, distinct sizes, and what it is asked."""

import torch
from torch import Tensor, nn

from regard.models.vqa import (
    Core,
    GridEncoder,
    QuestionEncoder,
    RegionEncoder,
    Regions,
    Sight,
    VisualQuestionAnswering,
    Words,
    cores,
)

SIGHT, WORDS, VOCABULARY, ANSWERS = 7, 6, 13, 5

# Every width but those of picture and question, small; the rest is each paper's own choice.
SMALL: dict[str, dict[str, object]] = {
    "question_only": {"hidden_width": 11},
    "image_only": {"hidden_width": 11},
    "concatenation": {},
    "flattened": {"cells": 15, "f_widths": (11, 17)},
    "product": {"width": 11, "hidden_width": 17},
    "reader": {"arguments": {"hidden_width": 11}, "blocks": 2},
    "find_then_move": {"hidden_width": 11},
    "question_spatial": {"hidden_width": 11},
    "question_channel": {"hidden_width": 11},
    "question_channel_spatial": {"hidden_width": 11},
    "question_hard": {"hidden_width": 11},
    "image_channel": {"hidden_width": 11},
    "image_guided": {"hidden_width": 11},
    "alternating_co_attention": {"hidden_width": 11},
    "hierarchical_co_attention": {"hidden_width": 11},
    "dual_attention": {"hidden_width": 11},
    "stacked_attention": {"hidden_width": 11},
    "show_ask_attend_answer": {"hidden_width": 11, "classifier_width": 17},
    "top_down": {"width": 11},
    "top_down_product": {"width": 11},
    "mlb": {"joint_width": 11},
    "mutan": {"joint_width": 11, "rank": 3},
    "tucker": {"joint_width": 11},
    "mcb": {"sketch_width": 23, "hidden_width": 11},
    "mfb": {"joint_width": 11, "factors": 3, "hidden_width": 17},
    "mfh": {"joint_width": 11, "factors": 3, "hidden_width": 17},
    "block": {"joint_width": 15, "blocks": 5, "rank": 2, "hidden_width": 11, "fused_width": 13},
    "ban": {"hidden_width": 11, "glimpses": 3},
    "mcan": {"width": 10, "layers": 2, "heads": 2, "joint_width": 11},
    "relation_network": {"g_widths": (11, 17, 19), "f_widths": (13, 23)},
    "film": {"channels": 11, "blocks": 2, "joint_width": 13, "classifier_width": 17},
    "mac": {"width": 10, "steps": 3},
    "entity_stream": {"width": 11, "token_width": 10, "key_width": 3, "steps": 3},
    "hard_entity_stream": {"width": 11, "token_width": 10, "key_width": 3, "steps": 3},
    "cross_attention": {"width": 12, "blocks": 2, "mixing": 1, "heads": 3},
    "perceiver": {"width": 12, "latents": 5, "layers": 2, "heads": 3},
    "query_former": {"width": 12, "latents": 5, "layers": 3, "heads": 3},
}


def small_core(name: str, sight_width: int = SIGHT, words_width: int = WORDS, **arguments: object) -> Core:
    return cores[name](sight_width, words_width, **{**SMALL[name], **arguments})


def small_model(name: str, **arguments: object) -> VisualQuestionAnswering:
    """On a grid: three by five cells for pictures of 12 by 20."""
    backbone = nn.Sequential(nn.Conv2d(3, SIGHT, 4, stride=4), nn.Tanh())
    questions = QuestionEncoder(VOCABULARY, WORDS, embedding_width=3)
    return VisualQuestionAnswering(GridEncoder(backbone, SIGHT), questions, small_core(name, **arguments), ANSWERS)


def on_regions(name: str) -> VisualQuestionAnswering:
    arguments = {"stem": "linear"} if name == "mac" else {}
    questions = QuestionEncoder(VOCABULARY, WORDS, embedding_width=3)
    return VisualQuestionAnswering(RegionEncoder(SIGHT), questions, small_core(name, **arguments), ANSWERS)


def seen_and_asked() -> tuple[Sight, Words]:
    """Three by five cells for two pictures, and three questions of four words."""
    numbers = torch.randint(1, VOCABULARY, (2, 3, 4))
    tokens, summary = torch.randn(2, 3, 4, WORDS, requires_grad=True), torch.randn(2, 3, WORDS, requires_grad=True)
    sight = Sight(torch.randn(2, 15, SIGHT, requires_grad=True), grid=(3, 5))
    return sight, Words(tokens, numbers > 0, summary, numbers)


def pictures(batch: int) -> Tensor:
    return torch.rand(batch, 3, 12, 20)


def questions(batch: int, count: int = 3, words: int = 4) -> Tensor:
    """Of differing lengths, filled up with 0."""
    asked = torch.randint(1, VOCABULARY, (batch, count, words))
    asked[:, 1:, 3:] = 0
    asked[:, 2:, 1:] = 0
    return asked


def regions(batch: int, count: int) -> Regions:
    corner = torch.rand(batch, count, 2) * 0.5
    boxes = torch.cat((corner, corner + 0.1 + torch.rand(batch, count, 2) * 0.4), 2)
    return Regions(torch.randn(batch, count, SIGHT), torch.ones(batch, count, dtype=torch.bool), boxes)
