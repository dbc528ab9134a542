"""What holds for every mechanism. Each new one is tested by being listed; nothing is written here for it.

`every_mechanism` runs a test once a mechanism, `every_case` once more for each number of spatial axes that it takes.
What a mechanism does not take (a mask, another number of axes, channels) it must refuse by name.

    constructor alone             test_builds_from_its_widths_alone
    documented examples           ../test_readme.py::test_example
    arguments really used         test_every_argument_is_used, test_a_misspelt_argument_is_refused,
                                  test_every_deviation_is_an_argument_that_is_off_by_default_and_works
    parameter counts              test_parameter_count_is_as_declared, test_builds_from_its_widths_alone,
                                  test_published_counts.py::test_built_and_declared_are_the_number_that_was_written_down
    sizes, also changing          test_shape_is_what_the_contract_says, test_one_module_takes_one_size_after_another
    stride, kernel, groups        test_stands_where_a_convolution_stands, test_every_argument_is_used
    values                        in each test_<family>.py; test_gradient_is_the_derivative
    parameters                    test_gradient_reaches_every_input_and_parameter,
                                  test_a_forward_changes_nothing_but_statistics_of_batches
    input not modified            test_a_forward_changes_nothing_but_statistics_of_batches
    sums of weights               test_offers_what_it_declares
    masks, fully masked rows      test_what_is_masked_has_no_influence, test_what_is_masked_has_no_weight,
                                  test_what_is_masked_may_hold_anything, test_a_token_that_nobody_reads_may_still_ask,
                                  test_what_a_query_may_not_read_may_hold_anything,
                                  test_a_mask_of_true_changes_nothing, test_a_mask_is_refused_where_none_is_taken,
                                  test_nothing_to_attend_to_is_finite_forward_and_backward
    identity at the start         test_starts_as_the_identity_where_it_says_so
    device of the input           test_runs_on_the_device_of_its_input
    types, large values           test_types_are_kept, test_runs_under_autocast, test_large_inputs_stay_finite,
                                  test_half_precision_holds_what_fits_into_it,
                                  test_half_precision_holds_large_maps
    nothing to attend to          test_a_batch_of_none_gives_none, test_no_positions_are_refused
    batch of one, map of one      test_trains_on_a_batch_of_one, test_shape_is_what_the_contract_says
    order                         test_positions_may_change_places_where_they_do_not_matter,
                                  test_queries_may_change_places_where_they_are_no_steps_in_time,
                                  test_samples_do_not_see_each_other_in_evaluation
    identity transform            test_selection.py::test_at_the_start_the_output_is_the_input
    state                         test_round_trips_give_equal_outputs (also deepcopy and pickle),
                                  test_a_forward_changes_nothing_but_statistics_of_batches
    weights of other libraries    the tests of each test_<family>.py that end in `timm` or `timm_s` carry them over
    several in order              ../placing/test_insert.py::test_several_mechanisms_are_applied_in_order
    fewer channels than reduction test_fewer_channels_than_the_reduction
    channels last                 test_channels_last_is_kept
    compile, export, script       test_compiles_as_one_graph_of_any_size, test_exports_for_any_size,
                                  test_torchscript_is_refused_by_name
    watching changes nothing      test_watching_does_not_change_the_output
    weights put in place          test_weights_replaced_by_their_equal_change_nothing,
                                  test_replaced_weights_change_the_output, test_a_gate_multiplies_by_what_replaces_it,
                                  test_weights_replaced_by_their_mean_train,
                                  test_weights_of_another_shape_are_refused, test_these_maps_are_fixed
"""

import ast
import pickle
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from inspect import Parameter, cleandoc, signature
from itertools import combinations
from pathlib import Path
from typing import get_args

import cases as make
import pytest
import torch
from cases import BATCH, Case, Inputs, as_type, call, run, stir, takes_mask, tensors
from torch import Tensor, nn
from torch.export import Dim

from regard.attention import Attention, Convolve, Merge, Read, Refine, Select, ShapeError, mechanisms, offering
from regard.attention.offering import MapFact, Offer, Request

CONTRACTS = {"Refine", "Convolve", "Read", "Select", "Merge"}
DEVICES = ["meta", *([torch.accelerator.current_accelerator().type] if torch.accelerator.is_available() else [])]

every_mechanism = pytest.mark.parametrize("case", make.first_cases(), ids=list(mechanisms))
# Other numbers of axes than two repeat what two show, but for what is particular to them: not for the everyday loop.
every_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=[] if case in make.first_cases() else pytest.mark.slow)
        for case in make.cases()
    ],
)
every_map = pytest.mark.parametrize(
    "case",
    [case for case in make.first_cases() if case.rank == 2 and not issubclass(case.mechanism, Select)],
    ids=str,
)
every_convolve = pytest.mark.parametrize(
    "case", [case for case in make.first_cases() if issubclass(case.mechanism, Convolve)], ids=str
)
every_ordered = pytest.mark.parametrize(
    "case", [case for case in make.first_cases() if not issubclass(case.mechanism, Select)], ids=str
)
every_read_of_queries = pytest.mark.parametrize(
    "case",
    [case for case in make.first_cases() if "query" in signature(case.mechanism.forward).parameters],
    ids=str,
)
every_read_without_query = pytest.mark.parametrize(
    "case", [case for case in make.first_cases() if make.needs_no_query(case.mechanism)], ids=str
)
every_masked = pytest.mark.parametrize(
    "case", [case for case in make.first_cases() if takes_mask(case.mechanism)], ids=str
)
every_unmasked = pytest.mark.parametrize(
    "case", [case for case in make.first_cases() if not takes_mask(case.mechanism)], ids=str
)


# Shapes and types


@every_case
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_shape_is_what_the_contract_says(case: Case, training: bool) -> None:
    module = case.build().train(training)
    for inputs in (case.inputs(module), *case.other_inputs(module)):
        outputs = run(module, inputs)
        expected = case.output_shape(module, inputs)
        assert expected is None or outputs[0].shape == expected
        assert all(len(output) == BATCH for output in outputs)
        assert all(output.isfinite().all() for output in outputs)


@every_case
def test_one_module_takes_one_size_after_another(case: Case) -> None:
    module = stir(case.build()).eval()
    inputs = case.inputs(module)
    expected = run(module, inputs)
    for others in case.other_inputs(module)[-2:]:
        run(module, others)
    assert all(map(torch.equal, run(module, inputs), expected)), "the sizes before leave a trace"


@every_case
def test_trains_on_a_batch_of_one(case: Case) -> None:
    """At every size, one position among them, which has no variance."""
    module = stir(case.build()).train()
    for inputs in (case.inputs(module, batch=1), *case.other_inputs(module, batch=1)):
        inputs = {name: x.requires_grad_() for name, x in inputs.items()}
        outputs = run(module, inputs)
        assert all(output.isfinite().all() for output in outputs)
        torch.stack([output.square().sum() for output in outputs]).sum().backward()
        for name, x in {**inputs, **dict(module.named_parameters())}.items():
            assert x.grad is None or x.grad.isfinite().all(), f"the gradient of {name} is not finite"


