"""Every argument of every mechanism has a domain; what is outside is refused by one message, what is inside works."""

import copy
import inspect
import math
import pickle
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from cases import Case, first_cases, needs_no_query, other_values, run

import regard
from regard.attention import CBAM, Attention, Refine, SqueezeExcitation, catalogue, domains, mechanisms
from regard.errors import UserError

HUGE = 10**9, 2**63, 10**30
BAD = (0, -1, -7, 2.5, "x", None, math.nan, math.inf, True, (), (0,), (2, 0), (1, 2, 3), [[]], object(), *HUGE)


def kinds(annotation: object) -> tuple[object, ...]:
    """What may be given, of `int | None` two."""
    several = get_args(annotation) and get_origin(annotation) not in {Literal, tuple} and "|" in str(annotation)
    return get_args(annotation) if several else (annotation,)


def is_wrong(value: object, kind: object) -> bool:
    """Whether this is certainly none of this kind, read from the annotation alone."""
    if kind is int:  # no argument of any mechanism is negative
        return type(value) is not int or value < 0
    if kind is float:
        return type(value) not in (int, float) or not value >= 0
    if kind is bool:
        return type(value) is not bool
    if kind is type(None):
        return value is not None
    if get_origin(kind) is Literal:
        return value not in get_args(kind)
    return not isinstance(value, tuple | list) or not value or 0 in value


def required(case: Case) -> dict[str, Any]:
    """What the mechanism cannot be built without."""
    module = case.build(2)
    names = [each.name for each in inspect.signature(case.mechanism).parameters.values() if each.default is each.empty]
    return {name: getattr(module, name) for name in names}


def refusal(mechanism: type[Attention], argument: str, value: object) -> str | None:
    """What the check says of a value; None if it is accepted."""
    try:
        catalogue.check_arguments(mechanism, {argument: value})
    except domains.ArgumentValueError as error:
        return str(error)
    return None


def works(case: Case, arguments: dict[str, Any]) -> bool:
    """Whether the module is built and runs; not whether two arguments that do not fit together are refused."""
    try:
        module = case.build(2, **arguments).eval()
    except ValueError:
        return False
    inputs = case.inputs(module, batch=2)
    if needs_no_query(case.mechanism) and arguments.get("query_width", 0) is None:
        inputs.pop("query", None)
    run(module, inputs)
    return True


# Domains


@pytest.mark.parametrize("case", first_cases(), ids=str)
def test_every_argument_has_a_domain(case: Case) -> None:
    name = case.mechanism.name
    for argument, parameter in inspect.signature(case.mechanism).parameters.items():
        assert domains.domain_of(name, parameter) is not None, f"{name} declares {argument}: {parameter.annotation}"
        if any(word in str(parameter.annotation) for word in ("int", "float")):
            listed = argument in domains.DOMAINS or (name, argument) in domains.EXCEPTIONS
            assert listed, f"src/regard/attention/domains.py has no row for {argument} of {name}"


def test_the_table_has_no_row_for_an_argument_that_there_is_not() -> None:
    taken = {(name, each) for name, kind in mechanisms.items() for each in inspect.signature(kind).parameters}
    assert set(domains.DOMAINS) <= {argument for _, argument in taken}
    assert set(domains.EXCEPTIONS) <= taken
    assert taken >= domains.MAY_BE_EMPTY


@pytest.mark.parametrize("case", first_cases(), ids=str)
def test_a_value_outside_is_refused_by_one_message_and_one_inside_works(case: Case) -> None:
    name, others = case.mechanism.name, required(case)
    for argument, parameter in inspect.signature(case.mechanism).parameters.items():
        accepted = kinds(parameter.annotation)
        refused = 0
        for value in BAD:
            message = refusal(case.mechanism, argument, value)
            if message is None:
                none_needed = value == () and (name, argument) in domains.MAY_BE_EMPTY
                wrong = all(is_wrong(value, kind) for kind in accepted)
                assert none_needed or not wrong, f"{name} takes {argument}={value!r}"
                works(case, {argument: value})
                continue
            refused += 1
            assert message.startswith(f"{name} got {argument}=")
            assert ", expected " in message
            assert "\n" not in message
            with pytest.raises(domains.ArgumentValueError) as caught:
                case.mechanism(**{**others, argument: value})
            assert str(caught.value) == message
            assert isinstance(caught.value, UserError)
            assert isinstance(caught.value, ValueError)
        assert refused, f"{name} takes whatever {argument}"


