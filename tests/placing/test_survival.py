"""An attended model lives as the plain one did: copied, saved, compiled, exported, distributed, averaged, frozen."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.layers
import timm.utils
import torch
from inserting import attention_of, is_inserted
from residual import Residual
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from regard.attention.channel import SqueezeExcitation
from regard.attention.channel_spatial import CBAM
from regard.errors import UserError
from regard.placing import Placed, insert, parameter_groups, remove
from regard.placing import inserted as inserted_attention
from regard.placing.placed import SCALE
from regard.watching.ablation import ablations, strengths

HEIGHT, WIDTH = 33, 44
"""Of every image, if nothing else is said: 3 by 4 of the patches that the vision transformer takes."""


class Residuals(nn.Module):
    """A residual network of two blocks; `run` calls each, so that a test may checkpoint them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2)
        self.blocks = nn.ModuleList([Residual(16), Residual(16)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 5)
        self.run: Callable[[nn.Module, Tensor], Tensor] = call

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = self.run(block, x)
        return self.head(self.pool(x).flatten(1))


def call(block: nn.Module, x: Tensor) -> Tensor:
    return block(x)


class Unet(nn.Module):
    """One skip connection, by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU())
        self.decode = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.encode(x)
        deep = nn.functional.interpolate(self.down(skip), size=skip.shape[2:])
        return self.head(self.decode(torch.cat([skip, deep], dim=1)))


class Tokens(nn.Module):
    """A vision transformer without positions, which takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 7, stride=7)
        self.first = nn.Parameter(torch.randn(1, 1, 16))
        self.blocks = nn.Sequential(TokenBlock(16), TokenBlock(16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], dim=1)
        return self.head(self.blocks(x)[:, 0])


class TokenBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 11), nn.GELU(), nn.Linear(11, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Twice(nn.Module):
    """One block, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2)
        self.block = Residual(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(self.stem(x))).mean(dim=(2, 3))


def timm_resnet() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=5, zero_init_last=False)


def timm_vit() -> nn.Module:
    return timm.create_model("test_vit", num_classes=5, img_size=(HEIGHT, WIDTH), patch_size=11)


@dataclass(frozen=True)
class Case:
    """A model and the attention that is put into it."""

    make: Callable[[], nn.Module]
    attention: Any
    at: Any
    start: Any = "identity"
    calls: Any = "shared"
    any_size: bool = True

    def plain(self) -> nn.Module:
        """The model, the same at every call, in evaluation mode; its normalisations are not the identity."""
        torch.manual_seed(0)
        model = self.make().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)  # pyright: ignore[reportArgumentType]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # pyright: ignore[reportArgumentType]
        return model

    def put(self, model: nn.Module) -> nn.Module:
        """The attention in that model, with parameters at which every one of them has its say."""
        insert(model, self.attention, self.at, start=self.start, calls=self.calls, example=image())
        return awaken(model)

    def attended(self) -> nn.Module:
        """A model with attention, the same at every call."""
        return self.put(self.plain())


def awaken(model: nn.Module) -> nn.Module:
    """Move every inserted parameter away from where it starts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in inserted(model).items():
            if name.endswith(".raw_strength"):
                parameter.fill_(0.7 / SCALE)
            else:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def inserted(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if is_inserted(name)}


def image(batch: int = 2, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Of every parameter that has one, for one loss."""
    model.zero_grad()
    model(x).square().mean().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def hooks(model: nn.Module) -> int:
    """How many hooks there are, and forwards that are not those of the class."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in vars(module))
        for module in model.modules()
    )


# With the default reduction, 16 channels leave one hidden unit, which may be dead.
se, cbam = partial(SqueezeExcitation, reduction=3), partial(CBAM, reduction=3)
CASES = {
    "residual-se": Case(Residuals, se, ["block", "pool"]),
    "residual-cbam-paper": Case(Residuals, cbam, "branch", "paper"),
    "residual-several": Case(Residuals, [cbam, "multi_head_self"], "block"),
    "unet-non_local": Case(Unet, "non_local", ["down", "decode"]),
    "residual-involution": Case(Residuals, "involution", "blocks.*.conv"),
    "residual-involution-paper": Case(Residuals, "involution", "blocks.*.conv", "paper"),
    "unet-attention_gate": Case(Unet, "attention_gate", "skip"),
    "twice-separate": Case(Twice, se, "block", calls="separate"),
    "tokens-multi_head_self": Case(Tokens, "multi_head_self", "blocks.*"),
    "timm_resnet-cbam": Case(timm_resnet, cbam, ["stage", "branch"], any_size=False),
    "timm_resnet-se-paper": Case(timm_resnet, se, "block", "paper", any_size=False),
    "timm_vit-multi_head_self": Case(timm_vit, "multi_head_self", ["block", "pool"], any_size=False),
    "timm_vit-multi_head_self-paper": Case(timm_vit, "multi_head_self", "branch", "paper", any_size=False),
}


EXPORTED = [name for name in CASES if name.removesuffix("-paper") not in CASES or not name.endswith("-paper")]
"""Those whose graphs differ: of two that differ in their start alone, the one with the longer graph."""

EVERY_CASE = [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("timm") else []) for name in CASES]


