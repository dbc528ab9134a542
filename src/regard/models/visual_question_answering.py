"""Answer questions about a picture: the picture is encoded once, and all of its questions read from it together.

Letters: B batch   T questions   L words   D width   H, W the picture   h, w the grid of image cells.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from regard.attention import Read, ReadMap
from regard.models.moving import FindThenMove

WAVELENGTHS = (4, 8, 16, 32)
"""Of the sines and cosines that say where a cell lies, in cells."""


def normalized(layer: nn.Module, channels: int) -> list[nn.Module]:
    """A convolution, the normalisation of its channels, and a rectifier."""
    return [layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


class GridPosition(nn.Module):
    """Where a cell lies: a projection of its row and column and of their sines and cosines.

    Wavelengths of 4, 8, 16 and 32 cells, as in Vaswani et al. 2017 but for a grid: a step to the side is a rotation,
    and the plain coordinates make "further left" a difference. Any grid size.

    Args:
        width: width `D` of a cell.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * (1 + 2 * len(WAVELENGTHS)), width)

    def forward(self, rows: int, columns: int) -> Float[Tensor, "D h w"]:
        weight = self.project.weight
        axes = []
        for cells in (rows, columns):
            place = torch.arange(cells, device=weight.device, dtype=weight.dtype)
            angles = [2 * torch.pi * place / wavelength for wavelength in WAVELENGTHS]
            axes.append(torch.stack([place / 8, *(wave(angle) for angle in angles for wave in (torch.sin, torch.cos))]))
        down, across = axes  # (features, h), (features, w)
        grid = torch.cat([down[:, :, None].expand(-1, -1, columns), across[:, None].expand(-1, rows, -1)])
        return self.project(grid.movedim(0, -1)).movedim(-1, 0)  # (D, h, w)


class GridEncoder(nn.Module):
    """A small convolutional network: one cell for four by four pixels, with where it lies.

    A cell sees 18 by 18 pixels around its centre: itself and what is close, never two objects and their relation.

    Args:
        width: width `D` of a cell.

    Shapes:
        pictures `(B, 3, H, W)`, red, green, blue in 0..255. Gives `(B, D, H/4, W/4)`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # Maxima, not strides: a digit is a few pixels of many, and a stride would blur it with the ground.
        self.body = nn.Sequential(
            *normalized(nn.Conv2d(3, 16, 3, padding=1, bias=False), 16),
            nn.MaxPool2d(2),
            *normalized(nn.Conv2d(16, 48, 3, padding=1, bias=False), 48),
            nn.MaxPool2d(2),
            *normalized(nn.Conv2d(48, width, 3, padding=1, bias=False), width),
        )
        self.position = GridPosition(width)

    def forward(self, pictures: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        x = pictures.to(self.position.project.weight.dtype, memory_format=torch.channels_last)
        x = self.body((x - 50.0) / 85.0)  # (B, D, h, w)
        return x + self.position(x.shape[2], x.shape[3])


class QuestionEncoder(nn.Module):
    """Words, each scaled by a vector of its place in the question, are added up; a small network mixes the sum.

    Position encoding as in Sukhbaatar et al., "End-To-End Memory Networks", NeurIPS 2015, section 4.1, but learned.

    Args:
        words: size of the vocabulary; word 0 fills up short questions and counts for nothing.
        length: most words `L` in a question.
        width: width `D` of the encoded question.
    """

    def __init__(self, words: int, length: int, width: int) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width, padding_idx=0)
        # Small, so that words that were not asked yet hardly disturb those that were.
        nn.init.normal_(self.word.weight[1:], std=0.03)
        self.place = nn.Parameter(1 + torch.randn(length, width) * 0.1)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, words: Int[Tensor, "B T L"]) -> Float[Tensor, "B T D"]:
        # Many questions of a batch are the same: encode each one once.
        distinct, which = torch.unique(words.flatten(0, 1), dim=0, return_inverse=True)
        question = (self.word(distinct) * self.place).sum(1) / 3  # (distinct, D)
        question = question + self.mix(question)
        return question[which].unflatten(0, words.shape[:2])  # (B, T, D)


class ReadBlock(nn.Module):
    """A pre-norm residual block around any `Read`: read from the picture, then think about what was read.

        u = q + P read(norm(q), norm(m))
        v = u + mlp(norm(u))

    Args:
        read: a Read from `width` to `width`, or `FindThenMove`, which sees the words of the question as well.
        width: width `D` of queries and image cells.
    """

    def __init__(self, read: Read | FindThenMove, width: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.use(read)

    def use(self, read: Read | FindThenMove) -> None:
        """Read with this from now on; everything else stays as it is."""
        self.read = read if isinstance(read, FindThenMove) else ReadMap(read)

    def forward(
        self, query: Float[Tensor, "B T D"], image: Float[Tensor, "B D h w"], words: Int[Tensor, "B T L"]
    ) -> Float[Tensor, "B T D"]:
        image = self.memory_norm(image.movedim(1, -1)).movedim(-1, 1)
        asked = self.query_norm(query)
        context = self.read(asked, image, words) if isinstance(self.read, FindThenMove) else self.read(asked, image)
        query = query + self.project(context)
        return query + self.mlp(query)


class VisualQuestionAnswering(nn.Module):
    """Answers every question about a picture by reading from its cells with the `Read` that it is given.

    Args:
        read: how a question reads from the picture, a `Read` or `FindThenMove`; takes and gives vectors of `width`.
        words: size of the questions' vocabulary.
        length: most words in a question.
        answers: how many answers there are to choose from.
        width: width `D` of questions and image cells.

    Shapes:
        pictures `(B, 3, H, W)` in 0..255, words `(B, T, L)`. Gives the answers' logits `(B, T, answers)`.
    """

    def __init__(self, read: Read | FindThenMove, words: int, length: int, answers: int, width: int = 96) -> None:
        super().__init__()
        self.image = GridEncoder(width)
        self.question = QuestionEncoder(words, length, width)
        self.block = ReadBlock(read, width)
        self.answer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, answers))

    def forward(self, pictures: UInt8[Tensor, "B 3 H W"], words: Int[Tensor, "B T L"]) -> Float[Tensor, "B T answers"]:
        return self.answer(self.block(self.question(words), self.image(pictures), words))