@pytest.mark.parametrize("case", first_cases(), ids=str)
def test_the_default_and_other_values_are_accepted(case: Case) -> None:
    for argument, parameter in inspect.signature(case.mechanism).parameters.items():
        good: Iterator[object] = other_values(parameter) if parameter.default is not parameter.empty else iter((7,))
        default = () if parameter.default is parameter.empty else (parameter.default,)
        taken = [value for value in (*default, *good) if refusal(case.mechanism, argument, value) is None]
        assert taken, f"nothing goes as {argument}"
        assert taken[: len(default)] == list(default)


@pytest.mark.parametrize(
    ("name", "good", "bad", "expected"),
    [
        (
            "axial",
            {"channels": 7},
            {"channels": -7},
            "axial got channels=-7, expected a whole number from 1 to 1048576",
        ),
        ("triplet", {"channels": 1}, {"channels": -1}, "triplet got channels=-1, expected a whole number from 1 to"),
        ("se", {"reduction": 4}, {"reduction": "4"}, "se got reduction='4', expected a whole number from 1 to 1048576"),
        ("se", {"bias": False}, {"bias": 0}, "se got bias=0, expected True or False"),
        (
            "multi_head_self",
            {"heads": 4},
            {"heads": 2.5},
            "multi_head_self got heads=2.5, expected a whole number from",
        ),
        ("multi_head_self", {"dropout": 0}, {"dropout": 1}, "dropout=1, expected a number from 0 to below 1"),
        ("multi_head_self", {"dropout": 0.9}, {"dropout": False}, "dropout=False, expected a number from 0 to below 1"),
        ("cbam", {"kernel_size": 3}, {"kernel_size": 4}, "cbam got kernel_size=4, expected an odd whole number from 1"),
        ("cbam", {"dims": 3}, {"dims": 4}, "cbam got dims=4, expected 1, 2 or 3"),
        ("eca", {"kernel_size": None}, {"kernel_size": 2}, "expected an odd whole number from 1 to 4095 or None"),
        ("ese", {"gate": "hard_sigmoid"}, {"gate": "x"}, "ese got gate='x', expected 'sigmoid' or 'hard_sigmoid'"),
        ("axial", {"combine": "sum"}, {"combine": "product"}, "combine='product', expected 'compose' or 'sum'"),
        ("simam", {"regularization": 1e-6}, {"regularization": 0}, "expected a number above 0 up to 1000000"),
        ("entmax", {"alpha": 2}, {"alpha": 1.2}, "entmax got alpha=1.2, expected 1.5 or 2"),
        ("hard", {"mean_probability": 1}, {"mean_probability": 1.01}, "expected a number from 0 up to 1"),
        ("latent", {"rotary_width": 0}, {"rotary_width": 3}, "rotary_width=3, expected an even whole number from 0 to"),
        ("halo", {"halo": 0}, {"halo": -1}, "halo got halo=-1, expected a whole number from 0 to 1024"),
        ("draw_read", {"size": 2}, {"size": 1}, "draw_read got size=1, expected a whole number from 2 to 1024"),
        ("glimpse", {"size": 1}, {"size": 0}, "glimpse got size=0, expected a whole number from 1 to 1024"),
        ("large_kernel", {"kernel_size": 20}, {"kernel_size": 0}, "large_kernel got kernel_size=0, expected a whole"),
        ("shuffle", {"channels": 2}, {"channels": 1}, "shuffle got channels=1, expected a whole number from 2 to"),
        ("class_residual", {"temperatures": (1.0, math.inf)}, {"temperatures": (0.0,)}, "each a number above 0 up to"),
        ("gumbel_selection", {"grid": (3, 5)}, {"grid": (3,)}, "to 1024 or a tuple of 2, each a whole number from 1"),
        (
            "frequency_channel",
            {"frequencies": ((6, 0),)},
            {"frequencies": ((7, 0),)},
            "each a tuple of 2, each a whole",
        ),
        ("pyramid_pooling", {"sizes": (5,)}, {"sizes": ()}, "expected a tuple of one or more, each a whole number"),
    ],
)
def test_limits_of_a_domain(name: str, good: dict[str, Any], bad: dict[str, Any], expected: str) -> None:
    case = next(case for case in first_cases() if case.mechanism.name == name)
    case.build(**good)
    with pytest.raises(domains.ArgumentValueError) as caught:
        case.build(**bad)
    assert expected in str(caught.value)


def test_a_long_value_stays_on_one_line() -> None:
    with pytest.raises(domains.ArgumentValueError) as caught:
        SqueezeExcitation(torch.randn(7, 11))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 140


def test_numbers_of_numpy_and_lists_are_taken_as_what_they_stand_for() -> None:
    module = regard.create("se", np.int64(67), reduction=np.int32(4))
    assert (type(module.channels), module.channels, module.hidden_channels) == (int, 67, 16)
    assert regard.create("pyramid_pooling", 67, sizes=[5, np.int8(2)]).sizes == (5, 2)
    assert regard.create("gaussian_context", 7, deviation=np.float32(0.5)).deviation == 0.5
    assert type(regard.create("gumbel_selection", 7, grid=np.int64(3)).rows) is int


