"""The model around a read, and the read that is no attention."""

import pytest
import torch

from regard import watch
from regard.attention import AdditiveRead, Read, StackedRead
from regard.attention.contract import ShapeError
from regard.models import FindThenMove, MeanRead, VisualQuestionAnswering
from regard.models.moving import BLOCK, REACH

READS = {
    "none": lambda: MeanRead(32, 32),
    "additive": lambda: AdditiveRead(32, 32, hidden_width=16),
    "stacked": lambda: StackedRead(32, 32, hops=2, hidden_width=16),
    "find_then_move": lambda: FindThenMove(32, 16, WORDS, DIRECTIONS),
}
WORDS, LENGTH, ANSWERS = 30, 9, 11
DIRECTIONS = (7, 8)


def model(read: Read | FindThenMove) -> VisualQuestionAnswering:
    torch.manual_seed(0)
    return VisualQuestionAnswering(read, WORDS, LENGTH, ANSWERS, width=32)


def pictures(batch: int, height: int = 24, width: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


def questions(batch: int, count: int = 5) -> torch.Tensor:
    words = torch.randint(1, WORDS, (batch, count, LENGTH))
    words[:, ::2, 6:] = 0
    return words


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 40), (28, 12), (4, 4), (27, 41)])
def test_any_grid_and_any_number_of_questions(read: str, height: int, width: int) -> None:
    net = model(READS[read]()).eval()
    for count in (1, 3):
        logits = net(pictures(2, height, width), questions(2, count))
        assert logits.shape == (2, count, ANSWERS)
        assert logits.isfinite().all()


@pytest.mark.parametrize("read", READS)
def test_an_answer_depends_on_its_own_picture_and_question_alone(read: str) -> None:
    net = model(READS[read]()).eval()
    seen, asked = pictures(4), questions(4)
    asked[1] = asked[0]  # the same questions about two pictures
    together = net(seen, asked)
    for one in range(4):
        torch.testing.assert_close(net(seen[one : one + 1], asked[one : one + 1])[0], together[one])
        torch.testing.assert_close(net(seen[one : one + 1], asked[one : one + 1, 2:3])[0, 0], together[one, 2])
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    shuffled = torch.tensor([2, 0, 4, 1, 3])
    torch.testing.assert_close(net(seen, asked[:, shuffled]), together[:, shuffled])


def test_padding_counts_for_nothing_and_word_order_counts() -> None:
    net = model(MeanRead(32, 32)).eval()
    encoder = net.question
    short = torch.tensor([[[3, 4, 5] + [0] * (LENGTH - 3)]])
    turned = torch.tensor([[[5, 4, 3] + [0] * (LENGTH - 3)]])
    before = encoder(short)
    assert not torch.allclose(before, encoder(turned), atol=1e-4)
    with torch.no_grad():
        encoder.place[3:] += 100
    torch.testing.assert_close(encoder(short), before)


@pytest.mark.parametrize("read", READS)
def test_gradient_reaches_every_parameter(read: str) -> None:
    net = model(READS[read]())
    net(pictures(3), questions(3)).square().sum().backward()
    for name, parameter in net.named_parameters():
        if read == "none" and name.startswith("block.query_norm"):
            continue  # a mean asks nothing
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_where_a_cell_lies_is_seen() -> None:
    """The same content at two places gives two encodings."""
    net = model(MeanRead(32, 32)).eval()
    with torch.no_grad():
        cells = net.image(torch.full((1, 3, 32, 32), 50, dtype=torch.uint8))[0].flatten(1).T
    inner = cells.reshape(8, 8, -1)[2:6, 2:6].flatten(0, 1)
    assert torch.pdist(inner).min() > 1e-2


@pytest.mark.parametrize("mask_shape", [None, "BN", "BTN"])
def test_mean_read_against_loops(mask_shape: str | None) -> None:
    B, T, N, D = 3, 4, 7, 5
    read = MeanRead(6, D).double()
    query, memory = torch.randn(B, T, 6).double(), torch.randn(B, N, D).double()
    mask = None
    if mask_shape is not None:
        mask = torch.rand((B, N) if mask_shape == "BN" else (B, T, N)) < 0.5
        mask[0] = False  # nothing to read
        mask[1] = True
    given = read(query, memory, mask)
    assert given.shape == (B, T, D)
    assert read.context_width == D
    for b in range(B):
        for t in range(T):
            total, count = torch.zeros(D).double(), 0
            for n in range(N):
                if mask is None or (mask[b, n] if mask_shape == "BN" else mask[b, t, n]):
                    total, count = total + memory[b, n], count + 1
            torch.testing.assert_close(given[b, t], total / max(count, 1))


