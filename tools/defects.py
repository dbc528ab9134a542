"""The defects that a mutant can have: what was found wrong in published attention code, one function each.

A finder is asked about every expression of a function and gives edits: an expression, and the text to put in its place.
Edits are made in the text, not by unparsing, so that lines keep their numbers and a change can be read.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

Edit = tuple[ast.expr, str]
Finder = Callable[[ast.expr, "Scope"], Iterator[Edit]]

DEFECTS: dict[str, Finder] = {}
"""Every finder by its name; the first line of its documentation says which defect it stands for."""

REDUCTIONS = {"softmax", "log_softmax", "masked_softmax", "masked_log_softmax", "logsumexp", "normalize", "vector_norm"}
REDUCTIONS |= {"sum", "mean", "amax", "amin", "std", "var", "cumsum", "argmax", "any"}
MASKED = {"masked_softmax", "masked_log_softmax"}
MODULES = {"F", "torch", "functional", "nn"}
GATES = {"sigmoid": ("relu", "tanh"), "relu": ("",), "tanh": ("",), "gelu": ("relu",), "silu": ("relu",), "elu": ("",)}
GATE_LAYERS = {
    "Sigmoid": ("ReLU", "Tanh"),
    "ReLU": ("Identity",),
    "Tanh": ("Identity",),
    "GELU": ("Identity",),
    "SiLU": ("Identity",),
}
BIASED_LAYERS = {"Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d"}
POOLINGS = {"amax": "mean", "mean": "amax"}
POOLINGS |= {
    f"Adaptive{one}Pool{n}d": f"Adaptive{other}Pool{n}d"
    for one, other in (("Avg", "Max"), ("Max", "Avg"))
    for n in (1, 2, 3)
}
POOLINGS |= {
    f"{one}_pool{n}d": f"{other}_pool{n}d" for one, other in (("avg", "max"), ("max", "avg")) for n in (1, 2, 3)
}
POOLINGS |= {f"adaptive_{old}": f"adaptive_{new}" for old, new in list(POOLINGS.items()) if "_pool" in old}
CONSTANT_ARGUMENTS = {"dilation", "stride", "groups", "kernel_size", "padding", "correction", "reduction"}
SCALE_NAME = re.compile(r"scale|factor|temperature|gain|gamma|alpha")
FIXED_SIZE = 14
"""As published code fixes it, the map of ResNet's third stage; none of the tests' sizes."""


@dataclass(frozen=True)
class Mutant:
    """One defect in one file.

    Attributes:
        defect: the name of the finder.
        line: the line of what is changed.
        before, after: the expression and what stands in its place.
        text: the whole file with the defect.
    """

    defect: str
    line: int
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        return f"{self.defect}: {_one_line(self.before)}  →  {_one_line(self.after)}"


class Source:
    """A file's text, and where in it an expression stands; `ast` counts in bytes, and formulae are not ASCII."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.bytes = text.encode()
        self.tree = ast.parse(text)

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        return starts

    def span(self, node: ast.expr) -> tuple[int, int]:
        """The first byte of an expression, and the one behind its last."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr) -> str:
        """The text of an expression."""
        start, end = self.span(node)
        return self.bytes[start:end].decode()

    def atom(self, node: ast.expr) -> str:
        """The text of an expression, in parentheses where it could fall apart among others."""
        whole = isinstance(
            node, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant | ast.Tuple | ast.List
        )
        return self.of(node) if whole else f"({self.of(node)})"

    def edited(self, node: ast.expr, text: str) -> str:
        """The whole text with another in place of an expression."""
        start, end = self.span(node)
        return (self.bytes[:start] + text.encode() + self.bytes[end:]).decode()


@dataclass(frozen=True)
class Scope:
    """The function in which an expression stands.

    Attributes:
        source: the file.
        function: its name.
        arguments: the names of its arguments, and of those of the functions around it.
        parameters: the attributes of its class that hold an `nn.Parameter`.
        layers: the attributes of its class that hold a layer.
        defaults: the default values of its arguments.
    """

    source: Source
    function: str
    arguments: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()
    defaults: tuple[ast.expr, ...] = ()


def defect(find: Finder) -> Finder:
    """Let the finder take part."""
    DEFECTS[find.__name__] = find
    return find


def mutants(text: str, names: Iterable[str] | None = None) -> list[Mutant]:
    """Every mutant of a file that compiles and is not the same program, in order of its lines.

    Args:
        text: the file.
        names: the defects to look for; default all.
    """
    source = Source(text)
    finders = DEFECTS if names is None else {name: DEFECTS[name] for name in names}
    seen = {ast.dump(source.tree)}
    found: list[Mutant] = []
    for scope, node in _expressions(source):
        for name, find in finders.items():
            for place, replacement in find(node, scope):
                mutated = source.edited(place, replacement)
                try:
                    program = ast.dump(ast.parse(mutated))
                    compile(mutated, "mutant", "exec")
                except SyntaxError:
                    continue
                if program not in seen:
                    seen.add(program)
                    found.append(Mutant(name, place.lineno, source.of(place), replacement, mutated))
    return sorted(found, key=lambda mutant: mutant.line)


# Axes and layouts


@defect
def other_axis(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A softmax, sum or mean over another axis: A2 took its softmax over the batch, OCR over pixels for regions."""
    if not isinstance(node, ast.Call) or _called(node) not in REDUCTIONS:
        return
    axis = _argument(node, "dim", 2 if _called(node) in MASKED else 0 if _is_method(node) else 1)
    if axis is None:
        if _called(node) in MASKED:
            yield node, _with_argument(scope.source.of(node), "dim=-2")
        return
    for part in ast.walk(axis):
        if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub) and isinstance(part.operand, ast.Constant):
            yield part, "-1" if part.operand.value == 2 else "-2"
            return
        if isinstance(part, ast.Constant) and type(part.value) is int:
            yield part, str(part.value - 1 if part.value else 1)
            return


