"""A model that is run on the side is afterwards what it was, whoever else runs it at the same time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
import torch
from torch import Tensor, nn

from regard.running import tensors, uncompiled, undisturbed


class Drawing(nn.Module):
    """Draws a random number in each forward, in evaluation mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(())


def network() -> nn.Sequential:
    """In training mode, but for its normalization."""
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), Drawing())
    model[1].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@contextmanager
def threads(count: int) -> Iterator[list[ThreadPoolExecutor]]:
    """Threads of which each does what it is told, one thing after the other."""
    with ExitStack() as stack:
        yield [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(count)]


def test_tensors_are_found_in_what_a_model_takes_or_gives() -> None:
    one, two, three, four = (torch.full((2,), float(value)) for value in range(4))
    given = {"a": one, "b": [two, None, "text", (three, 5)], "c": {"d": {"e": four}}}
    assert [value.tolist() for value in tensors(given)] == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert [value is one for value in tensors(one)] == [True]
    assert list(tensors("text")) == list(tensors(None)) == list(tensors([])) == []


def test_modes_and_random_state_are_afterwards_as_before() -> None:
    model = network()
    before, state = modes(model), torch.get_rng_state()
    with undisturbed(model):
        assert not any(modes(model))
        assert not model(torch.randn(2, 3)).requires_grad
    assert modes(model) == before == [True, True, False, True, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_an_error_inside_leaves_no_trace() -> None:
    model = network()
    before, state = modes(model), torch.get_rng_state()
    with pytest.raises(RuntimeError), undisturbed(model):
        model(torch.randn(2, 7))
    assert modes(model) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("closed", [(0, 1, 2), (2, 1, 0), (1, 0, 2)], ids=str)
def test_blocks_of_threads_overlap_on_a_model_and_on_a_part_of_it(closed: tuple[int, ...]) -> None:
    """All stay in evaluation mode until the last one leaves; then modes and random state are those before the first."""
    model = network()
    before, state = modes(model), torch.get_rng_state()
    blocks: list[AbstractContextManager[None]] = [undisturbed(model), undisturbed(model[2]), undisturbed(model)]
    with threads(3) as each:
        for thread, block in zip(each, blocks, strict=True):
            thread.submit(block.__enter__).result()
            thread.submit(torch.randn, 7).result()
        for number in closed:
            assert not model[2].training
            each[number].submit(blocks[number].__exit__, None, None, None).result()
    assert modes(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_part_leaves_evaluation_mode_when_its_own_last_block_ends() -> None:
    model = network()
    with undisturbed(model[0]):
        with undisturbed(model):
            assert not any(modes(model))
        assert modes(model) == [True, False, False, True, True]
    assert modes(model) == [True, True, False, True, True]


def test_blocks_over_several_models_are_apart() -> None:
    first, second = network(), network()
    with undisturbed(first):
        assert modes(second) == [True, True, False, True, True]
        with undisturbed(second):
            pass
        assert modes(second) == [True, True, False, True, True]
        assert not any(modes(first))


def test_a_model_that_goes_to_training_inside_stays_there() -> None:
    """Whoever changes the modes on purpose has the last word, and later blocks find no leftovers."""
    model = network()
    with undisturbed(model):
        model.train()
    assert modes(model) == [True] * 5
    model.eval()
    with undisturbed(model):
        pass
    assert not any(modes(model))


def test_what_was_compiled_is_found() -> None:
    model = network()
    assert uncompiled(model) is model
    assert uncompiled(torch.compile(model, backend="eager")) is model  # pyright: ignore[reportArgumentType]
    model.compile(backend="eager")
    assert uncompiled(model) is model