@every_case
def test_fewer_channels_than_the_reduction(case: Case) -> None:
    module = case.build(2).train()
    inputs = case.inputs(module)
    outputs = run(module, inputs)
    expected = case.output_shape(module, inputs)
    assert expected is None or outputs[0].shape == expected


@every_case
def test_types_are_kept(case: Case) -> None:
    module = stir(case.build()).eval()
    # A clip of one picture is where convolutions of some processors were wrong in bfloat16.
    for spatial in (None, (1, 5, 7)) if case.rank == 3 else (None,):
        inputs = case.inputs(module, spatial=spatial)
        single = run(module, inputs)
        double = run(deepcopy(module).double(), as_type(inputs, torch.float64))
        brief = run(deepcopy(module).bfloat16(), as_type(inputs, torch.bfloat16))
        for reference, exact, rough in zip(single, double, brief, strict=True):
            assert (reference.dtype, exact.dtype, rough.dtype) == (torch.float32, torch.float64, torch.bfloat16)
            torch.testing.assert_close(reference, exact.float(), rtol=1e-4, atol=1e-4 * _magnitude(reference))
            assert rough.isfinite().all()
            # bfloat16 has eight bits: compared as a whole, since single values may cancel. A region that is a little
            # displaced differs by more, since this map is noise.
            tolerance = 0.2 if isinstance(module, Select) else 0.05
            assert (rough.float() - reference).norm() <= tolerance * reference.norm()


@every_convolve
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 4)])
def test_stands_where_a_convolution_stands(case: Case, kernel_size: int, stride: int, groups: int) -> None:
    """Which pads so that only the stride makes the map smaller; and has neither padding nor dilation to set."""
    arguments = {"in_channels": 32, "out_channels": 48, "kernel_size": kernel_size, "stride": stride, "groups": groups}
    assert not {"padding", "dilation"} & set(signature(case.mechanism).parameters)
    module = case.mechanism(**arguments)
    plain = nn.Conv2d(**arguments, padding=kernel_size // 2)
    for size in ((11, 13), (6, 4), (1, 7), (1, 1)):
        x = torch.randn(BATCH, 32, *size)
        assert module(x).shape == plain(x).shape


@every_mechanism
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_inputs_stay_finite(case: Case, dtype: torch.dtype) -> None:
    module = stir(case.build()).to(dtype)
    inputs = {name: (100 * x).to(dtype).requires_grad_() for name, x in case.inputs(module).items()}
    outputs = run(module, inputs)
    total = torch.stack([output.float().sum() for output in outputs]).sum()
    total.backward()
    assert all(output.isfinite().all() for output in outputs)
    assert all(x.grad is None or x.grad.isfinite().all() for x in inputs.values())


@every_mechanism
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("cells", ["several", "one"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_runs_under_autocast(case: Case, dtype: torch.dtype, cells: str) -> None:
    """Whether the layer before gave single or half precision; as near to the exact output as that allows."""
    module = stir(case.build()).train()
    sizes = ((1,) * case.rank, 1) if cells == "one" else (None, None)
    inputs = as_type(case.inputs(module, spatial=sizes[0], count=sizes[1]), dtype)
    expected = run(deepcopy(module).eval().double(), as_type(inputs, torch.float64))
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16):
        outputs = run(deepcopy(module).eval(), inputs)
        trained = run(module, inputs)
    assert all(output.dtype in {torch.float32, torch.bfloat16} for output in outputs)
    tolerance = 0.2 if isinstance(module, Select) else 0.05
    for exact, rough in zip(expected, outputs, strict=True):
        assert (rough.double() - exact).norm() <= tolerance * exact.norm()
    assert all(output.isfinite().all() for output in trained)
    sum(output.float().square().sum() for output in trained).backward()  # pyright: ignore[reportAttributeAccessIssue]
    for name, x in {**inputs, **dict(module.named_parameters())}.items():
        assert x.grad is None or x.grad.isfinite().all(), f"the gradient of {name} is not finite"


@every_mechanism
def test_half_precision_holds_what_fits_into_it(case: Case) -> None:
    """Which ends at 65504: scores of ten times the usual input must not, on the way, run into that."""
    module = stir(case.build()).eval()
    inputs = {name: 10 * x for name, x in case.inputs(module).items()}
    exact = run(module, inputs)
    halves = run(module.half(), as_type(inputs, torch.float16))
    for wide, half in zip(exact, halves, strict=True):
        assert half.dtype == torch.float16
        assert half.isfinite().all() or wide.abs().max() > 3e4


@every_mechanism
@pytest.mark.parametrize(
    ("dtype", "deviation", "cells"),
    [
        pytest.param(torch.float16, 80, "many", id="float16-80-many"),
        pytest.param(torch.float16, 4, "many", id="float16-4-many", marks=pytest.mark.slow),
        pytest.param(torch.float16, 80, "one", id="float16-80-one"),
        pytest.param(torch.bfloat16, 4, "one", id="bfloat16-4-one"),
    ],
)
def test_half_precision_holds_large_maps(case: Case, dtype: torch.dtype, deviation: float, cells: str) -> None:
    """Values of that deviation around a mean as large: what is summed on the way does not fit, what comes out does.

    The exact output and gradients are those of the same module in double precision. The loss is scaled so that the
    gradients fit, as whoever trains in half precision scales it.
    """
    module = stir(case.build(2)).train().to(dtype)
    side = 1 if cells == "one" else 64 if case.mechanism.growth in {"1", "N"} else 32
    inputs = case.inputs(module, batch=2, spatial=(side, side) if case.rank == 2 else None, count=side**2)
    if "query" in inputs:
        inputs["query"] = inputs["query"][:, : make.QUERIES]
    inputs = {name: (deviation * (x + 1)).to(dtype) for name, x in inputs.items()}
    exact, slopes = _with_slopes(deepcopy(module).double(), as_type(inputs, torch.float64))
    if max(float(one.abs().max()) for one in exact) > torch.finfo(dtype).max / 2:
        return  # what comes out does not fit
    largest = max([1e3, *(float(slope.abs().max()) for slope in slopes.values() if slope.numel())])
    found, rough = _with_slopes(module, inputs, scale=1e3 / largest)
    for one, two in zip(exact, found, strict=True):
        assert two.isfinite().all(), f"an output is not finite, but {float(one.abs().max())} at most"
    for name, slope in rough.items():
        assert slope.isfinite().all(), f"the gradient of {name} is not finite"


@every_map
def test_channels_last_is_kept(case: Case) -> None:
    module = stir(case.build()).eval()
    inputs = case.inputs(module)
    output, *_ = run(module, {name: x.to(memory_format=torch.channels_last) for name, x in inputs.items()})
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert not output.is_contiguous(), "no map of one channel or position, which would be both"
    torch.testing.assert_close(output, run(module, inputs)[0], rtol=1e-4, atol=1e-5 * _magnitude(output))


@every_mechanism
@pytest.mark.parametrize("device", DEVICES)
def test_runs_on_the_device_of_its_input(case: Case, device: str) -> None:
    """Whatever the default device is meanwhile; and is built on the one that is the default then."""
    with torch.device(device):
        module = case.build()
    assert all(x.device.type == device for x in (*module.parameters(), *module.buffers()))
    outputs = run(module, {name: x.to(device) for name, x in case.inputs(module).items()})
    assert all(output.device.type == device for output in outputs)


# What is refused


@every_case
@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_shapes_are_refused(case: Case) -> None:
    module = case.build()
    for what, inputs in case.wrong_inputs(module).items():
        try:
            call(module, inputs)
        except ShapeError as error:
            message = str(error)
        else:
            pytest.fail(f"accepted input of which {what}")
        wanted = rf"{type(module).__name__} got .*, expected .*: .*\."
        assert re.fullmatch(wanted, message), f"{what}: {message}"
        if not what.startswith("mask") or "length" in what:
            shapes = [str(tuple(x.shape)) for x in inputs.values()]
            assert any(shape in message for shape in shapes) or "batch" in what, f"{what}: {message}"


@every_case
@pytest.mark.usefixtures("unchecked_shapes")
def test_no_positions_are_refused(case: Case) -> None:
    """By name, along every axis of positions, of tokens and of queries, also of a batch of none."""
    module = case.build()
    for batch in (BATCH, 0):
        inputs = case.inputs(module, batch=batch)
        empty = []
        for axis in range(2, 2 + case.rank) if case.rank else [1]:
            if isinstance(module, Merge | Refine | Select | Convolve):
                empty.append({name: x.narrow(axis, 0, 0) for name, x in inputs.items()})
            else:
                empty += [{**inputs, name: x.narrow(axis, 0, 0)} for name, x in inputs.items()]
        for one in empty:
            with pytest.raises(
                ShapeError, match=rf"^{type(module).__name__} got an input of shape \(.*\b0\b.*\), .*one"
            ):
                call(module, one)


@every_case
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_batch_of_none_gives_none(case: Case, training: bool) -> None:
    """Of the right shape, forward and backward, and without a trace in the statistics of batches."""
    module = stir(case.build()).train(training)
    state = deepcopy(module.state_dict())
    expected = run(deepcopy(module), case.inputs(module))
    inputs = {name: x.requires_grad_() for name, x in case.inputs(module, batch=0).items()}
    outputs = run(module, inputs)
    assert [x.shape for x in outputs] == [(0, *x.shape[1:]) for x in expected]
    torch.stack([x.sum() for x in outputs]).sum().backward()
    for name, x in {**inputs, **dict(module.named_parameters())}.items():
        assert x.grad is None or (x.grad == 0).all(), f"the gradient of {name} is not zero"
    for name, value in module.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, state[name]), f"{name} has changed"


@every_unmasked
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_mask_is_refused_where_none_is_taken(case: Case) -> None:
    module = case.build()
    inputs = case.inputs(module)
    with pytest.raises(TypeError, match="mask"):
        call(module, {**inputs, "mask": torch.ones(BATCH, 5, dtype=torch.bool)})


@every_mechanism
def test_a_misspelt_argument_is_refused(case: Case) -> None:
    with pytest.raises(TypeError, match="redcution"):
        case.build(redcution=2)


@every_mechanism
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")  # as this refusal says, too
def test_torchscript_is_refused_by_name(case: Case) -> None:
    with pytest.raises(NotImplementedError, match=rf"{case.mechanism.__name__} got torch\.jit\.script.*torch\.export"):
        torch.jit.script(nn.Sequential(case.build()))


# Arguments


@every_mechanism
@pytest.mark.slow
def test_every_argument_is_used(case: Case) -> None:
    """Two values of each give two results, gradients or sets of parameters, at some choice of at most two others.

    Those that say how wide the input is are tested with the shapes that are refused.
    """
    options = {
        name: list(make.other_values(argument))
        for name, argument in signature(case.mechanism).parameters.items()
        if argument.default is not Parameter.empty and name != "dims"
    }
    for argument, value in map(_deviation, case.mechanism.deviations):
        options[argument].append(value)
    if make.needs_no_query(case.mechanism):
        options["query_width"] = [None]
    for name, values in options.items():
        assert values, f"tests/attention/cases.py knows no other value for {name}"
        others = [(other, value) for other in options if other != name for value in options[other]]
        settings = (dict(setting) for count in range(3) for setting in combinations(others, count))
        assert any(_differ(case, setting, name, values) for setting in settings), f"{name} is not used"


@every_mechanism
def test_starts_as_the_identity_where_it_says_so(case: Case) -> None:
    module = case.build().train()
    inputs = case.inputs(module)
    found = run(module, inputs)[0]
    says = "starts as the identity" in " ".join((case.mechanism.__doc__ or "").split())
    assert torch.equal(found, next(iter(inputs.values()))) == says


# Order


@every_ordered
def test_positions_may_change_places_where_they_do_not_matter(case: Case) -> None:
    """Refining and merging gives the same at the new places; reading gives the same."""
    module = stir(case.build()).double().eval()
    inputs = as_type(case.inputs(module), torch.float64)
    moved = [name for name in inputs if name != "query"]
    order = torch.randperm(inputs[moved[0]].shape[1] if case.rank == 0 else inputs[moved[0]][0, 0].numel())
    permuted = {name: make.permute(inputs[name], order, tokens=case.rank == 0) for name in moved}
    expected, found = run(module, inputs)[0], run(module, {**inputs, **permuted})[0]
    if not isinstance(module, Read):
        expected = make.permute(expected, order, tokens=case.rank == 0)
    same = torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * _magnitude(expected))
    assert same != case.mechanism.positional


