"""The whole network: a picture is encoded once, all of its questions are answered from it."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from regard.attention import ShapeError
from regard.errors import UserError
from regard.models.vqa.answer import Answer
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.sight import Regions, Sight
from regard.models.vqa.vocabulary import WordVocabulary
from regard.models.vqa.words import Words
from regard.running import undisturbed
from regard.watching import AttentionMap, NoMapError, watch

if TYPE_CHECKING:
    from regard.models.vqa.recipe import Recipe


@runtime_checkable
class Vocabulary(Protocol):
    """From a question as people write it to numbers of words."""

    def encode(self, question: str) -> Sequence[int]: ...


class Answering(nn.Module):
    """What every model that answers questions about pictures has: the numbers' texts, and `answer`.

    Args:
        vocabulary: from a question's text to numbers of words; a tokenizer of `transformers` is one.
        answers: the answers' texts, in the order of their numbers.
        view: from what `answer` is given as a picture, such as a PIL image, to what the model takes, without the batch;
            default None: it is given just that.

    Attributes:
        loss: what it is trained with: that of its paper.
        fresh: the names of the weights that a checkpoint of Hugging Face should have had, and lacks.
        independent: whether each answer was trained to be right or wrong by itself, and not as one of all.
        longest: how many words of a question it can read; None: any number.
        recipe: what it is made of, if `recipe.build` made it.
    """

    loss: Loss
    independent: bool
    fresh: Sequence[str] = ()
    longest: int | None = None
    recipe: "Recipe | None" = None

    def __init__(
        self,
        vocabulary: Vocabulary | None = None,
        answers: Sequence[str] | None = None,
        view: Callable[[Any], Tensor | Regions] | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.answers = answers
        self.view = view

    @abstractmethod
    def see(self, pictures: Any) -> Sight:
        """The pictures, encoded once for all of their questions."""

    @abstractmethod
    def read(
        self, sight: Sight, questions: Shaped[Tensor, "B Q L"], mask: Bool[Tensor, "B Q L"] | None
    ) -> Float[Tensor, "B Q answers"]:
        """The answers' logits to several questions about each picture."""

    def forward(
        self,
        pictures: Shaped[Tensor, "B ..."] | Regions,
        questions: Shaped[Tensor, "B *Q L"],
        mask: Bool[Tensor, "B *Q L"] | None = None,
    ) -> Float[Tensor, "B *Q answers"]:
        return self.ask(self.see(pictures), questions, mask)

    def ask(
        self, sight: Sight, questions: Shaped[Tensor, "B *Q L"], mask: Bool[Tensor, "B *Q L"] | None = None
    ) -> Float[Tensor, "B *Q answers"]:
        """The answers' logits to questions about pictures that were encoded before."""
        if questions.ndim not in (2, 3) or questions.shape[0] != sight.tokens.shape[0]:
            raise ShapeError(
                f"{type(self).__name__} got questions of shape {tuple(questions.shape)} about {sight.tokens.shape[0]} "
                "pictures, expected (pictures, words) or (pictures, questions, words): give each picture as many."
            )
        if questions.ndim == 2:
            return self.read(sight, questions[:, None], None if mask is None else mask[:, None])[:, 0]
        return self.read(sight, questions, mask)

    def answer(self, picture: Any, question: str, most: int = 5, strict: bool = True) -> Answer:
        """Answer one question about one picture, as people write it.

        Args:
            picture: what `view` takes, such as a file; or what `sight` takes, without or with a batch of one.
            question: as they write it.
            most: how many of the likeliest answers to tell, at least 1; default 5.
            strict: whether a question that has no known word, or more than it can read, is refused; default True. If
                not, it is answered as in training and tests, where it is cut off.

        Raises:
            UserError: the model was built without vocabulary or answers, the picture cannot be read, or the question
                is refused; or `most` is below 1.
        """
        if most < 1:
            raise UserError(f"most={most}: expected how many answers to tell, at least 1")
        if self.vocabulary is None or self.answers is None:
            raise UserError(
                "this model knows no words: build it with vocabulary= and answers=, or call it with numbers"
            )
        numbers = list(self.vocabulary.encode(question))
        if strict and not numbers:
            raise UserError(f"the question {question!r} has no word that is known: ask one such as those of training")
        if strict and self.longest is not None and len(numbers) > self.longest:
            raise UserError(
                f"the question has {len(numbers)} words, expected at most {self.longest}: ask a shorter one"
            )
        device = next(self.parameters()).device
        seen = picture if self.view is None or isinstance(picture, (Tensor, Regions)) else self.view(picture)
        seen = _batch_of_one(seen, device)
        asked = torch.tensor([numbers[: self.longest] or [0]], device=device)
        maps: list[AttentionMap] = []
        with undisturbed(self):
            sight = self.see(seen)
            try:
                with watch(self) as watching:
                    logits = self.ask(sight, asked)[0]
                maps = watching.maps
            except NoMapError:  # it does not attend
                logits = self.ask(sight, asked)[0]
        shares = (logits.sigmoid() if self.independent else logits.softmax(0)).topk(min(most, len(logits)))
        pairs = zip(shares.indices.tolist(), shares.values.tolist(), strict=True)
        probabilities = {self.answers[int(index)]: share for index, share in pairs}
        boxes = None if sight.boxes is None else sight.boxes[0]
        unknown = self.vocabulary.unknown(question) if isinstance(self.vocabulary, WordVocabulary) else ()
        return Answer(next(iter(probabilities)), probabilities, maps, boxes, tuple(unknown))