# Names


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (
            (64,),
            {"reducton": 4},
            "cbam takes no argument 'reducton': did you mean 'reduction'? its arguments are {all}",
        ),
        ((64,), {"Kernel_Size": 3}, "cbam takes no argument 'Kernel_Size': did you mean 'kernel_size'? its arguments"),
        ((64,), {"xyzzy": 4}, "cbam takes no argument 'xyzzy': its arguments are {all}"),
        ((), {}, "cbam lacks 'channels': its arguments are {all}"),
        ((), {"bias": True}, "cbam lacks 'channels': its arguments are {all}"),
        (
            (64, 16, 7, 2, True, True, 1),
            {},
            "cbam got 7 arguments by position, takes at most 6: its arguments are {all}",
        ),
        ((64, 16), {"channels": 64}, "cbam got 'channels' by position and by name: its arguments are {all}"),
    ],
)
def test_arguments_that_do_not_fit_are_named_with_those_that_there_are(
    args: tuple[int, ...], kwargs: dict[str, int], message: str
) -> None:
    with pytest.raises(domains.ArgumentNameError) as caught:
        regard.create("cbam", *args, **kwargs)
    everything = "channels, reduction, kernel_size, dims, bias, norm"
    assert str(caught.value).startswith(message.format(all=everything))
    assert str(caught.value).endswith(everything)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, UserError)


def test_arguments_are_looked_at_before_anything_is_built() -> None:
    catalogue.check_arguments(CBAM, {})
    catalogue.check_arguments(CBAM, {"reduction": 4, "norm": False})
    with pytest.raises(domains.ArgumentNameError, match="did you mean 'reduction'"):
        catalogue.check_arguments(CBAM, {"channels": 64, "reducton": 4})
    with pytest.raises(domains.ArgumentValueError, match=r"^cbam got reduction=0, expected"):
        catalogue.check_arguments(CBAM, {"reduction": 0})


# The constructors themselves


def test_a_constructor_keeps_its_signature_and_its_modules_their_ways() -> None:
    assert str(inspect.signature(CBAM)).startswith("(channels: int, reduction: int = 16, kernel_size: int = 7")
    assert inspect.signature(CBAM.__init__).parameters["channels"].annotation is int
    module = CBAM(11)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert copied.state_dict().keys() == module.state_dict().keys()
    assert [kind for kind in mechanisms.values() if not hasattr(kind.__init__, "__wrapped__")] == []


def test_a_class_of_ones_own_is_checked_by_the_annotations_of_its_constructor() -> None:
    class Mine(SqueezeExcitation):
        name: ClassVar[str] = "mine"

        def __init__(self, width: int, strength: int = -3, layer: object = None, **others: Any) -> None:
            super().__init__(width, others.pop("ratio", 4))
            self.strength, self.layer, self.others = strength, layer, others

    class Inherits(Mine):
        name: ClassVar[str] = "inherits"

    assert vars(Inherits).get("__init__") is None
    module = Inherits(67, strength=-5, layer="anything", other=1)
    assert (module.channels, module.hidden_channels, module.strength, module.layer) == (67, 16, -5, "anything")
    assert module.others == {"other": 1}
    with pytest.raises(domains.ArgumentValueError, match=r"^inherits got strength='x', expected a whole number"):
        Inherits(67, strength="x")
    with pytest.raises(domains.ArgumentValueError, match=r"^inherits got reduction=0, expected"):
        Inherits(67, ratio=0)
    with pytest.raises(domains.ArgumentNameError, match=r"^inherits lacks 'width'"):
        Inherits()


def test_a_constructor_looks_at_its_arguments_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Inherits(CBAM):
        pass

    seen: list[str] = []
    take = domains._take
    monkeypatch.setattr(
        domains, "_take", lambda name, argument, *rest: seen.append(argument) or take(name, argument, *rest)
    )
    Inherits(11, reduction=3)
    assert seen == ["channels", "reduction"]


def test_a_class_without_a_constructor_is_left_as_it_is() -> None:
    class Plain(Refine):
        pass

    assert Plain.__init__ is torch.nn.Module.__init__


@pytest.mark.parametrize(
    ("words", "said"), [(("sum",), "'sum'"), (("sum", "mean"), "'sum' or 'mean'"), (("a", "b", "c"), "'a', 'b' or 'c'")]
)
def test_choices_are_listed_as_in_a_sentence(words: tuple[str, ...], said: str) -> None:
    assert str(domains.Choices(words)) == said