@every_read_of_queries
def test_queries_may_change_places_where_they_are_no_steps_in_time(case: Case) -> None:
    module = stir(case.build()).double().eval()
    inputs = as_type(case.inputs(module), torch.float64)
    order = torch.randperm(make.QUERIES)
    expected = run(module, inputs)[0][:, order]
    found = run(module, {**inputs, "query": inputs["query"][:, order]})[0]
    same = torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * _magnitude(expected))
    assert same != case.mechanism.stepwise


# Gradients


@every_case
def test_gradient_reaches_every_input_and_parameter(case: Case) -> None:
    module = stir(case.build()).train()
    inputs = {name: x.requires_grad_() for name, x in case.inputs(module).items()}
    loss = _loss(module, inputs)
    if case.rank == 3:
        # Of one patch alone, as of so small a clip, a softmax has no gradient but what rounding leaves.
        loss = loss + _loss(module, case.inputs(module, spatial=make.LARGE[3]))
    loss.backward()
    for name, x in {**inputs, **dict(module.named_parameters())}.items():
        if x.grad is None and name in inputs and _may_be_none(module, name):
            # What may be left out may also be ignored; but then its values change nothing at all.
            assert all(map(torch.equal, run(module, inputs), run(module, {**inputs, name: torch.randn_like(x)})))
            continue
        assert x.grad is not None, f"no gradient reaches {name}"
        assert x.grad.isfinite().all(), f"the gradient of {name} is not finite"
        if not x.grad.any():
            # The bias of a softmax's scores has none, and changes nothing; whatever else has none is out of use.
            assert name.endswith("bias"), f"the gradient of {name} is zero"
            moved = deepcopy(module)
            moved.get_parameter(name).data += 1
            for one, other in zip(run(module, inputs), run(moved, inputs), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@every_case
def test_gradient_is_the_derivative(case: Case) -> None:
    """In evaluation, where batch statistics and sampled choices stand still."""
    module = stir(case.build()).double().eval()
    sizes = {0: (), 1: (5,), 2: (3, 4), 3: (2, 3, 2)}[case.rank]
    inputs = as_type(case.inputs(module, batch=2, spatial=sizes, count=3), torch.float64)
    parameters = dict(module.named_parameters())
    leaves = [x.requires_grad_() for x in (*inputs.values(), *parameters.values())]

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(inputs, values, strict=False))
        replaced = dict(zip(parameters, values[len(inputs) :], strict=True))
        named = {name: x for name, x in given.items() if not name.startswith("inputs[")}
        positional = tuple(x for name, x in given.items() if name not in named)
        return tuple(tensors(torch.func.functional_call(module, replaced, positional, named)))

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