class VisualQuestionAnswering(Answering):
    """Answers questions about pictures: `classifier(core(sight(picture), words(question)))`.

    Args:
        sight: from pictures, or `Regions`, to a `Sight`.
        words: from questions and their mask to `Words`.
        core: what joins them.
        classifier: from what the core gives to the answers' logits; a number is that of the answers, and gets the
            classifier of the core's paper.
        vocabulary, answers, view: as of `Answering`; only `answer` needs them.

    Shapes:
        pictures `(B, 3, H, W)` or `Regions`; questions `(B, L)`, one a picture, or `(B, Q, L)`; mask of their shape,
        with True = a word. Gives the answers' logits `(B, answers)`, or `(B, Q, answers)`.

    Raises:
        ShapeError: there are not as many rows of questions as pictures.
    """

    def __init__(
        self,
        sight: nn.Module,
        words: nn.Module,
        core: Core,
        classifier: nn.Module | int,
        vocabulary: Vocabulary | None = None,
        answers: Sequence[str] | None = None,
        view: Callable[[Any], Tensor | Regions] | None = None,
    ) -> None:
        super().__init__(vocabulary, answers, view)
        self.sight = sight
        self.words = words
        self.core = core
        self.classifier = core.classifier(classifier) if isinstance(classifier, int) else classifier
        self.loss = core.loss
        self.fresh = getattr(words, "fresh", ())
        self.independent = core.loss == "soft"
        self.longest = getattr(words, "longest", None)

    def see(self, pictures: Shaped[Tensor, "B ..."] | Regions) -> Sight:
        return self.sight(pictures)

    def read(
        self, sight: Sight, questions: Shaped[Tensor, "B Q L"], mask: Bool[Tensor, "B Q L"] | None
    ) -> Float[Tensor, "B Q answers"]:
        words: Words = self.words(questions, mask)
        return self.classifier(self.core(sight, words))


def _batch_of_one(picture: Any, device: torch.device) -> Any:
    """A picture or regions with the axis of a batch in front."""
    if isinstance(picture, Regions):
        lone = picture.features.ndim == 2
        features, mask, boxes = (x if x is None else (x[None] if lone else x).to(device) for x in picture)
        return Regions(cast(Tensor, features), mask, boxes)
    if isinstance(picture, Tensor):
        return (picture[None] if picture.shape[0] != 1 or picture.ndim == 2 else picture).to(device)
    raise UserError(
        f"answer got a {type(picture).__name__} for a picture, expected a tensor or Regions: build the model with "
        "view=, which makes that of it"
    )