@pytest.fixture(params=EVERY_CASE)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(autouse=True)
def no_trace_is_left() -> Iterator[None]:
    yield
    torch.compiler.reset()


def check_removal(case: Case, model: nn.Module) -> None:
    """`remove` makes it the model that it was: no hook, no name, no value is left of the attention."""
    plain = case.plain().train(model.training)
    assert remove(model) is model
    assert hooks(model) == 0
    assert not any(isinstance(module, Placed) for module in model.modules())
    assert [(path, type(module)) for path, module in model.named_modules()] == [
        (path, type(module)) for path, module in plain.named_modules()
    ]
    torch.testing.assert_close(model.state_dict(), plain.state_dict())
    torch.testing.assert_close(model.eval()(image()), plain.eval()(image()))


def test_the_attention_of_these_cases_is_seen_in_the_output(case: Case) -> None:
    """Or else no test of this file could fail."""
    plain, attended = case.plain(), case.attended()
    assert (plain(image()) - attended(image())).abs().max() > 1e-3
    found = gradients(attended, image())
    assert [name for name in inserted(attended) if found[name].abs().max() == 0] == []


# Modes


def test_modes_reach_the_attention_and_come_back(case: Case) -> None:
    model = case.attended()
    expected = model(image())
    model.train()
    assert all(module.training for module in model.modules())
    with torch.no_grad():
        state = copy.deepcopy(model.state_dict())
        torch.manual_seed(0)
        model(image())
    model.load_state_dict(state)
    model.eval()
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(model(image()), expected)
    check_removal(case, model)


# Copies and checkpoints


