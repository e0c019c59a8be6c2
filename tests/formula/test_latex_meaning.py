r"""A printed formula means what runs: its LaTeX, read as a person reads it, gives the same numbers.

The reader below knows mathematics alone: products by juxtaposition, ``\sum`` and named operators
that reach to the end of their product, fractions, roots, bars, and the protected forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gp_prune.formula.latex import latex
from gp_prune.language.axes import CHANNEL, WEIGHT, Axes
from gp_prune.language.checks import SIZES
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import Operand, builtin_primitives
from gp_prune.language.record import LayerRecord, synthetic_layer
from gp_prune.metric.metric import Metric, bundled_metrics

PRIMITIVES = builtin_primitives()
SYMBOLS = sorted(PRIMITIVES.operands.values(), key=lambda operand: -len(operand.latex))
Array = NDArray[np.float64]

REDUCTIONS: dict[str, Callable[..., Array]] = {
    r"\sum": np.sum,
    r"\max": np.max,
    r"\min": np.min,
    r"\operatorname{var}": np.var,
    r"\operatorname{std}": np.std,
}


def divided(a: Array, b: Array) -> Array:
    allowed = np.abs(b) > 1e-12
    return np.where(allowed, a / np.where(allowed, b, 1.0), 0.0)


class Consumer:
    """Reads LaTeX. A value has one dimension per index name of the text, of length 1 if absent."""

    def __init__(self, text: str, layer: LayerRecord) -> None:
        self.text = text.replace(" ", "")
        self.at = 0
        self.layer = layer
        names = set(re.findall(r"(?<![A-Za-z\\])[a-z]'*(?=[,}])", self.text)) | {"o", "i", "k", "p"}
        self.dimension = {name: place for place, name in enumerate(sorted(names))}
        self.dots = len(names)  # three more dimensions, for the dots of a norm
        self.dimension[r"\cdot"] = self.dots  # of a name: the one dot of a ridge form

    def read(self, axes: Axes) -> Array:
        value = self.sum_of_terms()
        assert self.at == len(self.text), self.text[self.at :]
        kept = [self.dimension[letter] for letter in axes if letter in self.dimension]
        free = [place for place in range(value.ndim) if place not in kept]
        assert all(value.shape[place] == 1 for place in free), "an index is free that should not be"
        value = value.squeeze(tuple(free))
        order = sorted(range(len(kept)), key=lambda place: kept[place])
        value = value.transpose([order.index(place) for place in range(len(kept))])
        letters = [letter for letter in axes if letter in self.dimension]
        full = [SIZES[letter] for letter in axes]
        shape = [value.shape[letters.index(a)] if a in letters else 1 for a in axes]
        return np.broadcast_to(value.reshape(shape), full)

    def follows(self, *marks: str) -> bool:
        return self.text.startswith(marks, self.at)

    def take(self, mark: str) -> bool:
        if not self.follows(mark):
            return False
        self.at += len(mark)
        return True

    def need(self, mark: str) -> None:
        assert self.take(mark), f"expected {mark} at {self.text[self.at : self.at + 40]}"

    def number(self, value: float) -> Array:
        return np.full((1,) * (self.dots + 3), float(value))

    def match(self, pattern: str) -> str:
        found = re.compile(pattern).match(self.text, self.at)
        assert found, f"expected {pattern} at {self.text[self.at : self.at + 40]}"
        self.at = found.end()
        return found[0]

    def sum_of_terms(self) -> Array:
        total = -self.product() if self.take("-") else self.product()
        while self.follows("+", "-"):
            total = total + (self.product() if self.take("+") else self.negated())
        return total

    def negated(self) -> Array:
        self.need("-")
        return -self.product()

    def ends(self) -> bool:
        marks = ("+", "-", "}", ",", r"\right", r"\rVert", r"\neq", r"\geq")
        return self.at == len(self.text) or self.follows(*marks)

    def product(self) -> Array:
        value = self.factor()
        while not self.ends():
            self.take(r"\cdot")
            value = value * self.factor()
        return value

    def factor(self) -> Array:
        reduction = next((name for name in REDUCTIONS if self.follows(name + "_")), None)
        if reduction or self.follows(r"\operatorname{medoid}"):
            return self.reduction(reduction)
        value = self.atom()
        if self.take("^{"):
            exponent = self.sum_of_terms()
            self.need("}")
            value = np.power(value, exponent)
        return value

    def indices(self) -> list[str]:
        self.need("_{")
        names = self.match(r"(?:[a-z',]|\\cdot)+").split(",")
        self.need("}")
        return names

    def reduction(self, name: str | None) -> Array:
        self.need(name or r"\operatorname{medoid}")
        bound = self.indices()
        body = self.spread(self.product(), bound)
        dims = tuple(self.dimension[index] for index in bound)
        if name:
            return np.asarray(REDUCTIONS[name](body, axis=dims, keepdims=True))
        slices = np.moveaxis(body, dims[0], 0)
        apart = [[np.sqrt(((a - b) ** 2).sum()) for b in slices] for a in slices]
        return np.expand_dims(slices[int(np.argmin(np.sum(apart, axis=1)))], dims[0])

    def spread(self, value: Array, indices: list[str]) -> Array:
        shape = list(value.shape)
        for index in indices:
            letter = "s" if index == r"\cdot" else index.rstrip("'")
            shape[self.dimension[index]] = SIZES[letter]
        return np.broadcast_to(value, shape)

    def braced(self) -> Array:
        self.need("{")
        value = self.sum_of_terms()
        self.need("}")
        return value

    def atom(self) -> Array:
        if self.take(r"\frac"):
            above, below = self.braced(), self.braced()
            return divided(above, below) if self.take(r"_{\!\epsilon}") else above / below
        if self.take(r"\sqrt"):
            degree = float(self.match(r"\[[0-9]+\]")[1:-1]) if self.follows("[") else 2.0
            return self.braced() ** (1 / degree)
        if self.take(r"\left("):
            value = self.sum_of_terms()
            self.need(r"\right)")
            return value
        if self.take(r"\left|"):
            value = np.abs(self.sum_of_terms())
            self.need(r"\right|")
            return value
        if self.take(r"\left["):
            return self.bracket()
        if self.take(r"\left\lVert"):
            return self.ridge_form()
        if self.take("N_{"):
            length = SIZES[self.match("[a-z]")]
            self.need("}")
            return self.number(length)
        for name, function in FUNCTIONS.items():
            if self.take(name):
                return self.function(function)
        if self.follows(*"0123456789."):
            return self.number(float(self.match(r"[0-9.]+")))
        return self.operand_or_norm()

    def ridge_form(self) -> Array:
        vector = self.spread(self.sum_of_terms(), [r"\cdot"])
        self.need(r"\right\rVert^{2}_{\left(\operatorname{scatter}_{")
        sample = self.match("n'*")
        self.need(r"}\left(")
        samples = self.spread(self.sum_of_terms(), [sample, r"\cdot"])
        self.need(r"\right)+0.0001I\right)^{-1}}")
        places = self.dimension[sample], self.dots
        row = np.moveaxis(vector, places, (-2, -1))  # (..., 1, s)
        maps = np.moveaxis(samples, places, (-2, -1))  # (..., n, s)
        centred = maps - maps.mean(axis=-2, keepdims=True)
        matrix = np.swapaxes(centred, -1, -2) @ centred + 1e-4 * np.eye(SIZES["s"])
        form = row @ np.linalg.solve(matrix, np.swapaxes(row, -1, -2))
        return np.moveaxis(form, (-2, -1), places)

    def bracket(self) -> Array:
        left = self.sum_of_terms()
        relation = np.not_equal if self.take(r"\neq") else np.greater_equal
        if relation is np.greater_equal:
            self.need(r"\geq")
        value = relation(left, self.sum_of_terms()).astype(float)
        self.need(r"\right]")
        return value

    def function(self, function: Callable[..., Array]) -> Array:
        along = [self.indices()] if self.follows("_{") else []
        exponent = self.number(1)
        if self.take("^"):
            exponent = self.braced()
        self.need(r"\left(")
        arguments = [self.sum_of_terms()]
        while self.take(","):
            arguments.append(self.sum_of_terms())
        self.need(r"\right)")
        if along:
            body = self.spread(arguments[0], along[0])
            dims = tuple(self.dimension[index] for index in along[0])
            return np.power(function(body, dims), exponent)
        return np.power(function(*arguments), exponent)

    def operand_or_norm(self) -> Array:
        if self.symbol() is not None:
            return self.operand()
        self.need(r"\lVert")
        value = -self.operand() if self.take("-") else self.operand()
        while self.follows("+", "-"):
            value = value + self.operand() if self.take("+") else value - self.after_minus()
        self.need(r"\rVert_2")
        dims = tuple(range(self.dots, self.dots + 3))
        return np.asarray(np.sqrt((value**2).sum(axis=dims, keepdims=True)))

    def after_minus(self) -> Array:
        self.need("-")
        return self.operand()

    def symbol(self) -> tuple[Operand, str] | None:
        """The operand that follows, and how it is written."""
        for operand in SYMBOLS:
            plain = operand.latex.replace(" ", "")
            for written in (plain, f"{{{plain}}}"):
                if self.follows(written + "_{"):
                    return operand, written
        return None

    def operand(self) -> Array:
        found, written = self.symbol() or (None, "")
        assert found, f"expected an operand at {self.text[self.at : self.at + 40]}"
        self.need(written)
        names = self.indices()
        if len(names) != len(found.axes):  # two operands have the letter U
            found = next(o for o in SYMBOLS if o.latex == found.latex and len(o.axes) == len(names))
        places, dots = [], 0
        for name in names:
            dot = name == r"\cdot"
            places.append(self.dots + dots if dot else self.dimension[name])
            dots += dot
        array = found.read(self.layer).numpy()
        array = array.transpose(np.argsort(places))
        shape = [1] * (self.dots + 3)
        for place, length in zip(sorted(places), array.shape, strict=True):
            shape[place] = length
        return np.asarray(array.reshape(shape))


def tail_sum(x: Array, dims: tuple[int, ...]) -> Array:
    rows = np.moveaxis(x, dims, range(len(dims)))
    flat = rows.reshape(-1, *rows.shape[len(dims) :])
    sums = np.stack([np.where(flat >= one, flat, 0.0).sum(axis=0) for one in flat])
    return np.moveaxis(sums.reshape(rows.shape), range(len(dims)), dims)


FUNCTIONS: dict[str, Callable[..., Array]] = {
    r"\log_{\epsilon}": lambda x: np.log(np.abs(x) + 1e-12),
    r"\exp_{50}": lambda x: np.exp(np.minimum(x, 50.0)),
    r"\tanh": np.tanh,
    r"\max": np.maximum,
    r"\min": np.minimum,
    r"\operatorname{bysum}": lambda x, d: divided(x, np.abs(x).sum(axis=d, keepdims=True)),
    r"\operatorname{bymax}": lambda x, d: divided(x, np.abs(x).max(axis=d, keepdims=True)),
    r"\operatorname{minmax}": lambda x, d: divided(
        x - x.min(axis=d, keepdims=True),
        x.max(axis=d, keepdims=True) - x.min(axis=d, keepdims=True),
    ),
    r"\operatorname{zscore}": lambda x, d: divided(
        x - x.mean(axis=d, keepdims=True), x.std(axis=d, keepdims=True)
    ),
    r"\operatorname{tailsum}": tail_sum,
}


def read(text: str, layer: LayerRecord, axes: Axes) -> Array:
    with np.errstate(all="ignore"):
        return Consumer(text, layer).read(axes)


@pytest.mark.parametrize("name", sorted(bundled_metrics()))
def test_bundled_metrics(name: str) -> None:
    metric = Metric.load(name)
    found = read(metric.latex(), synthetic_layer(), metric.expression.axes)
    scores = metric.scores(synthetic_layer()).numpy()
    np.testing.assert_allclose(found, scores, rtol=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "mul(add(b, 1), mul(max[i,k](abs(W)), sum[i,k](G)))",
        "mul(max[i,k](abs(W)), sqrt(max[i,k](abs(W))))",
        "sub(b, mul(2.5, mean[i,k](W)))",
        "sqrt(mean[i,k](square(sub(W, mean[o](W)))))",
        "mul(-0.00003, square(div(mean[n,s](Z), std[n,s](Z))))",
        "max[i,k](neg(mul(W, Xn)))",
        "sum[p](pairwise_distance(mul(W, by_max[o](b))))",
        "sum[i,k](mul(W, medoid(G)))",
        "square(min_max[o](z_score[o](by_sum[o](tail_sum[o](by_max[o](l1[i,k](W)))))))",
    ],
)
def test_forms_that_need_care(text: str) -> None:
    tree = parse(text, PRIMITIVES)
    found = read(latex(tree, PRIMITIVES), synthetic_layer(), tree.axes)
    scores = evaluate(tree, synthetic_layer()).numpy()
    np.testing.assert_allclose(found, scores, rtol=1e-9)


def test_random_trees(
    random_trees: Callable[..., list[Expression]],
    tree_types: tuple[Axes, ...],
    differ: Callable[[Any, Any, float], bool],
    hangs_on_rounding: Callable[[Expression], bool],
) -> None:
    layer = synthetic_layer()
    count = 0
    apart = []
    for axes in tree_types:
        many = 100 if axes in (CHANNEL, WEIGHT) else 20
        for tree in random_trees(axes, many, seed=81) + random_trees(axes, 15, 82, 4, 8):
            count += 1
            found = read(latex(tree, PRIMITIVES), layer, axes)
            if differ(evaluate(tree, layer), found, 1e-4):
                apart.append(tree)
    assert [str(tree) for tree in apart if not hangs_on_rounding(tree)] == []
    assert len(apart) < 0.05 * count
    assert count >= 500
