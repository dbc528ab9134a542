"""Models are found by their names, without a download, and what is wrong with a name is one line."""

import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from regard.errors import UserError
from regard.models.naming import find, one_line
from regard.running import Inputs, undisturbed


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **named: object) -> None:
        raise AssertionError(f"something would be downloaded: {arguments}")

    monkeypatch.setattr("socket.create_connection", refused)
    monkeypatch.setattr("urllib.request.urlopen", refused)
    monkeypatch.setattr("torch.hub.download_url_to_file", refused)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, which Python itself would not find."""
    (tmp_path / "my_nets_of_a_test.py").write_text(
        "from torch import nn\n"
        "ready = nn.Conv2d(3, 5, 1)\n"
        "class Nets:\n    build = staticmethod(lambda: nn.Linear(7, 11))\n"
        "def fails():\n    raise RuntimeError('no\\nluck')\n"
        "def number():\n    return 5\n"
        "def _hidden():\n    return ready\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_nets_of_a_test", raising=False)
    return "my_nets_of_a_test"


def runs(name: str, size: int | None = None, batch: int = 1) -> tuple[list[Tensor], object]:
    """The inputs of its example, and what the model of that name gives for it."""
    named = find(name)
    model = named.build(size)
    inputs = Inputs(named.example(model, size, batch))
    with undisturbed(model):
        return inputs.tensors(), inputs.run(model)


def test_a_plain_name_is_of_timm_and_else_of_torchvision() -> None:
    assert find("resnet18").name == "timm:resnet18"
    assert find("resnet18.a1_in1k").name == "timm:resnet18.a1_in1k"
    assert find("squeezenet1_1").name == "torchvision:squeezenet1_1"
    assert type(find("resnet18").build()) is timm.models.resnet.ResNet
    assert type(find("torchvision:resnet18").build()) is torchvision.models.resnet.ResNet
    assert type(find("timm:resnet18").build()) is timm.models.resnet.ResNet


def test_weights_are_random_and_the_same_each_time() -> None:
    state = torch.get_rng_state()
    first, second = (find("test_resnet").build() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_example_has_the_size_that_the_model_was_made_for() -> None:
    assert [tuple(x.shape) for x in runs("test_vit", batch=2)[0]] == [(2, 3, 160, 160)]
    vit = find("torchvision:vit_b_32")
    assert vit.example(nn.Identity())[0].shape == (1, 3, 224, 224)
    inception = find("torchvision:inception_v3")
    assert inception.example(nn.Identity())[0].shape == (1, 3, 299, 299)


def test_a_model_for_one_size_is_built_for_the_size_that_is_wanted() -> None:
    given, output = runs("vit_tiny_patch16_224", size=32)
    assert given[0].shape == (1, 3, 32, 32)
    assert isinstance(output, Tensor)
    model = find("vit_tiny_patch16_224").build()
    with pytest.raises(AssertionError, match="doesn't match model"):
        model(torch.rand(1, 3, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("lraspp_mobilenet_v3_large", 64, [(2, 3, 64, 64)]),
        ("r3d_18", 32, [(2, 3, 16, 32, 32)]),
        ("raft_small", 128, [(2, 3, 128, 128)] * 2),
        ("ssdlite320_mobilenet_v3_large", 64, [(3, 64, 64)] * 2),
        ("torchvision:vit_b_32", 64, [(2, 3, 64, 64)]),
        ("googlenet", 64, [(2, 3, 64, 64)]),
    ],
)
def test_every_kind_of_torchvision_runs_on_its_example(name: str, size: int, shapes: list[tuple[int, ...]]) -> None:
    assert [tuple(tensor.shape) for tensor in runs(name, size, batch=2)[0]] == shapes


def test_ones_own_model_or_function(mine: str) -> None:
    path = list(sys.path)
    assert isinstance(find(f"{mine}:Nets.build").build(), nn.Linear)
    convolution = find(f"{mine}:ready")
    model = convolution.build()
    assert isinstance(model, nn.Conv2d)
    assert convolution.example(model, 7, 2)[0].shape == (2, 3, 7, 7)
    assert sys.path == path
    with pytest.raises(UserError, match=r"input of Conv2d is not known: give --size 224 .* --shape"):
        convolution.example(model)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("reddy", "has no 'reddy': did you mean ready?"),
        ("hidden", "has no 'hidden'$"),
        ("fails", "my_nets_of_a_test:fails cannot be built: no luck"),
        ("number", "gives a int, expected an nn.Module or a function that does"),
        ("", "has no ''$"),
    ],
)
def test_what_is_wrong_with_ones_own_is_one_line(mine: str, attribute: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(f"{mine}:{attribute}").build()


def test_a_module_that_is_not_there() -> None:
    path = list(sys.path)
    with pytest.raises(UserError, match="No module named 'nowhere_at_all'"):
        find("nowhere_at_all:build").build()
    with pytest.raises(UserError, match=":build cannot be built"):
        find(":build").build()
    assert sys.path == path


def test_a_misspelt_name_is_offered_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown model 'resnet5O': did you mean .*resnet50"):
        find("resnet5O")
    with pytest.raises(UserError, match=r"'torchvision:alexnte': did you mean alexnet\?"):
        find("torchvision:alexnte")
    with pytest.raises(UserError, match="did you mean cbam"):
        find("cbma", ("cbam",))
    with pytest.raises(UserError, match="give a name of timm or torchvision"):
        find("€€€€€€")
    with pytest.raises(UserError, match="unknown model ''"):
        find("")


def test_without_either_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("timm", "torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=r"pip install .regard\[compare\]"):
        find("resnet18")
    assert isinstance(find("torch.nn:Identity").build(), nn.Identity)


def test_a_size_that_it_cannot_be_built_for(mine: str) -> None:
    with pytest.raises(UserError, match=":fails cannot be built for pictures of 5×5: no luck"):
        find(f"{mine}:fails").build(5)


def test_one_line_of_whatever_went_wrong() -> None:
    with pytest.raises(UserError, match=r"^It failed: first second$"), one_line("It failed"):
        raise ValueError("first\n   second")
    with pytest.raises(UserError, match=r"^It failed: KeyboardError$"), one_line("It failed"):
        raise type("KeyboardError", (Exception,), {})
    with pytest.raises(UserError, match=r"^its own$"), one_line("It failed"):
        raise UserError("its own")