def saved_and_loaded(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def through_weights(model: nn.Module) -> nn.Module:
    """The model's state, saved and loaded as weights alone, in a model of the same make."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    twin = copy.deepcopy(model)
    for value in twin.state_dict().values():
        value.zero_()
    twin.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    return twin


COPIERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "save": saved_and_loaded,
    "weights": through_weights,
}


@pytest.mark.parametrize("copier", COPIERS)
def test_a_copy_gives_the_same_and_lives_on_its_own(case: Case, copier: str) -> None:
    model = case.attended()
    expected = model(image())
    twin = COPIERS[copier](model)
    torch.testing.assert_close(twin(image()), expected)
    mine, theirs = ({id(value) for value in each.parameters()} for each in (model, twin))
    assert not mine & theirs
    # Its hooks run its own attention: with other parameters there, it gives something else, and only it does.
    with torch.no_grad():
        for value in inserted(twin).values():
            value.mul_(-1.5)
    assert (twin(image()) - expected).abs().max() > 1e-4
    torch.testing.assert_close(model(image()), expected)
    check_removal(case, twin)
    torch.testing.assert_close(model(image()), expected)


def test_checkpoints_pass_between_the_plain_and_the_attended_model(case: Case) -> None:
    plain, attended = case.plain(), case.attended()
    assert [name for name in attended.state_dict() if not is_inserted(name)] == list(plain.state_dict())
    new = attended.state_dict().keys() - plain.state_dict().keys()
    assert new
    assert all(is_inserted(name) for name in new)

    other = case.plain()  # a plain checkpoint of other values
    for value in other.parameters():
        nn.init.normal_(value, std=0.3)
    kept = {name: value.clone() for name, value in attended.state_dict().items() if name in new}
    attended.load_state_dict(other.state_dict(), strict=True)
    torch.testing.assert_close({name: attended.state_dict()[name] for name in new}, kept)
    torch.testing.assert_close({name: attended.state_dict()[name] for name in other.state_dict()}, other.state_dict())

    told = plain.load_state_dict(case.attended().state_dict(), strict=False)
    assert (set(told.missing_keys), set(told.unexpected_keys)) == (set(), new)
    torch.testing.assert_close(plain.state_dict(), case.plain().state_dict())


def test_a_checkpoint_of_an_attended_model_loads_into_another(case: Case) -> None:
    trained = case.attended()
    fresh = case.plain()
    for value in fresh.parameters():
        nn.init.normal_(value, std=0.3)
    insert(fresh, case.attention, case.at, start=case.start, calls=case.calls, example=image())
    fresh.load_state_dict(trained.state_dict(), strict=True)
    torch.testing.assert_close(fresh(image()), trained(image()))


def test_averaged_weights_follow_the_attention(case: Case) -> None:
    model = case.attended()
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    moving = timm.utils.ModelEmaV3(model, decay=0.75)  # pyright: ignore[reportAttributeAccessIssue]
    before = copy.deepcopy(model.state_dict())
    average.update_parameters(model)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(0.5)
    average.update_parameters(model)
    moving.update(model)

    expected = case.plain()
    for name in (name for name, _ in inserted(model).items()):
        torch.testing.assert_close(average.module.state_dict()[name], 0.75 * before[name])
        torch.testing.assert_close(moving.module.state_dict()[name], 0.875 * before[name])
    for averaged, factor in ((average.module, 0.75), (moving.module, 0.875)):
        twin = case.attended()
        with torch.no_grad():
            for value in twin.parameters():
                value.mul_(factor)
        torch.testing.assert_close(averaged.eval()(image()), twin(image()))
        remove(averaged)
        assert averaged.state_dict().keys() == expected.state_dict().keys()
        assert hooks(averaged) == 0
    assert hooks(model) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec")
@pytest.mark.filterwarnings("ignore:.*GPU available but not used")
def test_a_lightning_checkpoint_goes_round(tmp_path: Path) -> None:
    import lightning

    class Wrapped(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = CASES["residual-se"].attended().train()

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return self.model(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameter_groups(self.model, lr=0.1, new_lr=0.3))

    module = Wrapped()
    before = {name: value.detach().clone() for name, value in inserted(module.model).items()}
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", max_steps=2, default_root_dir=tmp_path, **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(image(4)), batch_size=2))
    assert all(not torch.equal(value, before[name]) for name, value in inserted(module.model).items())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = Wrapped.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cpu")
    torch.testing.assert_close(again.model.eval()(image()), module.model.eval()(image()))
    plain = CASES["residual-se"].plain()
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    told = plain.load_state_dict({name.removeprefix("model."): value for name, value in state.items()}, strict=False)
    assert told.missing_keys == []
    torch.testing.assert_close(plain(image()), remove(again.model)(image()))


# Compilers and exporters


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    "name",
    [
        "residual-several",
        "residual-cbam-paper",
        "unet-non_local",
        "unet-attention_gate",
        "twice-separate",
        "residual-involution-paper",
        "tokens-multi_head_self",
        "timm_resnet-cbam",
    ],
)
def test_compiles_into_one_graph(name: str) -> None:
    case = CASES[name]
    model = case.attended()
    expected, expected_gradients = model(image()), gradients(model, image())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    model.zero_grad()
    output = compiled(image())
    output.square().mean().backward()
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    found = {path: value.grad for path, value in model.named_parameters() if value.requires_grad}
    torch.testing.assert_close(found, expected_gradients, rtol=1e-4, atol=1e-5)
    check_removal(case, model)
    with torch.no_grad():  # what was compiled is not the attended model any more
        torch.testing.assert_close(compiled(image()), case.plain()(image()), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_the_default_compiler_gives_the_same() -> None:
    model = CASES["residual-several"].attended()
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(image()), model(image()), rtol=1e-4, atol=1e-5)


def dynamic(case: Case) -> dict[int, Any]:
    """Which axes of the image may change: its batch, and its size where the plain model exports with any.

    That of timm's residual network does not: its pooling rounds up.
    """
    batch = torch.export.Dim("batch", min=2, max=13)
    if not case.any_size:
        return {0: batch}
    return {0: batch, 2: torch.export.Dim("height", min=29, max=97), 3: torch.export.Dim("width", min=29, max=97)}


def other_images(case: Case) -> list[Tensor]:
    return [image(3, seed=5), image(5, HEIGHT + 32, WIDTH + 32, seed=6) if case.any_size else image(5, seed=6)]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", EXPORTED)
def test_runs_the_same_exported_and_in_onnxruntime_at_other_sizes(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    case = CASES[name]
    model = case.attended()
    exported = torch.export.export(model, (image(),), dynamic_shapes=(dynamic(case),))
    for other in other_images(case):
        torch.testing.assert_close(exported.module()(other), model(other), rtol=1e-4, atol=1e-5)
    assert {name for name in exported.state_dict if is_inserted(name)} >= inserted(model).keys()
    program = torch.onnx.export(exported, (), dynamo=True, input_names=["image"], verbose=False)
    assert program is not None
    program.save(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for other in [image(), *other_images(case)]:
        (found,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(other), rtol=1e-3, atol=1e-4)
    check_removal(case, model)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_into_torchscript(case: Case) -> None:
    model = case.attended()
    traced = torch.jit.trace(model, image(), check_trace=True, check_inputs=[(image(3),)])
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    for other in [image(), *other_images(case)]:
        torch.testing.assert_close(loaded(other), model(other), rtol=1e-4, atol=1e-5)
    check_removal(case, model)


# Number formats


def test_autocast_runs_forward_and_backward(case: Case) -> None:
    model = case.attended()
    expected = gradients(model, image())
    with torch.autocast("cpu", torch.bfloat16):
        output = model(image())
        loss = output.float().square().mean()
    model.zero_grad()
    loss.backward()
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), model(image()), rtol=0.1, atol=0.05)
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert found.keys() == expected.keys()
    assert {value.dtype for value in found.values()} == {torch.float32}
    error, size = (
        torch.stack([value.norm() for value in values]).norm()
        for values in ([found[name] - expected[name] for name in found], expected.values())
    )
    assert error < 0.15 * size
    check_removal(case, model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_attention_follows_the_model_to_another_type(case: Case, dtype: torch.dtype) -> None:
    model = case.attended()
    expected = model(image())
    model.to(dtype)
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {dtype}
    found = model(image().to(dtype))
    assert found.dtype == dtype
    tolerance = {torch.float64: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.12}[dtype]
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)
    check_removal(case, model.float()) if dtype == torch.float64 else remove(model)


@pytest.mark.parametrize(
    "name", ["residual-se", "residual-cbam-paper", "residual-several", "unet-non_local", "timm_resnet-cbam"]
)
def test_channels_last_goes_through(name: str) -> None:
    case = CASES[name]
    model = case.attended()
    expected = model(image())
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    seen: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, Placed):
            module.register_forward_hook(lambda module, given, output, path=path: seen.update({path: output}))
    found = model(image().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert seen
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in seen.values())
    check_removal(case, model)


def test_the_attention_is_built_where_the_model_is() -> None:
    """A model without values yet (`meta`) takes attention, and both get their values together."""
    case = CASES["residual-se"]
    with torch.device("meta"):
        model = case.make().eval()
    insert(model, case.attention, case.at, example=image().to("meta"))
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
    model.load_state_dict(case.attended().state_dict(), strict=True, assign=True)
    torch.testing.assert_close(model(image()), case.attended()(image()))


# Training in other ways


def in_one_process(rank: int, rendezvous: str, folder: str) -> None:
    """One of the two processes of the test below: its half of the batch, and the gradients after the all-reduce."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    try:
        for name in IN_TWO_PROCESSES:
            model = nn.parallel.DistributedDataParallel(CASES[name].attended())
            for _ in range(2):  # the second step fails if the first left a parameter without a gradient
                model.zero_grad()
                model(image(4)[2 * rank : 2 * rank + 2]).square().mean().backward()
            found = {key: value.grad for key, value in model.module.named_parameters() if value.requires_grad}
            torch.save(found, f"{folder}/{name}{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


IN_TWO_PROCESSES = "residual-se", "twice-separate", "timm_vit-multi_head_self", "residual-involution-paper"


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_on_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    # Most of the time is the start of the processes, so they start once for all.
    torch.multiprocessing.spawn(in_one_process, (str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    for name in IN_TWO_PROCESSES:
        expected = gradients(CASES[name].attended(), image(4))
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}{rank}.pt")
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved", "reentrant"])
@pytest.mark.parametrize("name", ["residual-se", "residual-cbam-paper", "residual-several", "residual-involution"])
def test_checkpointing_a_host_changes_no_gradient(name: str, reentrant: bool) -> None:
    model = CASES[name].attended()
    expected = gradients(model, image().requires_grad_())
    model.run = partial(checkpoint, use_reentrant=reentrant)
    found = gradients(model, image().requires_grad_())
    torch.testing.assert_close(found, expected)
    model.run = call
    check_removal(CASES[name], model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "at",
    ["stem", "block", "branch", "pool", "stage"],
)
@pytest.mark.parametrize(("make", "attention"), [(timm_resnet, "se"), (timm_vit, "multi_head_self")])
@pytest.mark.filterwarnings("ignore:.*use_reentrant")
def test_the_checkpointing_of_timm_changes_nothing(make: Callable[[], nn.Module], attention: str, at: str) -> None:
    case = Case(make, attention, at)
    model = case.attended()
    output, expected = model(image()), gradients(model, image())
    model.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(model(image()), output)
    torch.testing.assert_close(gradients(model, image()), expected)
    check_removal(case, model)


def test_only_the_attention_of_a_frozen_model_learns(case: Case) -> None:
    model = case.plain().requires_grad_(False)
    case.put(model)
    assert set(gradients(model, image())) == set(inserted(model))
    before = copy.deepcopy(model.state_dict())
    torch.optim.SGD(parameter_groups(model, lr=0.1, new_lr=0.1)).step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= inserted(model).keys()
    with torch.no_grad():
        assert not model(image()).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(model(image()), model(image()))
    remove(model)
    assert not any(value.requires_grad for value in model.parameters())
    torch.testing.assert_close(model(image()), case.plain()(image()))


def test_a_shared_block_is_attended_at_each_of_its_calls() -> None:
    case = Case(Twice, "se", "block")
    model = case.attended()
    (placed,) = attention_of(model)  # pyright: ignore[reportCallIssue]
    unrolled = Twice().eval()
    unrolled.load_state_dict(case.plain().state_dict())
    x = unrolled.stem(image())
    for _ in range(2):
        x = placed(unrolled.block(x))
    expected = x.mean(dim=(2, 3))
    torch.testing.assert_close(model(image()), expected)
    expected.square().mean().backward()  # both calls add to the one set of parameters
    joined = {name: value.grad.clone() for name, value in inserted(model).items() if value.grad is not None}
    found = gradients(model, image())
    torch.testing.assert_close({name: found[name] for name in joined}, joined)
    assert joined.keys() == inserted(model).keys()
    check_removal(case, model)


def test_functional_calls_take_the_parameters_that_they_are_given(case: Case) -> None:
    model = case.attended()
    values = {name: value.detach() for name, value in model.named_parameters()}
    other = {name: value * (0.5 if is_inserted(name) else 1) for name, value in values.items()}
    twin = case.attended()
    with torch.no_grad():
        for value in inserted(twin).values():
            value.mul_(0.5)
    torch.testing.assert_close(torch.func.functional_call(model, other, (image(),)), twin(image()))

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, parameters, (image(),)).square().mean()

    zeros = {name: torch.zeros_like(value) for name, value in values.items()}  # for a convolution that is replaced
    expected = zeros | gradients(model, image())
    torch.testing.assert_close(torch.func.grad(loss)(values), expected, rtol=1e-4, atol=1e-6)
    check_removal(case, model)


def test_gradients_of_single_images_come_from_vmap() -> None:
    model = CASES["residual-se"].attended()
    values = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (x[None],)).square().mean()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(values, image(3))
    for index in range(3):
        alone = gradients(model, image(3)[index : index + 1])
        torch.testing.assert_close({name: value[index] for name, value in found.items()}, alone, rtol=1e-4, atol=1e-6)


# What users do to a module that is a host


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_host_may_get_a_parametrisation(norm: Callable[[nn.Module], nn.Module]) -> None:
    case = Case(Residuals, "se", "blocks.0.conv")
    model, plain = case.plain(), case.plain()
    case.put(model)
    for each in (model, plain):
        torch.manual_seed(0)  # of the vectors with which the spectral norm begins
        norm(each.blocks[0].conv)  # pyright: ignore[reportIndexIssue]
        each.eval()
    seen: list[Tensor] = []
    model.blocks[0].norm.register_forward_hook(  # pyright: ignore[reportIndexIssue]
        lambda module, given, output: seen.append(given[0])
    )
    model(image())
    (placed,) = attention_of(model)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(seen[0], placed(plain.blocks[0].conv(plain.stem(image()))))  # pyright: ignore
    remove(model)
    torch.testing.assert_close(model(image()), plain(image()))


def test_hooks_of_the_user_and_of_the_attention_run_in_the_order_of_their_coming() -> None:
    case = CASES["residual-se"]
    model = case.plain()
    before: list[Tensor] = []
    after: list[Tensor] = []
    model.blocks[0].register_forward_hook(  # pyright: ignore[reportIndexIssue]
        lambda module, given, output: before.append(output)
    )
    case.put(model)
    model.blocks[0].register_forward_hook(  # pyright: ignore[reportIndexIssue]
        lambda module, given, output: after.append(output)
    )
    before.clear()
    model(image())
    placed = next(each for each in attention_of(model) if each.place == "blocks.0")  # pyright: ignore
    assert (before[0] - after[0]).abs().max() > 1e-3
    torch.testing.assert_close(placed(before[0]), after[0])


REPLACEMENTS: dict[str, tuple[str, Callable[[nn.Module], object]]] = {
    "synchronised normalisation": ("branch", nn.SyncBatchNorm.convert_sync_batchnorm),
    "frozen normalisation": ("branch", timm.layers.freeze_batch_norm_2d),
    "another classifier": ("pool", lambda model: model.reset_classifier(7)),
}


def test_attention_of_a_part_is_not_lost_in_silence_when_its_host_is_replaced() -> None:
    """The part has no record of what was inserted; the attention was handed on to a module that does not run it."""
    model = Case(timm_resnet, "se", "branch").attended()
    count = len(inserted_attention(model))
    assert count > 2
    model.layer2 = nn.SyncBatchNorm.convert_sync_batchnorm(model.layer2)  # pyright: ignore[reportArgumentType]
    for part in (model.layer2, model):
        for ask in (
            inserted_attention,
            strengths,
            lambda part: ablations(part, [image()], part),
            lambda part: parameter_groups(part, lr=0.1, new_lr=0.1),
            lambda part: insert(part, "eca", "output", example=image()),
        ):
            with pytest.raises(UserError, match=r"layer2\.0\.bn2.* was replaced .* call regard.remove first"):
                ask(part)  # pyright: ignore[reportArgumentType]
    assert len(inserted_attention(model.layer1)) == count / 4  # what is whole answers  # pyright: ignore
    remove(model)
    assert not any(is_inserted(name) for name, _ in model.named_modules())
    assert len(inserted_attention(insert(model, "se", "branch", example=image()))) == count


def test_a_model_whose_attention_went_with_its_host_says_so() -> None:
    model = Case(timm_resnet, "se", "branch").attended()
    timm.layers.freeze_batch_norm_2d(model.layer2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"'?layer2\.0\.bn2.* was replaced"):
        inserted_attention(model)


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_attention_is_not_lost_in_silence_when_its_host_is_replaced(replacement: str) -> None:
    at, replace = REPLACEMENTS[replacement]
    model = Case(timm_resnet, "se", at).attended()
    replace(model)
    with pytest.raises(UserError, match="replaced"):
        model(image())


@pytest.mark.parametrize(
    "compiled",
    ["whole", "child"],
)
def test_a_model_that_is_compiled_in_place_is_refused(compiled: str) -> None:
    model = CASES["residual-se"].plain()
    if compiled == "whole":
        model.compile(backend="eager")
    else:
        model.stem = torch.compile(model.stem, backend="eager")
    with pytest.raises(UserError, match="insert first"):
        insert(model, "se", "block", example=image())


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_kernel_of_each_image_traces_for_any_batch() -> None:
    model = Case(Residuals, "dynamic_convolution", "blocks.*.conv").attended()
    traced = torch.jit.trace(model, image())
    torch.testing.assert_close(traced(image(3)), model(image(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["layer2", "layer3.0"], ids=["on the way", "the host"])
def test_a_wrapper_around_a_host_leaves_its_attention(path: str) -> None:
    """What sharding and checkpointing wrap keeps its hooks, and is not taken for replaced."""
    model = Case(timm_resnet, "se", "block").attended()
    expected = model(image())
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, checkpoint_wrapper(model.get_submodule(path)))
    torch.testing.assert_close(model(image()), expected)
