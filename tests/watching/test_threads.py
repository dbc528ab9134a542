"""One model that is watched and run by many threads at once gives each of them what it gives one alone."""

import timm
import torch
from torch import Tensor, nn

from many_threads import EACH, THREADS, alike, at_once
from regard.attention import offering
from regard.placing import insert, places
from regard.watching import AttentionMap, watch


def network() -> nn.Module:
    """A small residual network in which every inserted gate does something."""
    model = timm.create_model("test_resnet", num_classes=5).eval()
    return insert(model, "se", "block", start="paper", example=(1, 3, 32, 32))


def test_maps_and_outputs_of_several_threads_are_those_of_one() -> None:
    model, images = network(), torch.randn(THREADS * EACH, 1, 3, 32, 32)

    @torch.no_grad()
    def look(number: int) -> tuple[Tensor, list[AttentionMap]]:
        with watch(model) as seen:
            output = model(images[number])
        return output, seen.maps

    expected = [look(number) for number in range(THREADS * EACH)]
    found = at_once(look)
    assert sum(not torch.equal(one[0], other[0]) for one, other in zip(found, expected, strict=True)) == 0
    assert sum(not alike(one[1], other[1]) for one, other in zip(found, expected, strict=True)) == 0
    assert not offering.listening()


def test_places_are_read_while_other_threads_run_the_model() -> None:
    """The run of the reading thread alone is read, and nobody's output changes."""
    model = timm.create_model("test_resnet", num_classes=5).eval()
    images = torch.randn(THREADS * 3, 1, 3, 32, 32)

    @torch.no_grad()
    def use(number: int) -> Tensor | str:
        return str(places(model, images[number])) if number % 2 else model(images[number])

    expected = [use(number) for number in range(THREADS * 3)]
    for one, other in zip(at_once(use, THREADS * 3), expected, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other
    assert not any(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
