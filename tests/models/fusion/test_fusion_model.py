"""Batches of rows of which some lack a modality, the network that takes them, and the schedule of its training."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from regard.models.fusion import Concatenation
from regard.models.fusion.encoders import Encoder, TabularEncoder, TextEncoder
from regard.models.fusion.encoders.text import UNKNOWN
from regard.models.fusion.model import FusionModel, collate
from regard.models.fusion.training import Recipe, in_batches

WIDTH = 5


class Plain(Encoder):
    """Each cell is its own token."""

    kind = "plain"

    def __init__(self) -> None:
        super().__init__()
        self.width = WIDTH

    @classmethod
    def learn(cls, values: Sequence[Any], width: int, **options: Any) -> "Plain":
        return cls()

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def read(self, value: Any) -> Tensor:
        return value

    def batch(self, cells: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (torch.stack(list(cells)),)

    def noisy(self, cell: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return cell

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        tokens = inputs[0][:, None].repeat(1, 2, 1)
        return tokens, torch.tensor([[True, False]]).expand(len(tokens), -1)


def network() -> FusionModel:
    readers = {"a.b": Plain(), "train": Plain(), "c": Plain()}  # names that no module could have
    return FusionModel(readers, Concatenation(dict.fromkeys(readers, WIDTH), 3, 4)).eval()


def rows() -> list[dict[str, Tensor | None]]:
    cells = torch.randn(3, 3, WIDTH)
    gone = {(0, "train"), (2, "train"), (1, "a.b"), (0, "c"), (1, "c"), (2, "c")}
    return [
        {name: None if (row, name) in gone else cells[row, m] for m, name in enumerate(("a.b", "train", "c"))}
        for row in range(3)
    ]


def test_every_cell_stands_in_its_row_and_only_what_is_there_is_looked_at() -> None:
    model, given = network(), rows()
    batch = collate(dict(zip(model.names, model.encoders, strict=True)), given, torch.tensor([2, 0, 1]))  # pyright: ignore
    assert list(batch.rows) == ["a.b", "train"]
    assert [len(parts[0]) for parts in batch.inputs.values()] == [2, 1]
    example = model.encode(batch)
    assert example.target.tolist() == [2, 0, 1]
    assert {name: there.tolist() for name, there in example.present.items()} == {
        "a.b": [True, False, True],
        "train": [False, True, False],
    }
    for name in batch.rows:
        for row in range(3):
            cell = given[row][name]
            if cell is not None:
                assert torch.equal(example.tokens[name][row], cell.expand(2, -1))
                assert example.masks[name][row].tolist() == [True, False]
    alone = [model(collate(dict(zip(model.names, model.encoders, strict=True)), [row], None)) for row in given]  # pyright: ignore
    torch.testing.assert_close(model(batch), torch.cat(alone))


def test_rows_without_anything_have_an_answer() -> None:
    model = network()
    nothing: list[dict[str, Tensor | None]] = [dict.fromkeys(model.names)] * 2
    answer = model(collate(dict(zip(model.names, model.encoders, strict=True)), nothing, None))  # pyright: ignore
    assert answer.isfinite().all()
    assert torch.equal(answer[0], answer[1])


def test_modality_dropout_leaves_every_row_something_that_it_has() -> None:
    readers = {name: Plain() for name in ("a", "b", "c")}
    given: list[dict[str, Tensor | None]] = [dict.fromkeys(readers, torch.ones(WIDTH)) for _ in range(50)]
    batch = collate(readers, given, None, dropped=0.99)
    counts = torch.zeros(50).index_add(
        0, torch.cat(list(batch.rows.values())), torch.ones(sum(map(len, batch.rows.values())))
    )
    assert (counts >= 1).all()
    assert counts.mean() < 1.2
    assert sum(map(len, collate(readers, given, None).rows.values())) == 150


def test_the_vectors_of_unknown_words_and_categories_are_trained() -> None:
    text = TextEncoder(["a", "b"], WIDTH)
    text(torch.full((40, 30), 2))[0].sum().backward()
    assert text.embed.weight.grad is not None
    assert (text.embed.weight.grad[UNKNOWN] != 0).any()
    tabular = TabularEncoder({}, {"colour": ["red"]}, WIDTH)
    tabular(torch.full((600, 1), 2.0))[0].sum().backward()
    share = tabular.embed[0].weight.grad[:, 0] / 600
    assert 0 < share[1] < 0.06
    assert share[0] == 0
    torch.testing.assert_close(share.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.3, 1.0])
def test_the_learning_rate_rises_and_falls_by_half_a_cosine(share: float) -> None:
    warm = min(1.0, share / 0.05 + 0.02)
    expected = 0.5 * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)
    assert math.isclose(Recipe(learning_rate=0.5).rate(share), expected)


def test_batches_are_all_rows_in_order() -> None:
    assert [list(part) for part in in_batches(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
