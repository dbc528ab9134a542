"""Attention is put in and taken out while other threads run the model: nobody's output changes, nothing fails."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
import timm
import torch
from torch import Tensor

from regard.placing import insert, remove


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.filterwarnings("ignore:.*cannot change an output")
@pytest.mark.parametrize(
    ("name", "attention", "shape"), [("test_resnet", "se", (1, 3, 32, 32)), ("test_vit", "cbam", (1, 3, 160, 160))]
)
def test_insertion_and_removal_change_nothing_for_threads_that_run_the_model(
    name: str, attention: str, shape: tuple[int, ...]
) -> None:
    model = timm.create_model(name, num_classes=5).eval()
    x = torch.randn(shape)
    with torch.no_grad():
        expected = model(x)
    begin, done = Barrier(5), Event()

    @torch.no_grad()
    def run(_: int) -> list[Tensor]:
        begin.wait(timeout=60)
        outputs = []
        while not done.is_set():
            outputs.append(model(x))
        return outputs

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(run, number) for number in range(4)]
        begin.wait(timeout=60)
        try:
            for _ in range(6):
                insert(model, attention, "block", start="identity", example=x)
                remove(model)
        finally:
            done.set()
        outputs = [output for each in running for output in each.result()]
    assert outputs
    wrong = sum(not torch.allclose(output, expected, rtol=1e-5, atol=1e-6) for output in outputs)
    assert wrong == 0