# State


@every_case
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_forward_changes_nothing_but_statistics_of_batches(case: Case, training: bool) -> None:
    module = case.build().train(training)
    parameters = list(module.parameters())
    state = deepcopy(module.state_dict())
    attributes = [set(vars(part)) for part in module.modules()]
    inputs = case.inputs(module)
    before = {name: x.clone() for name, x in inputs.items()}
    call(module, inputs)
    assert all(old is new for old, new in zip(parameters, module.parameters(), strict=True))
    assert module.state_dict().keys() == state.keys()
    changed = {key for key, x in module.state_dict().items() if not torch.equal(x, state[key])}
    statistics = {key for key in changed if re.search(r"(^|\.)(running_mean|running_var|num_batches_tracked)$", key)}
    assert changed <= (statistics if training else set()), f"changed in a forward: {changed}"
    assert [set(vars(part)) for part in module.modules()] == attributes
    kept = [(type(part).__name__, key) for part in module.modules() for key in vars(part) if _holds_tensor(part, key)]
    assert not kept, f"tensors kept on the module: {kept}"
    assert all(torch.equal(before[name], x) for name, x in inputs.items()), "the input was modified"


@every_mechanism
def test_round_trips_give_equal_outputs(case: Case) -> None:
    module = stir(case.build()).train()
    inputs = case.inputs(module)
    call(module, inputs)  # so that running statistics, if any, are no longer as at first
    module.eval()
    loaded = case.build().eval()
    loaded.load_state_dict(module.state_dict())
    expected = run(module, inputs)
    for copy in (loaded, deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert all(torch.equal(*pair) for pair in zip(expected, run(copy, inputs), strict=True))


@every_case
def test_samples_do_not_see_each_other_in_evaluation(case: Case) -> None:
    module = stir(case.build()).eval()
    inputs = case.inputs(module)
    others = {name: torch.cat([x[:1], torch.randn_like(x[1:])]) for name, x in inputs.items()}
    for one, other in zip(run(module, inputs), run(module, others), strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)


@every_mechanism
@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_compiles_as_one_graph_of_any_size(case: Case, training: bool) -> None:
    """Batch, positions, tokens and queries may have other sizes than those it was compiled for.

    In training only the batch is free: with symbols for all sizes the backward graph is several times as slow to trace.
    The forward graph is traced with them in evaluation and for export.
    """
    torch.compiler.reset()
    module = stir(case.build()).train(training)
    compiled = torch.compile(module, fullgraph=True, dynamic=False, backend="aot_eager" if training else "eager")
    steps = {"query"} if issubclass(case.mechanism, Read) and case.mechanism.stepwise else set()
    large = make.LARGE[case.rank]
    sizes = large, (large if training else tuple(size + 7 for size in large))
    for batch, spatial in zip((make.BATCH, make.BATCH + 2), sizes, strict=True):
        inputs = case.inputs(module, batch=batch, spatial=spatial, count=spatial[0])
        inputs |= {name: torch.randn(batch, make.QUERIES, inputs[name].shape[2]) for name in steps}
        for name, x in inputs.items():
            free = [] if training or name in steps else [*range(2, x.ndim)] if case.rank else [1]
            torch._dynamo.maybe_mark_dynamic(x.requires_grad_(training), [0, *free])
        state = deepcopy(module.state_dict())
        torch.manual_seed(1)
        expected = run(module, inputs)
        module.load_state_dict(state)
        torch.manual_seed(1)
        with torch._dynamo.config.patch(error_on_recompile=batch != make.BATCH):
            found = run(compiled, inputs)
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        if training:
            torch.stack([output.square().sum() for output in found]).sum().backward()


@every_mechanism
@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_exports_for_any_size(case: Case) -> None:
    """Batch, positions, tokens and queries may all have other sizes than those it was exported with.

    Of windows, what they leave of the map stays what it was: whether they need padding is fixed in the graph.
    """
    module = stir(case.build()).eval()
    large = make.LARGE[case.rank]
    example = case.inputs(module, spatial=large, count=large[0])
    steps = {"query"} if issubclass(case.mechanism, Read) and case.mechanism.stepwise else set()
    axes = {
        name: dict.fromkeys((0, *(range(2, x.ndim) if case.rank else [] if name in steps else [1])), Dim.DYNAMIC)
        for name, x in example.items()
    }
    positional = [name for name in example if name.startswith("inputs[")]
    named = {name: x for name, x in example.items() if name not in positional}
    # A tuple of all positional inputs, once for each parameter of the signature or as a whole for `*inputs`.
    several = tuple(axes[name] for name in positional)
    gathered = any(p.kind is Parameter.VAR_POSITIONAL for p in signature(module.forward).parameters.values())
    exported = torch.export.export(
        module,
        tuple(example[name] for name in positional),
        named,
        dynamic_shapes=((several,) if gathered else several) if positional else axes,
        strict=False,
    )
    other = [size + 7 for size in large]
    inputs = case.inputs(module, batch=2, spatial=tuple(other), count=other[0])
    inputs |= {name: torch.randn(2, *example[name].shape[1:]) for name in steps}
    for one, two in zip(run(module, inputs), run(exported.module(), inputs), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5 * _magnitude(one))


# Masks


@every_masked
@pytest.mark.parametrize("per_query", [False, True], ids=["mask for all", "mask per query"])
def test_what_is_masked_has_no_weight(case: Case, per_query: bool) -> None:
    """Exactly none, in every map over what is masked."""
    if per_query and not make.takes_mask_per_query(case.mechanism):
        return  # that such a mask is refused is tested with the wrong shapes
    module = stir(case.build()).eval()
    inputs = case.inputs(module)
    B, N = inputs["memory" if isinstance(module, Read) else "x"].shape[:2]
    T = _queries(inputs)
    mask = torch.rand(B, T if per_query else 1, N) < 0.6
    mask[..., 0], mask[..., 1] = True, False
    offers: list[Offer] = []
    with offering.listen(offers.append):
        call(module, {**inputs, "mask": mask if per_query else mask[:, 0]})
    for offer in offers:
        values = _values(offer)
        axes = offer.fact.named(values.ndim)
        if "key" not in axes or (per_query and "query" not in axes):
            continue
        places = [axes.index(axis) for axis in ("batch", "query", "key") if axis in axes]
        values = values.movedim(places, list(range(len(places))))
        allowed = mask.expand(B, values.shape[1], N) if "query" in axes else mask[:, 0]
        assert not values[~allowed].any(), f"map {offer.fact.label!r} has weights where the mask has none"
        assert values[allowed].any()


@every_read_without_query
def test_reads_without_a_query(case: Case) -> None:
    module = stir(case.build(query_width=None))
    memory = case.inputs(module)["memory"]
    mask = torch.ones(memory.shape[:2], dtype=torch.bool)
    mask[:, 2] = False
    context = module(None, memory, mask)
    assert context.shape == (BATCH, getattr(module, "seeds", 1), module.context_width)
    changed = torch.where(mask[..., None], memory, torch.randn_like(memory))
    assert torch.equal(module(None, changed, mask), context)
    context.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@every_masked
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("per_query", [False, True], ids=["mask for all", "mask per query"])
def test_what_is_masked_has_no_influence(case: Case, per_query: bool, training: bool) -> None:
    if per_query and not make.takes_mask_per_query(case.mechanism):
        pytest.skip("takes one mask for all queries; that it refuses another is tested with the wrong shapes")
    module = stir(case.build()).train(training)
    inputs = case.inputs(module)
    memory = "memory" if isinstance(module, Read) else "x"
    B, N = inputs[memory].shape[:2]
    part = torch.rand(B, N) < 0.6
    part[:, 1] = False
    part[:, 0] = True
    mask = part[:, None].expand(B, _queries(inputs), N) if per_query else part
    other = torch.where(part[..., None], inputs[memory], torch.randn_like(inputs[memory]))
    outcomes = []
    for memories in (inputs[memory], other):
        torch.manual_seed(1)
        outcomes.append(run(module, {**inputs, memory: memories, "mask": mask}))
    for one, two in zip(*outcomes, strict=True):
        if memory == "x":  # a masked token still asks: its own row may change
            one, two = one[part], two[part]
        assert torch.equal(one, two)


@every_masked
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("per_query", [False, True], ids=["mask for all", "mask per query"])
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_what_is_masked_may_hold_anything(case: Case, junk: float, per_query: bool, training: bool) -> None:
    """Zero times NaN is NaN: outputs and gradients are those of finite values in its place, and its own are zero."""
    if per_query and not make.takes_mask_per_query(case.mechanism):
        return  # that such a mask is refused is tested with the wrong shapes
    module = stir(case.build()).train(training)
    inputs = case.inputs(module)
    memory = "memory" if isinstance(module, Read) else "x"
    B, N = inputs[memory].shape[:2]
    part = torch.rand(B, N) < 0.6
    part[:, 1] = False
    part[:, 0] = True
    part[2] = True
    mask = part[:, None].expand(B, _queries(inputs), N) if per_query else part
    held = inputs[memory].masked_fill(~part[..., None], junk)
    outcomes = []
    for memories in (inputs[memory], held):
        given = {name: x.clone().requires_grad_() for name, x in {**inputs, memory: memories}.items()}
        leaves = {**given, **dict(module.named_parameters())}
        torch.manual_seed(1)
        outputs = run(module, {**given, "mask": mask})
        if memory == "x":  # a masked token still asks: its own row may change
            outputs = [output[part] for output in outputs]
        loss = torch.stack([output.square().sum() for output in outputs]).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        outcomes.append((outputs, dict(zip(leaves, gradients, strict=True))))
    (finite, expected), (found, gradients) = outcomes
    assert all(map(torch.equal, found, finite))
    for name, gradient in gradients.items():
        if gradient is not None:
            wanted = expected[name]
            torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6 * _magnitude(wanted), msg=name)
    own = gradients[memory]
    assert own is None or not own[~part].any(), "a gradient reaches what is masked"