@defect
def missing_transpose(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A reshape without the transpose before it: PAB and attention-augmented copies mix channels with positions."""
    if isinstance(node, ast.Call) and _is_method(node) and _called(node) in {"transpose", "permute", "movedim"}:
        yield node, scope.source.atom(_owner(node))
    if isinstance(node, ast.Attribute) and node.attr in {"mT", "T"} and isinstance(node.ctx, ast.Load):
        yield node, scope.source.atom(node.value)


@defect
def fixed_size(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A size taken for granted: DANet's copy is built for 7 × 7, BAM's pools with the height along both axes."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
        several = isinstance(node.slice, ast.Slice)
        yield node, f"({FIXED_SIZE}, {FIXED_SIZE})" if several else str(FIXED_SIZE)
    if isinstance(node, ast.Call) and _is_method(node) and _called(node) == "size" and node.args:
        yield node, str(FIXED_SIZE)


# Masks


@defect
def inverted_mask(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A mask that hides what it should show: halo attention's copies mask the valid pixels."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        yield node, scope.source.atom(node.operand)
    for mask in _mask_arguments(node):
        yield mask, f"None if {mask.id} is None else ~{mask.id}"
    match node:
        case ast.IfExp(test=ast.Compare(left=ast.Name(id=name)), body=ast.Constant(value=None)) if "mask" in name:
            yield node.orelse, f"~{scope.source.atom(node.orelse)}"


@defect
def ignored_mask(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A mask that is taken and not used."""
    for mask in _mask_arguments(node):
        yield mask, "None"
    if isinstance(node, ast.Call) and _is_method(node) and _called(node) == "masked_fill":
        yield node, scope.source.atom(_owner(node))


@defect
def late_mask(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """Masking after the softmax: what is left no longer sums to one, as in EMSA's copy."""
    if not isinstance(node, ast.Call):
        return
    if _called(node) in MASKED:
        mask = _argument(node, "mask", 1)
        if mask is not None:
            unmasked, some = _replaced_within(scope.source, node, mask, "None"), scope.source.atom(mask)
            yield node, f"({unmasked} * (1 if {some} is None else {some}))"
    if _called(node) == "softmax" and _is_method(node):
        filled = _owner(node)
        if isinstance(filled, ast.Call) and _called(filled) == "masked_fill" and _is_method(filled):
            axis = [scope.source.of(argument) for argument in node.args]
            axis += [f"{keyword.arg}={scope.source.of(keyword.value)}" for keyword in node.keywords]
            scores, mask_text = scope.source.atom(_owner(filled)), scope.source.of(filled.args[0])
            yield node, f"{scores}.softmax({', '.join(axis)}).masked_fill({mask_text}, 0.0)"


# Parameters


@defect
def detached_parameter(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A parameter that no gradient reaches: MUSE's copy makes a new one in every forward."""
    if scope.function == "__init__":
        return
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and _own_attribute(node) in scope.parameters:
        yield node, f"{scope.source.of(node)}.detach()"
    if isinstance(node, ast.Call) and _own_attribute(node.func) in scope.layers:
        yield node, f"{scope.source.of(node)}.detach()"


@defect
def unregistered(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """Layers in a plain list, a parameter or buffer as a plain tensor: never trained, moved or saved, as PSA's copy."""
    if not isinstance(node, ast.Call):
        return
    if _called(node) in {"ModuleList", "ParameterList"}:
        yield node.func, "list"
    if _called(node) == "Parameter" and node.args:
        yield node, scope.source.atom(node.args[0])
    if _called(node) == "register_buffer" and len(node.args) > 1 and isinstance(node.args[0], ast.Constant):
        yield node, f"self.{node.args[0].value} = {scope.source.of(node.args[1])}"


@defect
def other_bias(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A bias dropped, or one that the paper does not have: ECA's copy."""
    if isinstance(node, ast.Call) and _called(node) in BIASED_LAYERS:
        bias = _argument(node, "bias")
        if bias is None:
            yield node, _with_argument(scope.source.of(node), "bias=False")
        else:
            fixed = isinstance(bias, ast.Constant) and bias.value is False
            yield bias, "True" if fixed else "False"


@defect
def changed_constant(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """Another constant: no epsilon in external attention's copy, BAM's dilation of 2 for 4, timm's reduction of 8."""
    if isinstance(node, ast.Constant) and type(node.value) is float:
        if node.value == 0:
            yield node, "1.0"
        elif node.value < 1e-2:
            yield node, "0.0"
        else:
            yield node, str(2 * node.value)
    candidates: list[ast.expr] = []
    if isinstance(node, ast.BinOp):
        candidates = [node.left, node.right]
    if isinstance(node, ast.Call):
        candidates = [keyword.value for keyword in node.keywords if keyword.arg in CONSTANT_ARGUMENTS]
        if _called(node) in {"max", "min"}:
            candidates += node.args
    if node in scope.defaults:
        candidates = [node]
    for candidate in candidates:
        if isinstance(candidate, ast.Constant) and type(candidate.value) is int:
            yield candidate, str(candidate.value + 1)


# Formulae


@defect
def dropped_branch(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A branch that is computed and not used: CBAM's copy adds the average to itself and forgets the maximum."""
    if not isinstance(node, ast.BinOp) or not isinstance(
        node.op, ast.Add | ast.Sub | ast.Mult | ast.BitAnd | ast.BitOr
    ):
        return
    operands = (node.left, node.right)
    if any(isinstance(operand, ast.Constant | ast.List) or _is_scale(operand) for operand in operands):
        return  # arithmetic of sizes; a shape; a missing scale
    for kept, dropped in (operands, operands[::-1]):
        residual = isinstance(node.op, ast.Add) and _is_argument(dropped, scope)
        negated = isinstance(node.op, ast.Sub) and kept is node.right
        if not residual and not negated:
            yield node, scope.source.atom(kept)


@defect
def missing_residual(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """What is read without what it should be added to."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for dropped, kept in ((node.left, node.right), (node.right, node.left)):
            if _is_argument(dropped, scope):
                yield node, scope.source.atom(kept)


@defect
def missing_scale(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """No scale, or of another width: timm's non-local block scales by the width before its reduction."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        for operand in (node.left, node.right) if isinstance(node.op, ast.Mult) else (node.right,):
            if _is_scale(operand):
                yield operand, "1"
    if isinstance(node, ast.Call):
        scale = _argument(node, "scale")
        if scale is not None:
            yield scale, "1.0"
    if _is_inverse_root(node):
        yield node, "1.0"


@defect
def flipped_sign(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A sum for a difference, or the reverse: DANet's code has the maximum less the energy, its paper the energy."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        old, new = ("+", "-") if isinstance(node.op, ast.Add) else ("-", "+")
        start, end = scope.source.span(node)
        first, last = scope.source.span(node.left)[1], scope.source.span(node.right)[0]
        head, middle, tail = (scope.source.bytes[a:b].decode() for a, b in ((start, first), (first, last), (last, end)))
        yield node, head + middle.replace(old, new, 1) + tail
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield node, scope.source.atom(node.operand)


@defect
def swapped_gate(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """Another gate function: coordinate attention's copy has no sigmoid, triplet's a ReLU before it."""
    if not isinstance(node, ast.Call):
        return
    name = _called(node)
    if isinstance(node.func, ast.Attribute) and _is_method(node) and not node.args:
        for other in GATES.get(name, ()):
            owner = scope.source.atom(_owner(node))
            yield node, f"{owner}.{other}()" if other else owner
    elif node.args and not _is_method(node):
        for other in GATES.get(name, ()):
            argument = scope.source.of(node.args[0])
            yield node, f"torch.{other}({argument})" if other else f"({argument})"
    for other in GATE_LAYERS.get(name, ()):
        yield node, f"nn.{other}()"


@defect
def missing_softmax(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A softmax that is defined and never applied: the global context block's copy."""
    if isinstance(node, ast.Call) and _called(node) in {"softmax", "log_softmax"} | MASKED:
        if _is_method(node):
            yield node, scope.source.atom(_owner(node))
        elif node.args:
            yield node, scope.source.atom(node.args[0])


@defect
def other_pooling(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A maximum for a mean, or the reverse: the CBAM in ultralytics has no maximum."""
    if isinstance(node, ast.Call) and _called(node) in POOLINGS:
        other = POOLINGS[_called(node)]
        if isinstance(node.func, ast.Attribute):
            yield node.func, f"{scope.source.atom(node.func.value)}.{other}"


@defect
def ignored_argument(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A choice that is not made: SplitAttention takes its channels and is built for 512."""
    if isinstance(node, ast.IfExp):
        yield node, scope.source.atom(node.body)
        yield node, scope.source.atom(node.orelse)


@defect
def written_into_input(node: ast.expr, scope: Scope) -> Iterator[Edit]:
    """A result written into the input: PSA's and S2's copies."""
    methods = {ast.Mult: "mul_", ast.Add: "add_", ast.Sub: "sub_", ast.Div: "div_"}
    if isinstance(node, ast.BinOp) and type(node.op) in methods and scope.function == "forward":
        for target, other in ((node.left, node.right), (node.right, node.left)):
            if _is_argument(target, scope) and (target is node.left or isinstance(node.op, ast.Mult | ast.Add)):
                yield node, f"{scope.source.of(target)}.{methods[type(node.op)]}({scope.source.of(other)})"
                return


# What the finders ask


def _called(node: ast.expr) -> str:
    """The name of what is called, without what stands before it; empty where it has none."""
    function = node.func if isinstance(node, ast.Call) else node
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _is_method(call: ast.Call) -> bool:
    """Whether it is called on a value, not taken from a module."""
    if not isinstance(call.func, ast.Attribute):
        return False
    return not (isinstance(call.func.value, ast.Name) and call.func.value.id in MODULES)


def _owner(call: ast.Call) -> ast.expr:
    assert isinstance(call.func, ast.Attribute)
    return call.func.value


def _argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """An argument by its name, or by its position where it has one."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    return call.args[position] if position is not None and position < len(call.args) else None


def _with_argument(call: str, argument: str) -> str:
    """The text of a call with one more argument at its end."""
    before = call.rstrip()[:-1].rstrip().removesuffix(",")
    return f"{before}{argument})" if before.endswith("(") else f"{before}, {argument})"


def _replaced_within(source: Source, outer: ast.expr, inner: ast.expr, text: str) -> str:
    start = source.span(outer)[0]
    first, last = (place - start for place in source.span(inner))
    whole = source.of(outer).encode()
    return (whole[:first] + text.encode() + whole[last:]).decode()


def _mask_arguments(node: ast.expr) -> list[ast.Name]:
    """The masks that a call is given; a check of the input is none of what may go wrong."""
    if not isinstance(node, ast.Call) or _called(node).startswith("check"):
        return []
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    return [argument for argument in given if isinstance(argument, ast.Name) and "mask" in argument.id]


def _own_attribute(node: ast.expr) -> str:
    """The `name` of `self.name`; empty for anything else."""
    own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if own and isinstance(node, ast.Attribute) else ""


def _is_argument(node: ast.expr, scope: Scope) -> bool:
    return isinstance(node, ast.Name) and node.id in scope.arguments


def _is_inverse_root(node: ast.expr) -> bool:
    """Something to a negative power."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and isinstance(node.right, ast.UnaryOp)


def _is_scale(node: ast.expr) -> bool:
    named = isinstance(node, ast.Name | ast.Attribute) and SCALE_NAME.search(_called(node)) is not None
    root = isinstance(node, ast.Call) and _called(node) in {"sqrt", "rsqrt"}
    return named or root


# Which expressions there are


def _expressions(source: Source) -> Iterator[tuple[Scope, ast.expr]]:
    for statement in source.tree.body:
        if isinstance(statement, ast.FunctionDef):
            yield from _expressions_of(statement, Scope(source, statement.name))
        elif isinstance(statement, ast.ClassDef):
            parameters, layers = _state(statement)
            for method in statement.body:
                if isinstance(method, ast.FunctionDef):
                    scope = Scope(source, method.name, parameters=parameters, layers=layers)
                    yield from _expressions_of(method, scope)


def _expressions_of(function: ast.FunctionDef, outer: Scope) -> Iterator[tuple[Scope, ast.expr]]:
    given = function.args
    names = {argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
    defaults = (*given.defaults, *(default for default in given.kw_defaults if default is not None))
    scope = Scope(
        outer.source, outer.function, outer.arguments | names - {"self"}, outer.parameters, outer.layers, defaults
    )
    for part in (*defaults, *function.body):
        yield from _expressions_within(part, scope)


def _expressions_within(node: ast.AST, scope: Scope) -> Iterator[tuple[Scope, ast.expr]]:
    """All but messages, assertions and types, which are no part of the mathematics."""
    if isinstance(node, ast.FunctionDef):
        yield from _expressions_of(node, scope)
        return
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return
    if isinstance(node, ast.expr):
        yield scope, node
    for field, value in ast.iter_fields(node):
        if field != "annotation":
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    yield from _expressions_within(part, scope)


def _state(owner: ast.ClassDef) -> tuple[frozenset[str], frozenset[str]]:
    """The attributes of a class that hold parameters, and those that hold layers."""
    parameters: set[str] = set()
    layers: set[str] = set()
    for node in ast.walk(owner):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            names = {_own_attribute(target) for target in node.targets} - {""}
            if _called(node.value) == "Parameter":
                parameters |= names
            elif _called(node.value)[:1].isupper():
                layers |= names
    return frozenset(parameters), frozenset(layers)


def _one_line(text: str) -> str:
    return " ".join(text.split())
