"""Declare operands and operators, the vocabulary of expressions.

A family of primitives is a Python file that declares them with :func:`operand` and
:func:`operator`. A declaration is checked when it is made; the decorated function becomes an
:class:`Operand` or :class:`Operator`, and :class:`PrimitiveSet` collects them from the built-in
families and from users' files. There is no global registry: a set is a value that is passed along.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gp_prune.language.axes import Axes, Elementwise, Reduction
from gp_prune.language.declarations import (
    UNIT_RULES,
    PrimitiveError,
    Shape,
    check_name,
    check_notation,
    check_operand_latex,
    check_phrase,
    check_shape,
    check_symbol,
    check_unit,
)
from gp_prune.language.record import NEEDS, LayerRecord
from gp_prune.language.user_file import keep_source, run_python_file

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.language.symbols import Notation, Scope


FAMILIES = "gp_prune.primitives"
"""The package whose modules are the built-in families."""


State = tuple["Tensor", ...]
"""What is known of a reduction after some of the samples."""


@dataclass(frozen=True)
class Merge:
    """How a reduction over all samples is put together from reductions over some of them.

    The result must not depend on how the samples were cut, up to rounding.

    Attributes:
        start: ``start(x, dims)`` gives what is to be known of some samples, in float64.
        join: ``join(state, state)`` gives what is known of both together.
        finish: ``finish(state)`` gives the value of the reduction.
    """

    start: Callable[[Tensor, tuple[int, ...]], State]
    join: Callable[[State, State], State]
    finish: Callable[[State], Tensor]


@dataclass(frozen=True, eq=False)
class Operand:
    """A named tensor of a layer; see :func:`operand` for the fields."""

    name: str
    axes: Axes
    meaning: str
    latex: str
    needs: frozenset[str]
    read: Callable[[LayerRecord], Tensor] = field(repr=False)
    searchable: bool = True
    nonnegative: bool = False
    source: str | None = None
    phrase: str = ""
    unit: str | None = None

    def write_latex(self, indices: Sequence[str] | None = None) -> str:
        """Return the LaTeX of this operand with indices, by default the letters of its axes."""
        return with_indices(self.latex, self.axes if indices is None else indices)


def with_indices(symbol: str, indices: Iterable[str]) -> str:
    """Return a LaTeX symbol with its indices, in braces where it has a subscript already.

    In a template ``#`` stands for all indices, ``#1`` for the first one and so on.
    """
    each = list(indices)
    if "#" in symbol:
        return re.sub(
            "#([1-9]?)", lambda m: each[int(m[1]) - 1] if m[1] else ",".join(each), symbol
        )
    if not each:
        return symbol
    return (
        f"{{{symbol}}}_{{{','.join(each)}}}" if "_" in symbol else f"{symbol}_{{{','.join(each)}}}"
    )


@dataclass(frozen=True, eq=False)
class Operator:
    """A function of values with axes; see :func:`operator` for the fields."""

    name: str
    shape: Shape
    meaning: str
    compute: Callable[..., Tensor] = field(repr=False)
    symbol: Callable[..., Any] = field(repr=False)
    laws: frozenset[str] = frozenset()
    cost: float = 1.0
    latex: str = ""
    definition: str | None = None
    infix: str = ""
    merge: Merge | None = None
    growth: float = 0.0
    by_channel: bool = False
    phrase: str = ""
    note: str = ""
    unit: str | None = None

    def apply(self, values: Sequence[Tensor], types: Sequence[Axes], over: Axes) -> Tensor:
        """Compute this operator on tensors of the given types, aligned by axis name.

        Bracketed axes in ``over`` become dimensions; the result has its dimensions in canonical
        order. The types must be ones that ``shape.result`` accepts.
        """
        if self.shape.bracketed:
            return self.compute(values[0], tuple(types[0].index(letter) for letter in over))
        if isinstance(self.shape, Elementwise):
            result = Axes("".join(set().union(*types)))
            values = [_align(v, axes, result) for v, axes in zip(values, types, strict=True)]
        value = self.compute(*values)
        # The layout follows the first argument, and later sums the layout, to the last bit.
        return value.contiguous() if "commutative" in self.laws else value

    def write(self, arguments: Sequence[Callable[[Scope], Any]], scope: Scope, over: Axes) -> Any:
        """Write this operator for arguments, as a sympy formula in ``scope``."""
        from gp_prune.language.symbols import Call  # sympy, which nothing that computes needs

        if isinstance(self.shape, Elementwise):
            return self.symbol(*(argument(scope) for argument in arguments))
        write = getattr(self.symbol, "write", self.symbol)
        return write(Call(arguments, scope, over))


def _align(value: Tensor, axes: Axes, to: Axes) -> Tensor:
    """Return a view with a dimension of length 1 for every axis of ``to`` that the value lacks."""
    if axes is to:
        return value
    lengths = dict(zip(axes, value.shape, strict=True))
    return value.reshape([lengths.get(letter, 1) for letter in to])


def operand(
    name: str,
    *,
    axes: str | None = None,
    meaning: str = "",
    latex: str | None = None,
    needs: Iterable[str] = (),
    searchable: bool = True,
    nonnegative: bool = False,
    source: str | None = None,
    phrase: str = "",
    unit: str | None = None,
) -> Callable[[Callable[[LayerRecord], Tensor]], Operand]:
    r"""Declare a tensor of a layer that formulas may use.

    The decorated function gets a :class:`~gp_prune.language.record.LayerRecord` and returns the
    float64 tensor, its dimensions in canonical axis order. These are the fields of the record by
    what must be in ``needs`` for them. Those without needs are attributes (``layer.weight``), the
    others are read by ``layer.require("inputs")``, which says what is missing.

    ====================  ======================================================================
    none                  weight (o, i, k); bias, gamma, beta (o); has_batch_norm; groups
    inputs                inputs (i, n, s); input_norm (i, k)
    outputs               mu, var (o); pre_activation, activation (o, n, s)
    labels                class_mean, class_var, rest_mean, rest_var (o, c); class_count,
                          rest_count (c)
    gradients             weight_grad (o, i, k); gamma_grad, beta_grad (o)
    noise                 noise (o, i, k)
    outgoing              outgoing (o, j); outgoing_grad with gradients, outgoing_fisher with
                          fisher, outgoing_sample_fisher with sample_fisher
    network               macs_freed, params_freed, channels, depth, stride, residual ()
    synflow               synflow_grad (o, i, k)
    fisher                fisher (o, i, k); filter_square, gamma_square, beta_square,
                          gamma_beta_product (o)
    sample_fisher         sample_fisher (o, i, k)
    hessian               hessian_grad (o, i, k)
    output_gradients      output_grad (o, n, s)
    second_moments        inverse_factor (i, k)
    centroids             class_map, rest_map (o, c, s); mean_map (o, s)
    kernels               kernel_class, kernel_rest, kernel_between (o, c)
    map_ranks             map_rank (o, n)
    map_spectra           map_nuclear (o, n)
    map_norms             nuclear_loss (o, n)
    ====================  ======================================================================

    What a record holds in ``values`` and ``coverage`` is for the engine alone.

    Args:
        name: the name in formulas.
        axes: axis letters of the tensor, one of :data:`gp_prune.language.axes.LEGAL_AXES`.
        meaning: one line for ``gp-prune list``.
        latex: the symbol without its indices; the name by default. Or a template in which ``#``
            stands for all indices, ``#1`` for the first one and so on, such as
            ``\frac{\partial L}{\partial W_{#}}``.
        needs: measurements it takes, keys of :data:`gp_prune.language.record.NEEDS`.
        searchable: whether a search may use it (pure noise may not).
        nonnegative: whether it is never below 0 on any layer; its root prints without bars.
        source: the field of the record that the operand is, where it is one and nothing else. A
            formula can then be evaluated while the data streams by; other operands that read
            activations or gradients get them of all samples at once, which takes memory.
        phrase: what it is called in words, one entry of it: ``"the weight"``.
        unit: its unit, such as ``"loss/weight"`` or ``"activation^2"``; empty for a plain number,
            None where it is not known.

    Raises:
        PrimitiveError: the declaration is not valid.
    """
    check_name(name, meaning)
    if axes is None:
        raise PrimitiveError(f"operand {name!r}: axes= is missing; give its letters, such as 'oik'")

    def declare(read: Callable[[LayerRecord], Tensor]) -> Operand:
        try:
            type_ = Axes(axes or "")
        except ValueError as error:
            raise PrimitiveError(f"operand {name!r}: {error}") from None
        if not type_.legal:
            raise PrimitiveError(f"operand {name!r}: axes {type_} are not on the legal list")
        unknown = sorted(set(needs) - set(NEEDS))
        if unknown:
            known = ", ".join(NEEDS)
            raise PrimitiveError(f"operand {name!r}: unknown need {unknown[0]!r}; use {known}")
        if source is not None and source not in LayerRecord.__dataclass_fields__:
            raise PrimitiveError(f"operand {name!r}: a layer record has no field {source!r}")
        check_operand_latex(latex or name, name, len(type_))
        check_phrase(f"operand {name!r}", phrase, ())
        check_unit(f"operand {name!r}", unit)
        declared = Operand(
            *(name, type_, meaning, latex or name, frozenset(needs), read),
            *(searchable, nonnegative, source, phrase, unit),
        )
        _check_values(declared, read)
        return declared

    return declare


def operator(
    name: str,
    *,
    shape: Shape | None = None,
    meaning: str = "",
    symbol: Callable[..., Any] | None = None,
    laws: Iterable[str] = (),
    cost: float = 1.0,
    latex: str = "",
    definition: str | None = None,
    infix: str = "",
    merge: Merge | None = None,
    growth: float = 0.0,
    by_channel: bool = False,
    phrase: str = "",
    note: str = "",
    unit: str | None = None,
) -> Callable[[Callable[..., Tensor]], Operator]:
    """Declare a function that formulas may apply.

    The decorated function computes on torch tensors: ``f(*tensors)`` for :class:`Elementwise`
    (already aligned for broadcasting) and :class:`Signature`, ``f(tensor, dims)`` for
    :class:`Reduction` and :class:`Normaliser`, where ``dims`` are the bracketed dimensions.

    Args:
        name: the name in formulas.
        shape: what it does to axes.
        meaning: one line for ``gp-prune list``.
        symbol: the same function in sympy: of the arguments for :class:`Elementwise`, of a
            :class:`~gp_prune.language.symbols.Call` for the others; or a class, a function of
            sympy (``sympy.erf``) or one derived from the bases in :mod:`gp_prune.language.symbols`.
        laws: exact laws that hold, keys of :data:`LAWS`.
        cost: time relative to an addition of the same size.
        latex: the LaTeX of ``symbol`` where that is a function of sympy; sympy's by default. A
            class of your own says it itself.
        definition: LaTeX of what that function means; by default what ``meaning`` says.
        infix: its sign in the infix form, one of :data:`gp_prune.language.infix.SIGNS`.
        merge: for a :class:`Reduction`: how it is put together from parts of the samples. Without
            it, all samples are held in memory where a formula reduces over them.
        growth: for a :class:`Reduction` or :class:`Normaliser`: the power of the number of entries
            with which its value grows (1 for a sum, 0 for a mean). Where memory allows no more than
            a sample of the entries, the value is scaled up by it. For a :class:`Signature`, the
            power of the number of samples by which its first argument is then scaled up (0.5 for
            one of which it takes the scatter).
        by_channel: for a :class:`Signature` whose result has the axis o: whether a channel of the
            result depends on the same channel of the arguments alone, so that channels can be
            computed one after the other.
        phrase: what it is called in words, with a slot for each argument, ``{a}``, ``{b}`` and so
            on, and ``{axes}`` for the axes in brackets: ``"the median over {axes} of {a}"``; by
            default its name.
        note: a sentence that is printed once beside the words; of an operator that is not built in,
            the meaning by default.
        unit: the rule for the unit of its value, a key of :data:`UNIT_RULES`; not known by default.

    Raises:
        PrimitiveError: the declaration, or what an operator of a user's own computes, is not valid.
    """
    laws = frozenset(laws)
    check_name(name, meaning)
    check_shape(name, shape, laws)
    assert shape is not None
    check_symbol(name, shape, symbol)
    assert symbol is not None
    check_notation(name, shape, symbol, latex, definition)
    slots = ("axes",) * shape.bracketed + tuple("abcdef"[: shape.arity])
    check_phrase(f"operator {name!r}", phrase, slots)
    if unit is not None and unit not in UNIT_RULES:
        rules = ", ".join(UNIT_RULES)
        raise PrimitiveError(f"operator {name!r}: unknown rule of units {unit!r}; use {rules}")

    def declare(compute: Callable[..., Tensor]) -> Operator:
        if not (cost > 0):
            raise PrimitiveError(f"operator {name!r}: cost {cost} is not positive")
        if merge is not None and not isinstance(shape, Reduction):
            raise PrimitiveError(f"operator {name!r}: merge= is for reductions")
        declared = Operator(
            *(name, shape, meaning, compute, symbol, laws, cost, latex, definition),
            *(infix, merge, growth, by_channel, phrase, note, unit),
        )
        _check_values(declared, compute)
        return declared

    return declare


def _check_values(declared: Operand | Operator, function: Callable[..., Any]) -> None:
    """Compute with a user's primitive at once.

    The built-in families are put through the same checks by the test suite instead, so that
    printing a formula does not have to load torch.
    """
    module = getattr(function, "__module__", None) or ""
    if not module.startswith(FAMILIES):
        from gp_prune.language.checks import check

        check(declared)


class PrimitiveSet:
    """Operands and operators by name; immutable.

    Args:
        primitives: what :func:`operand` and :func:`operator` returned.

    Raises:
        PrimitiveError: two operands, or two operators, share a name. (An operator is always
            followed by its arguments, so it may have the name of an operand.)
    """

    def __init__(self, primitives: Iterable[Operand | Operator]) -> None:
        self.operands: dict[str, Operand] = {}
        self.operators: dict[str, Operator] = {}
        for primitive in sorted(primitives, key=lambda primitive: primitive.name):
            table: Any = self.operands if isinstance(primitive, Operand) else self.operators
            if primitive.name in table:
                word = type(primitive).__name__.lower()
                places = " and ".join(map(_place, (table[primitive.name], primitive)))
                raise PrimitiveError(
                    f"{word} {primitive.name!r} is declared twice, {places}; rename one of them"
                )
            table[primitive.name] = primitive

    def __iter__(self) -> Iterator[Operand | Operator]:
        yield from self.operands.values()
        yield from self.operators.values()

    def extended(self, more: Iterable[Operand | Operator]) -> PrimitiveSet:
        """Return a set of these and more primitives."""
        return PrimitiveSet([*self, *more])


def _place(primitive: Operand | Operator) -> str:
    """Return where a primitive is declared, for a message."""
    function = primitive.read if isinstance(primitive, Operand) else primitive.compute
    module = getattr(function, "__module__", None) or ""
    if module.startswith(FAMILIES):
        return f"built in as {primitive.meaning!r}"
    code = getattr(function, "__code__", None)
    return f"in {code.co_filename!r}" if code else f"as {primitive.meaning!r}"


def declared_in(module: ModuleType) -> list[Operand | Operator]:
    """Return the primitives that a module declares, in the order of the file, each once.

    They are values of the module or elements of its lists and tuples.
    """
    values = [
        element
        for value in vars(module).values()
        for element in (value if isinstance(value, list | tuple) else [value])
    ]
    primitives = [value for value in values if isinstance(value, Operand | Operator)]
    return list({id(primitive): primitive for primitive in primitives}.values())


@cache
def _families() -> list[ModuleType]:
    package = importlib.import_module(FAMILIES)
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{FAMILIES}.{name}") for name in names]
    for module in modules:
        keep_source(module)  # an update during a run must not change what its metrics declare
    return modules


@cache
def builtin_primitives() -> PrimitiveSet:
    """Return all primitives of the built-in families."""
    return PrimitiveSet(primitive for module in _families() for primitive in declared_in(module))


@cache
def builtin_functions() -> dict[str, type[Notation]]:
    """Return the sympy functions of the built-in families by name."""
    from gp_prune.language.symbols import Notation

    return {
        name: value
        for module in _families()
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Notation)
        and value.__module__ == module.__name__
    }


def primitives_from_file(path: str | Path) -> list[Operand | Operator]:
    """Run a user's Python file as a module and return its primitives.

    Raises:
        PrimitiveError: the file is missing, does not run, or declares no primitive.
    """
    path = Path(path)
    name = f"gp_prune_user_primitives_{path.stem}"
    module = run_python_file(path, name, "primitive file", PrimitiveError)
    primitives = declared_in(module)
    if not primitives:
        del sys.modules[name]
        raise PrimitiveError(
            f"primitive file {str(path)!r}: it declares no primitive; use @operand or @operator"
        )
    return primitives


def primitive_set(*files: str | Path) -> PrimitiveSet:
    """Return the built-in primitives and those of users' files."""
    base = builtin_primitives()
    more = [primitive for file in files for primitive in primitives_from_file(file)]
    return base.extended(more) if more else base