TOGETHER = {"bilinear_attention", "co_attention"}
"""Reads whose every query depends on all that any query reads."""


@every_masked
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_what_a_query_may_not_read_may_hold_anything(case: Case, junk: float, training: bool) -> None:
    """A token that late queries read and early ones do not: what no ordinary number there changes, none else does.

    What such a number changes is NaN: of the queries that read it, and of those that depend on them. Outputs of all
    others and the gradients of a loss over them are those of ordinary numbers.
    """
    if not make.takes_mask_per_query(case.mechanism):
        return  # that such a mask is refused is tested with the wrong shapes
    module = stir(case.build()).train(training)
    inputs = case.inputs(module)
    if isinstance(module, Read) and "query" not in inputs:
        return  # its own queries have one mask
    memory = "memory" if isinstance(module, Read) else "x"
    (B, N), T = inputs[memory].shape[:2], _queries(inputs)
    at = 3
    mask = torch.ones(B, T, N, dtype=torch.bool).tril(1)
    mask[:, 1, 0] = mask[:, T - 1, at] = False  # the last query depends on others at most
    outcomes = []
    for held in (torch.randn(()), 5 * torch.randn(()), torch.tensor(junk)):
        tokens = inputs[memory].clone()
        tokens[:2, at, 1] = held  # one number of one token, in all inputs but the last
        given = {name: x.clone().requires_grad_() for name, x in {**inputs, memory: tokens}.items()}
        torch.manual_seed(1)
        outcomes.append((given, run(module, {**given, "mask": mask})[0]))
    (given, one), (_, two), (given_junk, found) = outcomes
    changed = (one != two).any(2)  # (B, T)
    reads = mask[:, :, at] & (torch.arange(B) < 2)[:, None]  # a hard choice may still be of another token
    undefined = found.isnan().all(2)
    assert undefined[changed].all()
    assert changed[reads].any()
    clean = ~(changed | reads)
    assert clean[2].all()
    assert clean[0].any() == (case.mechanism.name not in TOGETHER)
    assert torch.equal(found[clean], one[clean])
    gradients = []
    for leaves, output in ((given, one), (given_junk, found)):
        leaves = {**leaves, **dict(module.named_parameters())}
        slopes = torch.autograd.grad(output[clean].square().sum(), list(leaves.values()), allow_unused=True)
        gradients.append(dict(zip(leaves, slopes, strict=True)))
    expected, slopes = gradients
    for name, slope in slopes.items():
        wanted = expected[name]
        if slope is not None and wanted is not None:
            torch.testing.assert_close(slope, wanted, rtol=1e-5, atol=1e-6 * _magnitude(wanted), msg=name)
    assert any(slope is not None and slope.any() for slope in slopes.values())


@every_masked
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_token_that_nobody_reads_may_still_ask(case: Case, training: bool) -> None:
    """As a class token does that no patch reads: a mask by pairs takes it from the keys alone."""
    if not issubclass(case.mechanism, Refine) or not make.takes_mask_per_query(case.mechanism):
        return
    module = stir(case.build()).train(training)
    x = case.inputs(module)["x"]
    B, N = x.shape[:2]
    mask = torch.ones(B, N, N, dtype=torch.bool)
    mask[:, :, 2] = False
    outcomes = []
    for own in (x[:, 2], torch.randn_like(x[:, 2])):
        torch.manual_seed(1)
        outcomes.append(run(module, {"x": torch.cat([x[:, :2], own[:, None], x[:, 3:]], 1), "mask": mask})[0])
    one, two = outcomes
    others = torch.arange(N) != 2
    assert torch.equal(one[:, others], two[:, others])
    assert not torch.allclose(one[:, 2], two[:, 2])


