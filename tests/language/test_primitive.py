"""Declarations of operands and operators, and sets of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from gp_prune.language.axes import (
    LEGAL_AXES,
    Axes,
    Elementwise,
    Normaliser,
    Reduction,
    Signature,
)
from gp_prune.language.declarations import PrimitiveError, Shape
from gp_prune.language.primitive import (
    Operand,
    Operator,
    PrimitiveSet,
    builtin_primitives,
    operand,
    operator,
)
from gp_prune.language.record import NEEDS, LayerRecord

UNARY = Elementwise(1)


def bias(layer: LayerRecord) -> Tensor:
    return layer.bias


def an_operand(
    name: str = "mine", axes: str = "o", meaning: str = "bias", needs: Iterable[str] = ()
) -> Operand:
    return operand(name, axes=axes, meaning=meaning, needs=needs)(bias)


def an_operator(name: str = "twice", shape: Shape = UNARY, **fields: Any) -> Operator:
    fields = {"meaning": "2 x", "symbol": lambda x: 2 * x, **fields}
    return operator(name, shape=shape, **fields)(lambda x: 2 * x)


@pytest.mark.parametrize("name", ["", "2x", "a b", "a-b", "_x", "sum[o]", "a\n", "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(PrimitiveError, match="is not valid; use letters, digits and _"):
        an_operand(name)
    with pytest.raises(PrimitiveError, match="is not valid; use letters, digits and _"):
        an_operator(name)


def test_an_operand_needs_a_meaning() -> None:
    with pytest.raises(PrimitiveError, match="'mine': say in one line what it means"):
        an_operand(meaning=" ")


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("ox", "operand 'mine': unknown axis 'x'"),
        ("oikn", r"operand 'mine': axes \{o,i,k,n\} are not on the legal list"),
        ("oo", "operand 'mine': axis named twice"),
    ],
)
def test_illegal_axes(axes: str, message: str) -> None:
    with pytest.raises(PrimitiveError, match=message):
        an_operand(axes=axes)


def test_every_field_of_a_record_is_documented_where_operands_are_declared() -> None:
    words = set(re.findall(r"\w+", operand.__doc__ or ""))
    assert {field.name for field in fields(LayerRecord)} | set(NEEDS) <= words


def test_unknown_need() -> None:
    with pytest.raises(PrimitiveError, match=r"unknown need 'miracles'; use inputs, .*noise"):
        an_operand(needs=["outputs", "miracles"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"laws": ["odd"]}, "unknown law 'odd'; use commutative, "),
        ({"laws": ["commutative"]}, "the law 'commutative', .*, does not fit 1 argument"),
        (
            {"shape": Elementwise(2), "laws": ["even"]},
            "the law 'even', .*, does not fit 2 arguments",
        ),
        ({"shape": Elementwise(3), "laws": ["commutative"]}, "does not fit 3 arguments"),
        ({"shape": Reduction(), "laws": ["nonnegative"]}, "laws are for elementwise operators"),
        ({"shape": Elementwise(0)}, "at least one argument"),
        ({"shape": Signature(to="o")}, "at least one argument"),
        ({"shape": Signature("oik", to="oikn")}, r"axes \{o,i,k,n\} are not on the legal list"),
        ({"shape": Signature("on", "kn", to="o")}, r"axes \{k,n\} are not on the legal list"),
        ({"cost": 0.0}, "cost 0.0 is not positive"),
        ({"cost": float("nan")}, "cost nan is not positive"),
    ],
)
def test_bad_operators(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PrimitiveError, match=f"operator 'twice': .*{message}"):
        an_operator(**fields)


def test_duplicate_names() -> None:
    with pytest.raises(
        PrimitiveError, match=r"operator 'twice' is declared twice, in .* and in .*; rename"
    ):
        PrimitiveSet([an_operator(), an_operator()])
    with pytest.raises(
        PrimitiveError, match=r"operand 'W' is declared twice, built in .* and in .*; rename"
    ):
        builtin_primitives().extended([an_operand("W")])


def test_an_operator_may_have_the_name_of_an_operand() -> None:
    both = PrimitiveSet([an_operand("same"), an_operator("same")])
    assert both.operands["same"].axes is Axes("o")
    assert both.operators["same"].shape.arity == 1


def test_sets_are_ordered_and_complete() -> None:
    base = builtin_primitives()
    assert list(base.operands) == sorted(base.operands)
    assert list(base.operators) == sorted(base.operators)
    more = base.extended([an_operator()])
    assert len(list(more)) == len(list(base)) + 1
    assert "twice" not in base.operators


@pytest.mark.parametrize("axes", LEGAL_AXES, ids=str)
def test_shapes_keep_the_axes_law(axes: Axes) -> None:
    assert Elementwise(1).result(Axes(""), [axes]) is axes
    for over in LEGAL_AXES:
        present = bool(over) and over.issubset(axes)
        assert Normaliser().result(over, [axes]) is (axes if present else None)
        rest = axes - over
        reduced = rest if present and rest.legal else None
        assert Reduction().result(over, [axes]) is reduced


def test_signature_accepts_its_own_types_alone() -> None:
    shape = Signature("oik", "o", to="op")
    assert shape.arity == 2
    assert shape.result(Axes(""), [Axes("oik"), Axes("o")]) is Axes("op")
    assert shape.result(Axes(""), [Axes("o"), Axes("oik")]) is None
    assert shape == Signature("oki", "o", to="po")


def test_apply_aligns_by_name() -> None:
    add = builtin_primitives().operators["add"]
    a = torch.arange(6.0).reshape(3, 2)  # (i, k)
    b = torch.arange(12.0).reshape(4, 3)  # (o, i)
    value = add.apply([a, b], [Axes("ik"), Axes("oi")], Axes(""))
    assert torch.equal(value, a[None, :, :] + b[:, :, None])


def test_apply_reduces_by_name() -> None:
    total = builtin_primitives().operators["sum"]
    x = torch.arange(24.0).reshape(2, 3, 4)  # (o, i, k)
    assert torch.equal(total.apply([x], [Axes("oik")], Axes("ok")), x.sum(2).sum(0))


@pytest.mark.parametrize("shape", [Elementwise, Reduction, Normaliser])
def test_a_class_in_place_of_a_shape_is_refused(shape: Any) -> None:
    with pytest.raises(
        PrimitiveError, match=rf"operator 'twice': shape= is the class {shape.__name__}; "
    ):
        operator("twice", shape=shape, meaning="2 x", symbol=lambda x: 2 * x)(lambda x: 2 * x)
