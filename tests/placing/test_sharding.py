"""Inserted attention is sharded with its model: two processes take the steps that one takes on the whole batch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from residual import Residual
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from regard.placing import insert


def attended(attention: str) -> nn.Sequential:
    """A small residual network with attention, the same in every process.

    It stays in evaluation mode: cbam has a BatchNorm, and in training mode that would normalize by the statistics of
    the half that a process has, which are not those of the batch, whatever shards the model.
    """
    torch.manual_seed(0)
    blocks = nn.Conv2d(3, 20, 3, stride=2), *(Residual(20, nn.GroupNorm(4, 20)) for _ in range(2))
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 7))
    model = model.eval().double()  # so that sums of other batches differ by far less than what is compared
    return insert(model, attention, "block", start="identity", example=images())  # pyright: ignore[reportReturnType]


def images() -> Tensor:
    return torch.randn(4, 3, 19, 17, generator=torch.Generator().manual_seed(0)).double()


def whole_wrapped(model: nn.Sequential) -> nn.Module:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


def blocks_wrapped(model: nn.Sequential) -> nn.Module:
    policy = ModuleWrapPolicy({Residual})
    cpu = torch.device("cpu")
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, device_id=cpu, use_orig_params=True)


def whole_sharded(model: nn.Sequential) -> nn.Module:
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return model


def blocks_sharded(model: nn.Sequential) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    for block in model[1:3]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


FORMS: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    form.__name__: form for form in (whole_wrapped, blocks_wrapped, whole_sharded, blocks_sharded)
}


def trained(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What the model gives before, between and after two steps: in the second, what the attention says matters."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    outputs: list[Tensor] = []
    for _ in range(2):
        optimizer.zero_grad()
        output = model(x)
        output.square().mean().backward()
        optimizer.step()
        outputs.append(output.detach())
    with torch.no_grad():
        return [*outputs, model(x)]


ATTENTION = "se", "cbam"


def in_one_process(rank: int, rendezvous: str, folder: str) -> None:
    """One of the two processes: trains each form on its half of the batch, and gathers all weights."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    try:
        for attention in ATTENTION:
            for name, form in FORMS.items():
                model = form(attended(attention))
                outputs = trained(model, images()[2 * rank : 2 * rank + 2])
                weights: dict[str, Any] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
                weights = {key: value.clone() for key, value in weights.items()}
                torch.save((outputs, weights), f"{folder}/{attention}_{name}{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_two_processes_train_what_one_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    # Most of the time is the start of the processes, so they start once for all.
    torch.multiprocessing.spawn(in_one_process, (str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    for attention in ATTENTION:
        alone = attended(attention)
        before = {name: value.clone() for name, value in alone.state_dict().items()}
        expected = trained(alone, images())
        inserted = [name for name in before if "regard" in name.split(".") and "running" not in name]
        assert inserted
        for form in FORMS:
            halves = [torch.load(tmp_path / f"{attention}_{form}{rank}.pt") for rank in range(2)]
            _, weights = halves[0]
            found = [torch.cat(outputs) for outputs in zip(*(outputs for outputs, _ in halves), strict=True)]
            said = partial("{} {}: {}".format, attention, form)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12, msg=said)
            torch.testing.assert_close(weights, dict(alone.state_dict()), rtol=1e-10, atol=1e-12, msg=said)
            # The whole state goes back into a model that is not sharded.
            attended(attention).load_state_dict(weights)
            moved = [name for name in inserted if name.endswith("strength")]
            assert moved
            assert all(not torch.equal(weights[name], before[name]) for name in moved), said("strength")