@every_masked
def test_a_mask_of_true_changes_nothing(case: Case) -> None:
    module = stir(case.build()).eval()
    inputs = case.inputs(module)
    B, N = inputs["memory" if isinstance(module, Read) else "x"].shape[:2]
    masked = run(module, {**inputs, "mask": torch.ones(B, N, dtype=torch.bool)})
    for one, other in zip(run(module, inputs), masked, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@every_masked
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_nothing_to_attend_to_is_finite_forward_and_backward(case: Case, training: bool) -> None:
    module = stir(case.build()).train(training)
    inputs = {name: x.requires_grad_() for name, x in case.inputs(module).items()}
    B, N = inputs["memory" if isinstance(module, Read) else "x"].shape[:2]
    nothing = torch.ones(B, N, dtype=torch.bool)
    nothing[1] = False
    offers: list[Offer] = []
    with offering.listen(offers.append):
        outputs = run(module, {**inputs, "mask": nothing})
    _loss(module, {**inputs, "mask": nothing}).backward()
    assert all(output.isfinite().all() for output in outputs)
    if isinstance(module, Read):  # a token may keep what its residual or bias gives it; a read has nothing else
        bias = run(module, {**{name: torch.zeros_like(x) for name, x in inputs.items()}, "mask": nothing})
        assert torch.equal(outputs[0][1], bias[0][1]), "a row with nothing to attend to depends on what it may not see"
    for offer in offers:
        assert not _values(offer)[1].any(), "a row with nothing to attend to has weights"
    for name, x in {**inputs, **dict(module.named_parameters())}.items():
        assert x.grad is None or x.grad.isfinite().all(), f"the gradient of {name} is not finite"


# Maps


@every_case
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_offers_what_it_declares(case: Case, training: bool) -> None:
    module = stir(case.build()).train(training)
    inputs = case.inputs(module)
    offers: list[Offer] = []
    with offering.listen(offers.append):
        call(module, inputs)
    assert sorted(offer.fact.label for offer in offers) == sorted(fact.label for fact in module.maps)
    sizes = case.axis_sizes(module, inputs)
    for offer in offers:
        values = _values(offer)
        axes = offer.fact.named(values.ndim)
        assert values.isfinite().all()
        assert len(set(axes)) == len(axes) == values.ndim
        for axis, found in zip(axes, values.shape, strict=True):
            own = [getattr(module, name) for name in (axis, f"{axis}s", f"{axis}es") if hasattr(module, name)]
            assert axis in sizes or own, f"axis {axis!r}: neither the input nor module.{axis}s says how long it is"
            expected = sizes[axis] if axis in sizes else own[0]
            expected = expected if isinstance(expected, int) else len(expected)
            assert found == expected, f"axis {axis!r} of map {offer.fact.label!r} is {found} long"
        _check_sums(offer.fact, values)
        if offer.grid is not None:
            assert offer.grid == tuple(inputs["x"].shape[2:])


@every_mechanism
@pytest.mark.parametrize("mask", ["no mask", "mask for all", "mask per query"])
def test_a_part_of_a_map_is_that_part_of_the_whole(case: Case, mask: str) -> None:
    module = stir(case.build(1)).eval()  # wide enough for several heads where the width chooses their number
    inputs = case.inputs(module)
    if mask != "no mask":
        if not takes_mask(case.mechanism) or (
            mask == "mask per query" and not make.takes_mask_per_query(case.mechanism)
        ):
            return  # that such a mask is refused is tested elsewhere
        B, N = inputs["memory" if "memory" in inputs else "x"].shape[:2]
        shape = (B, N) if mask == "mask for all" else (B, _queries(inputs), N)
        inputs["mask"] = torch.rand(shape, generator=torch.Generator().manual_seed(4)) > 0.4
    offers: list[Offer] = []
    with offering.listen(offers.append):
        call(module, inputs)
    for offer in offers:
        if isinstance(offer.weights, Tensor):
            continue  # it is there as a whole: who listens picks
        whole = offer.weights(Request())
        axes = offer.fact.named(whole.ndim)
        several = "heads" in axes and whole.shape[axes.index("heads")] > 1
        wanted = {"heads": (int(several),), "query": (2, 0)}
        part = offer.weights(Request(heads=wanted["heads"], queries=wanted["query"]))
        for dimension, axis in enumerate(axes):
            if axis in wanted:
                whole = whole.index_select(dimension, torch.tensor(wanted[axis]))
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)


@every_mechanism
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_watching_does_not_change_the_output(case: Case, training: bool) -> None:
    module = stir(case.build()).train(training)
    inputs = case.inputs(module)
    torch.manual_seed(1)
    expected = run(deepcopy(module), inputs)
    torch.manual_seed(1)
    with offering.listen(lambda offer: None):
        watched = run(module, inputs)
    assert all(torch.equal(*pair) for pair in zip(expected, watched, strict=True))


# Weights that others put in their place

FIXED: dict[tuple[str, str], str] = {
    ("draw_read", "footprint"): "the mean of the filters, which stay as they are",
    ("glimpse", "footprint"): "it follows from where the glimpse is taken",
    ("mean_field", "probability"): "it is the output: nothing is read with it",
    ("spatial_transformer", "footprint"): "it follows from where the map is sampled",
}
"""The maps that cannot be replaced, by mechanism and label, and why: the one list of them."""

GATES = {
    *("attention_gate", "attention_refinement", "cbam", "coordinate", "eca", "efficient_multi_scale"),
    *("ese", "frequency_channel", "gated_channel", "gather_excite", "gaussian_context", "large_kernel"),
    *("linear_context", "multi_scale_convolutional", "normalization_attention", "pyramid_pooling", "se", "simam"),
    *("spatial_gate", "spatial_group", "spatial_squeeze", "strip_pooling", "style_recalibration"),
}
"""Mechanisms that give their input times all of their maps."""

every_replaceable = pytest.mark.parametrize(
    "case",
    [case for case in make.first_cases() if any(not fact.fixed for fact in case.mechanism.maps)],
    ids=lambda case: case.mechanism.name,
)


@every_replaceable
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_weights_replaced_by_their_equal_change_nothing(case: Case, training: bool, masked: bool) -> None:
    """What is shown is what is used, also where a fused kernel takes its place."""
    module = stir(case.build()).train(training)
    inputs = _masked(case, module) if masked else case.inputs(module)
    expected = _replaced(module, inputs, {})
    equal = {fact.label: torch.clone for fact in module.maps}
    for one, two in zip(expected, _replaced(module, inputs, equal), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5 * _magnitude(one))