def test_mean_read_ignores_the_query_and_has_no_parameters() -> None:
    read = MeanRead(6, 5)
    memory = torch.randn(2, 7, 5)
    assert torch.equal(read(torch.randn(2, 3, 6), memory), read(torch.randn(2, 3, 6), memory))
    assert list(read.parameters()) == []
    wide = torch.full((2, 7), 3.0e3, dtype=torch.bfloat16)[..., None].expand(-1, -1, 5)
    assert read(torch.randn(2, 3, 6).bfloat16(), wide, torch.ones(2, 7, dtype=torch.bool)).dtype == torch.bfloat16


@pytest.mark.usefixtures("unchecked_shapes")
def test_mean_read_refuses_wrong_shapes() -> None:
    with pytest.raises(ShapeError, match="query"):
        MeanRead(6, 5)(torch.randn(2, 3, 5), torch.randn(2, 7, 5))
    with pytest.raises(ShapeError, match="memory"):
        MeanRead(6, 5)(torch.randn(2, 3, 6), torch.randn(2, 7, 6))
    with pytest.raises(ShapeError, match="mask"):
        MeanRead(6, 5)(torch.randn(2, 3, 6), torch.randn(2, 7, 5), torch.ones(2, 6, dtype=torch.bool))


@pytest.mark.parametrize("grid", [(5, 7), (2, 3), (1, 1), (11, 3)])
def test_find_then_move_against_loops(grid: tuple[int, int]) -> None:
    B, T, D, L = 2, 3, 5, 4
    read = FindThenMove(D, 7, WORDS, DIRECTIONS).double()
    with torch.no_grad():
        for parameter in read.parameters():
            parameter.copy_(torch.randn_like(parameter))
    query, image = torch.randn(B, T, D).double(), torch.randn(B, D, *grid).double()
    words = torch.randint(1, WORDS, (B, T, L))
    words[:, :, 3] = 0
    with watch(read) as watching:
        given = read(query, image, words)
    (map_,) = watching.maps
    cells = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    for b in range(B):
        for t in range(T):
            q = query[b, t]
            salience, scores = [], []
            for row, column in cells:
                m = image[b, :, row, column]
                salience.append(read.salience(m)[0])
                hidden = torch.tanh(read.find.query.weight @ q + read.find.memory.weight @ m)
                scores.append((read.find.vector.weight[0] * hidden).sum())
            found = torch.stack([e + z for e, z in zip(scores, salience, strict=True)]).softmax(0)
            side = 2 * REACH + 1
            offsets = (read.offset.weight @ q + read.offset.bias).exp()
            offsets[side * REACH + REACH] = 0  # moving nowhere is no move
            offsets = offsets / offsets.sum()
            logits = []
            for index, (row, column) in enumerate(cells):
                total = torch.zeros((), dtype=torch.float64)
                for down in range(-REACH, REACH + 1):
                    for right in range(-REACH, REACH + 1):
                        block = row // BLOCK + down, column // BLOCK + right
                        inside = [found[i] for i, (r, c) in enumerate(cells) if (r // BLOCK, c // BLOCK) == block]
                        if inside:
                            mean = torch.stack(inside).sum() / len(inside)
                            total = total + offsets[side * (down + REACH) + right + REACH] * mean
                logits.append((total + 1e-6).log() + salience[index])
            moved = torch.stack(logits).softmax(0)
            stay = 1 / (1 + sum(torch.exp(-read.stay.weight[word, 0]) for word in words[b, t] if word))
            weights = stay * found + (1 - stay) * moved
            torch.testing.assert_close(map_.values[b, 0, t].flatten(), found)
            torch.testing.assert_close(map_.values[b, 1, t].flatten(), weights)
            context = sum(
                weight * image[b, :, row, column] for weight, (row, column) in zip(weights, cells, strict=True)
            )
            torch.testing.assert_close(given[b, t], context)


def test_words_of_direction_ask_to_move_from_the_start() -> None:
    read = FindThenMove(8, 4, WORDS, DIRECTIONS)
    asked = torch.tensor([[[1, 2, 3, 0], [1, 7, 3, 0], [8, 0, 0, 0], [4, 0, 0, 0]]])
    stays = read.enough(asked)[0, :, 0].tolist()
    assert stays[1] < 0.15 < 0.6 < stays[0]
    assert stays[2] == pytest.approx(1 - stays[3])
