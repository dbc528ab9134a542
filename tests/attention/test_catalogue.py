"""The catalogue says what the classes say."""

import pytest

from regard.attention import Refine, SqueezeExcitation, catalogue, mechanisms
from regard.errors import UserError


def test_every_mechanism_has_its_entry() -> None:
    entries = catalogue.catalog()
    assert [entry.name for entry in entries] == list(mechanisms)
    for entry in entries:
        mechanism = mechanisms[entry.name]
        assert entry.class_name == mechanism.__name__
        assert f".{entry.family}." in mechanism.__module__
        assert entry.year == mechanism.paper.year
        assert list(entry.map_axes) == [fact.label for fact in mechanism.maps]
        assert (entry.layout is None) == (not issubclass(mechanism, Refine))


def test_create_passes_its_arguments_on() -> None:
    module = catalogue.create("se", 64, reduction=8)
    assert isinstance(module, SqueezeExcitation)
    assert module.hidden_channels == 8


def test_create_swallows_no_typo() -> None:
    with pytest.raises(TypeError, match="redcution"):
        catalogue.create("se", 64, redcution=8)


@pytest.mark.parametrize(("asked", "nearest"), [("SE", "se"), ("cbma", "cbam"), ("multi-head-self", "multi_head_self")])
def test_an_unknown_name_is_answered_with_the_nearest(asked: str, nearest: str) -> None:
    with pytest.raises(catalogue.UnknownMechanismError) as caught:
        catalogue.create(asked, 64)
    message = str(caught.value)
    assert repr(asked) in message
    assert f"did you mean {nearest!r}?" in message
    assert all(name in message for name in mechanisms)
    assert "\n" not in message
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ValueError)


def test_a_name_near_nothing_gets_the_choices_alone() -> None:
    with pytest.raises(catalogue.UnknownMechanismError, match=r"^unknown mechanism 'xyzzy': the choices are "):
        catalogue.get("xyzzy")