@every_replaceable
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_replaced_weights_change_the_output(case: Case, training: bool) -> None:
    """Each map alone, by the weights of another input; where those are alike for all inputs, of other places."""
    module = stir(case.build()).train(training)
    pairs = any("key" in fact.axes for fact in module.maps)
    spatial = make.LARGE[case.rank] if case.rank and pairs else None  # of several windows or patches
    inputs = case.inputs(module, spatial=spatial)
    expected = _replaced(module, inputs, {})
    for fact in module.maps:
        if not fact.fixed:
            found = _replaced(module, inputs, {fact.label: _moved})
            differ = [
                (one - two).abs().max() > 1e-4 * _magnitude(one) for one, two in zip(expected, found, strict=True)
            ]
            assert any(differ), f"the map {fact.label!r} is not used"


@pytest.mark.parametrize("case", [case for case in make.first_cases() if case.mechanism.name in GATES], ids=str)
def test_a_gate_multiplies_by_what_replaces_it(case: Case) -> None:
    module = case.build().eval()
    inputs = case.inputs(module)
    x = next(iter(inputs.values()))
    gates: dict[str, Tensor] = {}

    def drawn(label: str) -> Callable[[Tensor], Tensor]:
        return lambda weights: gates.setdefault(label, torch.rand_like(weights))

    found = _replaced(module, inputs, {fact.label: drawn(fact.label) for fact in module.maps})[0]
    expected = x
    for fact in module.maps:
        gate = gates[fact.label]
        axes = fact.named(gate.ndim)
        of_input = ["batch", "channel", "height", "width"]
        if "group" in axes:
            at = axes.index("group")
            gate = gate.repeat_interleave(x.shape[1] // gate.shape[at], at)
            axes = tuple("channel" if axis == "group" else axis for axis in axes)
        expected = expected * gate[tuple(slice(None) if axis in axes else None for axis in of_input)]
    torch.testing.assert_close(found, expected)


@every_replaceable
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_weights_replaced_by_their_mean_train(case: Case, training: bool, masked: bool) -> None:
    """As `compare` does to see whether it matters where a model looks."""
    module = stir(case.build()).train(training)
    inputs = _masked(case, module) if masked else case.inputs(module)
    inputs = {name: x.requires_grad_() if x.dtype.is_floating_point else x for name, x in inputs.items()}
    mean = {
        fact.label: lambda weights: weights.detach().mean(0, keepdim=True).expand_as(weights) for fact in module.maps
    }
    with _replacing(mean):
        outputs = run(module, inputs)
    assert [x.shape for x in outputs] == [x.shape for x in run(module, inputs)]
    assert all(x.isfinite().all() for x in outputs)
    sum(x.square().sum() for x in outputs).backward()  # pyright: ignore[reportAttributeAccessIssue]
    for name, x in {**inputs, **dict(module.named_parameters())}.items():
        assert x.grad is None or x.grad.isfinite().all(), f"the gradient of {name} is not finite"


@every_replaceable
@pytest.mark.usefixtures("unchecked_shapes")
def test_weights_of_another_shape_are_refused(case: Case) -> None:
    """Of maps that are there as a whole; of those behind a fused kernel nobody knows it before they are computed."""
    module = case.build().eval()
    inputs = case.inputs(module)

    def longer(offer: Offer) -> Tensor | None:
        return torch.cat([offer.weights, offer.weights], -1) if isinstance(offer.weights, Tensor) else None

    offers: list[Offer] = []
    with offering.listen(offers.append):
        call(module, inputs)
    if any(isinstance(offer.weights, Tensor) for offer in offers):
        with (
            offering.replacing(longer),
            pytest.raises(ShapeError, match=r"weights of shape .* in the place of its map"),
        ):
            call(module, inputs)


@every_mechanism
def test_these_maps_are_fixed(case: Case) -> None:
    """And whoever replaces weights is not asked about them."""
    module = stir(case.build()).eval()
    name = case.mechanism.name
    fixed = {(name, fact.label): fact.fixed for fact in module.maps if fact.fixed}
    assert fixed == {which: reason for which, reason in FIXED.items() if which[0] == name}
    inputs = case.inputs(module)
    asked: list[str] = []
    with offering.replacing(lambda offer: asked.append(offer.fact.label)):
        call(module, inputs)
    assert sorted(asked) == sorted(fact.label for fact in module.maps if not fact.fixed)


# Facts


@every_mechanism
@pytest.mark.parametrize("size", [0, 1], ids=["narrow", "wide"])
def test_parameter_count_is_as_declared(case: Case, size: int) -> None:
    _check_count(case.build(size))


@every_mechanism
@pytest.mark.parametrize("width", [64, 256, 2048])
def test_builds_from_its_widths_alone(case: Case, width: int) -> None:
    """With nothing chosen, and as many parameters as declared."""
    arguments = signature(case.mechanism).parameters.values()
    with torch.device("meta"):
        _check_count(case.mechanism(**{a.name: width for a in arguments if a.default is Parameter.empty}))


@every_mechanism
def test_facts_are_complete(case: Case) -> None:
    mechanism = case.mechanism
    assert mechanism.contract in CONTRACTS
    assert re.fullmatch(r"[a-z][a-z0-9_]*", mechanism.name)
    assert mechanisms[mechanism.name] is mechanism
    assert not hasattr(nn.Module, mechanism.name), "insert names the module so: it must not hide a method"
    assert 1990 <= mechanism.paper.year <= 2026
    assert mechanism.paper.title
    assert mechanism.paper.authors
    assert mechanism.paper.venue
    assert mechanism.formula
    assert mechanism.placement
    assert mechanism.growth in {"1", "N", "N^1.5", "N log N", "N^2"}
    assert len({fact.label for fact in mechanism.maps}) == len(mechanism.maps)
    assert all(set(fact.sums_to_one) <= set(fact.axes) for fact in mechanism.maps)
    if issubclass(mechanism, Refine):
        assert mechanism.layout in {"map", "tokens"}
        assert mechanism.spatial_ranks
    first = next(iter(signature(mechanism).parameters))
    assert first in {"channels", "in_channels", "query_width", "memory_width"}


@every_mechanism
def test_every_deviation_is_an_argument_that_is_off_by_default_and_works(case: Case) -> None:
    arguments = signature(case.mechanism).parameters
    for deviation in case.mechanism.deviations:
        argument, value = _deviation(deviation)
        assert argument in arguments, f"{case.mechanism.__name__} takes no argument {argument!r}"
        assert value != arguments[argument].default, f"{argument}={value} is the default"
        module = case.build(2, **{argument: value})  # query and memory of one width, which some score needs
        inputs = case.inputs(module)
        expected = case.output_shape(module, inputs)
        outputs = run(module, inputs)
        assert expected is None or outputs[0].shape == expected
        assert outputs[0].isfinite().all()


@every_mechanism
def test_documentation_is_complete(case: Case) -> None:
    documentation = cleandoc(case.mechanism.__doc__ or "")
    titles = ("Paper", "Args", "Shapes", "Maps", "Raises")
    found = re.findall(rf"^({'|'.join(titles)}):", documentation, re.MULTILINE)
    assert found == list(titles), f"sections {found}, expected {list(titles)} in that order"
    arguments, maps = (_section(documentation, title) for title in ("Args", "Maps"))
    documented = re.findall(r"^ {4}(\w+): ", arguments, re.MULTILINE)
    assert documented == list(signature(case.mechanism).parameters)
    for fact in case.mechanism.maps:
        assert re.search(rf"^ {{4}}{fact.label}: ", maps, re.MULTILINE), f"map {fact.label!r} is not documented"


# Helpers


def _loss(module: Attention, inputs: Inputs) -> Tensor:
    """Squares of all outputs, and for sampled reads what a score-function estimator would add."""
    with offering.recording_choices() as choices:
        outputs = run(module, inputs)
    terms = [output.square().sum() for output in outputs]
    for logs in choices.log_probabilities:
        reward = torch.rand(logs.shape, generator=torch.Generator().manual_seed(3))
        terms.append((logs * reward.to(logs)).sum())
    terms += [entropy.sum() for entropy in choices.entropies]
    return torch.stack(terms).sum()


def _with_slopes(module: Attention, inputs: Inputs, scale: float = 1.0) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The outputs, and the gradients of every input and parameter where the outputs are given random ones."""
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    torch.manual_seed(1)
    outputs = run(module, leaves)
    for i, output in enumerate(outputs):
        if output.requires_grad:
            drawn = scale * torch.randn(output.shape, generator=torch.Generator().manual_seed(1000 + i))
            output.backward(drawn.to(output.dtype), retain_graph=True)
    slopes = {name: x.grad for name, x in {**leaves, **dict(module.named_parameters())}.items() if x.grad is not None}
    return [output.detach() for output in outputs], slopes


def _magnitude(output: Tensor) -> float:
    """The largest value, at least one: what several layers amplify is rounded in proportion to it."""
    return max(1.0, float(output.detach().abs().max()))


def _check_count(module: Attention) -> None:
    letters = {letter: getattr(module, attribute) for letter, attribute in module.letters.items()}
    declared = eval(module.parameter_count, {"__builtins__": {}}, letters)
    assert declared == sum(parameter.numel() for parameter in module.parameters())


def _deviation(text: str) -> tuple[str, object]:
    parts = re.fullmatch(r"(\w+)=(.+?): (.+)", text, re.DOTALL)
    assert parts, f"not of the form 'argument=value: text': {text!r}"
    return parts[1], ast.literal_eval(parts[2])


def _differ(case: Case, setting: dict[str, object], name: str, values: list[object]) -> bool:
    """Whether some of these values of an argument makes any difference, at least between refused and accepted."""
    plain = _outcome(case, setting)
    others = (_outcome(case, {**setting, name: value}) for value in values)
    accepted = (other for other in others if other is not None)
    return any(
        plain is None or [x.shape for x in plain] != [x.shape for x in other] or not all(map(torch.equal, plain, other))
        for other in accepted
    )


def _outcome(case: Case, arguments: dict[str, object]) -> list[Tensor] | None:
    """Parameters, outputs and the inputs' gradients, all from the same seeds; in training, for what is drawn there.

    None where the arguments are refused.
    """
    torch.manual_seed(0)
    read = issubclass(case.mechanism, Read)  # some scores need query and memory of one width
    try:
        module = stir(case.build(2 if read else 1, **arguments)).train()
    except ValueError:
        return None
    torch.manual_seed(1)
    inputs = case.inputs(module, batch=2, spatial=make.LARGE[case.rank])
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    torch.manual_seed(2)
    try:
        outputs = run(module, inputs)
    except ShapeError:  # it takes inputs of another shape
        return list(module.parameters())
    torch.stack([output.square().sum() for output in outputs]).sum().backward()
    return [*module.parameters(), *outputs, *(x.grad for x in inputs.values() if x.grad is not None)]


def _masked(case: Case, module: Attention) -> Inputs:
    """Inputs with a mask where one is taken, so that every row has something to attend to."""
    inputs = case.inputs(module)
    if takes_mask(case.mechanism):
        B, N = inputs["memory" if isinstance(module, Read) else "x"].shape[:2]
        inputs["mask"] = torch.rand(B, N, generator=torch.Generator().manual_seed(5)) < 0.7
        inputs["mask"][:, 0] = True
    return inputs


def _replacing(changes: dict[str, Callable[[Tensor], Tensor]]) -> AbstractContextManager[None]:
    """The maps of these labels are changed so."""

    def replace(offer: Offer) -> Tensor | None:
        change = changes.get(offer.fact.label)
        return None if change is None else change(_values(offer))

    return offering.replacing(replace)


def _replaced(module: Attention, inputs: Inputs, changes: dict[str, Callable[[Tensor], Tensor]]) -> list[Tensor]:
    """The outputs with the maps of these labels changed so; always from the same seed and statistics."""
    torch.manual_seed(1)
    with _replacing(changes):
        return run(deepcopy(module), inputs)


def _moved(weights: Tensor) -> Tensor:
    """Each input's weights for the input behind it, or each place's for the place behind it."""
    rolled = weights.roll(1, 0)
    return weights.roll(1, -1) if torch.allclose(rolled, weights) else rolled


def _may_be_none(module: Attention, name: str) -> bool:
    return type(None) in get_args(signature(module.forward).parameters[name].annotation)


def _values(offer: Offer) -> Tensor:
    return offer.weights(Request()) if isinstance(offer.weights, Callable) else offer.weights


def _check_sums(fact: MapFact, values: Tensor) -> None:
    axes = fact.named(values.ndim)
    summed = fact.normalized(values.ndim)
    if summed:
        assert (values >= 0).all()
        sums = values.sum(dim=[axes.index(axis) for axis in summed])
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-4, atol=1e-4)
        return
    for dimension, axis in enumerate(axes):
        if axis != "batch":
            sums = values.sum(dim=dimension)
            off = (sums - 1).abs().max()
            assert off > 1e-3, f"map {fact.label!r} sums to one over {axis} but does not say so"


def _holds_tensor(module: nn.Module, key: str) -> bool:
    value = vars(module)[key]
    return key not in {"_parameters", "_buffers", "_modules"} and any(
        isinstance(leaf, Tensor) for leaf in torch.utils._pytree.tree_leaves(value)
    )


def _queries(inputs: Inputs) -> int:
    return inputs["query"].shape[1] if "query" in inputs else inputs["x"].shape[1] if "x" in inputs else 1


def _section(documentation: str, title: str) -> str:
    _, _, after = documentation.partition(f"\n{title}:\n")
    return re.split(r"^\S", after, maxsplit=1, flags=re.MULTILINE)[0]


def test_the_suite_covers_every_contract() -> None:
    assert {case.mechanism.contract for case in make.cases()} == CONTRACTS
    assert {case.mechanism.name for case in make.cases()} == set(mechanisms)
    assert any(issubclass(case.mechanism, Merge) for case in make.cases())


def test_every_test_that_the_table_above_names_exists() -> None:
    """A name after a file's is looked for there, every other here."""
    here = Path(__file__)
    named = re.findall(r"(?:([\w./]+\.py)::)?(test_\w+)\b(?!\.py)", __doc__ or "")
    assert len(named) > 30
    for file, name in named:
        assert f"def {name}(" in (here.parent / (file or here.name)).read_text(), f"there is no {file or ''} {name}"
