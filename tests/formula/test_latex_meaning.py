r"""A printed formula means what runs: its LaTeX, read as a person reads it, gives the same numbers.

The reader below knows mathematics alone: products by juxtaposition, ``\sum`` and named operators
that reach to the end of their product, fractions, roots, bars, terms that are named below the
formula, and what the sentences below it say of quotients, logarithms and exponents.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gp_prune.formula.latex import Printed, print_latex
from gp_prune.language.axes import AXIS_MEANING, CHANNEL, WEIGHT, Axes
from gp_prune.language.checks import SIZES
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import Operand, builtin_primitives
from gp_prune.language.record import LayerRecord, synthetic_layer
from gp_prune.metric.metric import Metric, bundled_metrics

PRIMITIVES = builtin_primitives()
Array = NDArray[np.float64]


def entropy(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """Of a histogram of 31 equal bins from the smallest value to the largest."""
    moved = np.moveaxis(x, axis, range(len(axis)))
    columns = moved.reshape(np.prod(moved.shape[: len(axis)]), -1)
    found = np.full(columns.shape[1], np.nan)
    for place, values in enumerate(columns.T):
        if np.isfinite(np.ptp(values)):
            places = (values - values.min()) / (np.ptp(values) or 1) * 31
            bins = np.minimum(np.floor(places), 30)
            shares = np.array([np.mean(bins == number) for number in range(31)])
            found[place] = -np.sum(shares * np.log(np.where(shares, shares, 1)))
    return np.expand_dims(found.reshape(moved.shape[len(axis) :]), tuple(sorted(axis)))


REDUCTIONS: dict[str, Callable[..., Array]] = {
    r"\sum": np.sum,
    r"\max": np.max,
    r"\min": np.min,
    r"\operatorname{var}": np.var,
    r"\operatorname{std}": np.std,
    r"\operatorname{entropy}": entropy,
}
DOTS = "".join(AXIS_MEANING)
"""The dot of each axis has a dimension of its own."""


def divided(a: Array, b: Array) -> Array:
    allowed = np.abs(b) > 1e-12
    return np.where(allowed, a / np.where(allowed, b, 1.0), 0.0)


def plain_quotient(a: Array, b: Array) -> Array:
    return a / b


INDEX = r"(?:[a-z]'*|\\cdot)"


def pattern(operand: Operand) -> re.Pattern[str]:
    """How an operand is written: a group for each index, or one group ``all`` with all of them."""
    template, seen = operand.latex.replace(" ", ""), set[str]()
    if "#" not in template and operand.axes:
        template = f"{{{template}}}_{{#}}" if "_" in template else f"{template}_{{#}}"

    def place(match: re.Match[str]) -> str:
        name = f"i{match[1]}" if match[1] else "all"
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>{INDEX}{'' if match[1] else f'(?:,{INDEX})*'})"

    pieces = re.split("(#[0-9]?)", template)
    return re.compile(
        "".join(
            place(m) if (m := re.fullmatch("#([0-9]?)", part)) else re.escape(part)
            for part in pieces
        )
    )


def root(operand: Operand) -> Operand:
    """The root of a variance, as it is written."""
    read = lambda layer: operand.read(layer).sqrt()  # noqa: E731
    return dataclasses.replace(operand, latex=operand.latex.replace("^{2}", "", 1), read=read)


OPERANDS = list(PRIMITIVES.operands.values())
OPERANDS += [root(operand) for operand in OPERANDS if operand.latex.startswith(r"\sigma^{2}")]
SYMBOLS = [(pattern(operand), operand) for operand in OPERANDS]


class Consumer:
    """Reads LaTeX. A value has one dimension per index name of the text, of length 1 if absent.

    Args:
        text: the formula.
        notes: the sentences below it.
        layer: where the values of the operands are from.
        terms: the values of the terms with a name, by the name.
    """

    def __init__(
        self,
        text: str,
        notes: tuple[str, ...],
        layer: LayerRecord,
        terms: dict[str, tuple[Axes, Array]],
    ) -> None:
        self.text = text.replace(" ", "").replace(r"\,", "")
        self.at = 0
        self.layer = layer
        self.matrix: list[str] = []  # the indices of the matrix that was read last
        self.terms = terms
        self.symbols = [pair for pair in SYMBOLS if pair[0].search(self.text)]
        small = r"quotient is 0 where the magnitude of its divisor is at most $10^{-12}$."
        protected = {f"A {small}", f"Each {small}"} & {*notes}
        self.divide = divided if protected else plain_quotient
        marked = r"A quotient marked $\dagger$ is 0 where the magnitude of its divisor is at most"
        self.may_be_marked = any(note.startswith(marked) for note in notes)
        self.floor = 1e-12 if any(note.startswith("The logarithm of a") for note in notes) else 0.0
        self.limit = 50.0 if "An exponent above 50 counts as 50." in notes else np.inf
        names = set(re.findall(r"(?<![A-Za-z\\])[a-z]'*(?=[,}])", self.text)) | {*"oikpc"}
        self.dimension = {name: place for place, name in enumerate(sorted(names))}
        self.dots = len(names)  # more dimensions, for the dots of a norm
        self.dimension |= {f"{letter}\\cdot": self.dot(letter) for letter in DOTS}
        self.dimension[r"\cdot"] = self.dot("s")  # of a name: the one dot of a ridge form

    def dot(self, letter: str) -> int:
        return self.dots + DOTS.index(letter)

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
        return np.full((1,) * (self.dots + len(DOTS)), float(value))

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
        assert not self.follows(r"^{\dagger}"), "a mark stands where no quotient is"
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
            letter = "s" if index == r"\cdot" else index[0]
            shape[self.dimension[index]] = SIZES[letter]
        return np.broadcast_to(value, shape)

    def braced(self) -> Array:
        self.need("{")
        value = self.sum_of_terms()
        self.need("}")
        return value

    def atom(self) -> Array:
        if self.operand_follows():
            return self.operand()
        if self.take(r"\frac"):
            above, below = self.braced(), self.braced()
            if self.take(r"^{\dagger}"):
                assert self.may_be_marked
                return divided(above, below)
            return self.divide(above, below)
        if self.take(r"\sqrt"):
            degree = float(self.match(r"\[[0-9]+\]")[1:-1]) if self.follows("[") else 2.0
            return self.braced() ** (1 / degree)
        if self.take(r"\left("):
            value = self.sum_of_terms()
            self.need(r"\right)")
            if self.follows("_{"):
                self.matrix = self.indices()
            return value
        if self.take(r"\left|"):
            value = np.abs(self.sum_of_terms())
            self.need(r"\right|")
            return value
        if self.take(r"\left["):
            return self.bracket()
        if self.take(r"\left\lVert"):
            return self.nuclear_or_ridge()
        if self.take("N_{"):
            length = SIZES[self.match("[a-z]")]
            self.need("}")
            return self.number(length)
        for name, function in FUNCTIONS.items():
            if self.take(name):
                return self.function(function)
        if self.take(r"\log"):
            assert self.follows(r"\left(", r"\left|")
            return np.asarray(np.log(np.maximum(self.atom(), self.floor)))
        if self.take(r"\exp"):
            assert self.follows(r"\left(")
            return np.asarray(np.exp(np.minimum(self.atom(), self.limit)))
        if self.follows(*"0123456789."):
            return self.number(float(self.match(r"[0-9.]+")))
        return self.operand_or_norm()

    def nuclear_or_ridge(self) -> Array:
        value = self.sum_of_terms()
        if not self.take(r"\right\rVert_{*}"):
            return self.ridge_form(value)
        bound, self.matrix = self.matrix or [r"i\cdot", r"k\cdot"], []
        places = self.dimension[bound[0]], self.dimension[bound[1]]
        matrix = np.moveaxis(self.spread(value, bound), places, (-2, -1))
        finite = np.asarray(np.isfinite(matrix).all(axis=(-2, -1)))
        shown = np.asarray(np.where(finite[..., None, None], matrix, 0.0))
        values = np.linalg.svd(shown, compute_uv=False)
        norm = np.where(finite, values.sum(axis=-1), np.nan)
        return np.moveaxis(norm[..., None, None], (-2, -1), places)

    def ridge_form(self, vector: Array) -> Array:
        vector = self.spread(vector, [r"\cdot"])
        self.need(r"\right\rVert^{2}_{\left(\operatorname{scatter}_{")
        sample = self.match("n'*")
        self.need(r"}\left(")
        samples = self.spread(self.sum_of_terms(), [sample, r"\cdot"])
        self.need(r"\right)+0.0001I\right)^{-1}}")
        places = self.dimension[sample], self.dot("s")
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
        self.need(r"\lVert")
        value = -self.operand() if self.take("-") else self.operand()
        while self.follows("+", "-"):
            value = value + self.operand() if self.take("+") else value - self.after_minus()
        self.need(r"\rVert_2")
        dims = tuple(range(self.dots, self.dots + len(DOTS)))
        return np.asarray(np.sqrt((value**2).sum(axis=dims, keepdims=True)))

    def after_minus(self) -> Array:
        self.need("-")
        return self.operand()

    def operand_follows(self) -> bool:
        return self.read_operand() is not None or self.follows(*(f"{x}_{{" for x in self.terms))

    def read_operand(self) -> tuple[Operand, list[str], int] | None:
        """The operand that follows, its indices, and where it ends."""
        for written, operand in self.symbols:
            if match := written.match(self.text, self.at):
                groups = match.groupdict()
                names = [name for name in groups.get("all", "").split(",") if name]
                if "all" not in groups:
                    names = [groups[f"i{n + 1}"] for n in range(len(operand.axes))]
                if len(names) == len(operand.axes) and all(map(fits, names, operand.axes)):
                    return operand, names, match.end()
        return None

    def operand(self) -> Array:
        found = self.read_operand()
        if found:
            operand, names, self.at = found
            axes, array = operand.axes, operand.read(self.layer).numpy()
        else:
            name = self.match("[a-z](?=_)")
            names = self.indices()
            axes, array = self.terms[name]
        places = [
            self.dot(letter) if name == r"\cdot" else self.dimension[name]
            for name, letter in zip(names, axes, strict=True)
        ]
        array = array.transpose(np.argsort(places))
        shape = [1] * (self.dots + len(DOTS))
        for place, length in zip(sorted(places), array.shape, strict=True):
            shape[place] = length
        return np.asarray(array.reshape(shape))


def fits(index: str, axis: str) -> bool:
    """Whether an index may run over an axis; one letter stands for operands of several axes."""
    return index == r"\cdot" or index.rstrip("'") == axis or (index.rstrip("'"), axis) == ("p", "o")


def tail_sum(x: Array, dims: tuple[int, ...]) -> Array:
    rows = np.moveaxis(x, dims, range(len(dims)))
    flat = rows.reshape(-1, *rows.shape[len(dims) :])
    sums = np.stack([np.where(flat >= one, flat, 0.0).sum(axis=0) for one in flat])
    return np.moveaxis(sums.reshape(rows.shape), range(len(dims)), dims)


FUNCTIONS: dict[str, Callable[..., Array]] = {
    r"\tanh": np.tanh,
    r"\max": lambda *values: reduce(np.maximum, values),
    r"\min": lambda *values: reduce(np.minimum, values),
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


def read(printed: Printed, layer: LayerRecord, axes: Axes) -> Array:
    """The values of a formula; its terms are named before they are used, so they are read first."""
    terms: dict[str, tuple[Axes, Array]] = {}
    with np.errstate(all="ignore"):
        for equation in reversed(printed.where):
            sign, _, text = equation.partition(" = ")
            letters = Axes(re.sub("[^a-z]", "", sign[1:]))
            value = Consumer(text, printed.notes, layer, terms).read(letters)
            terms[sign[0]] = letters, value
        return Consumer(printed.formula, printed.notes, layer, terms).read(axes)


def exact(tree: Expression, name_terms: bool = True) -> Printed:
    return print_latex(tree, PRIMITIVES, digits=None, name_terms=name_terms)


@pytest.mark.parametrize("name", sorted(bundled_metrics()))
def test_bundled_metrics(name: str) -> None:
    metric = Metric.load(name)
    printed = print_latex(metric.expression, PRIMITIVES)
    found = read(printed, synthetic_layer(), metric.expression.axes)
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
        "nuclear_norm(sub(W, mul(Xn, sum[k](W))))",
        "mul(2, histogram_entropy[i,k](add(W, sqrt(b))))",
        "add(div(l2[i,k](mul(W, G)), b), div(b, l2[i,k](mul(W, G))))",
        "mul(log(sub(b, gamma)), add(log(var), log(add(square(b), 1))))",
        "add(exp(mul(100, b)), exp(neg(abs(b))))",
        "sum[c](div(muQ, add(kQQ, mul(nQ, sum[s](mul(mQ, mA))))))",
        "square(min_max[o](z_score[o](by_sum[o](tail_sum[o](by_max[o](l1[i,k](W)))))))",
    ],
)
def test_forms_that_need_care(text: str) -> None:
    tree = parse(text, PRIMITIVES)
    for name_terms in (True, False):
        found = read(exact(tree, name_terms), synthetic_layer(), tree.axes)
        scores = evaluate(tree, synthetic_layer()).numpy()
        np.testing.assert_allclose(found, scores, rtol=1e-9)


@pytest.mark.many(1, 16)
def test_random_trees(
    many: int,
    random_trees: Callable[..., list[Expression]],
    tree_types: tuple[Axes, ...],
    differ: Callable[[Any, Any, float], bool],
    hangs_on_rounding: Callable[[Expression], bool],
) -> None:
    layer = synthetic_layer()
    count = 0
    apart = []
    for axes in tree_types:
        each = many * (7 if axes in (CHANNEL, WEIGHT) else 2)
        for tree in random_trees(axes, each, seed=81) + random_trees(axes, many, 82, 4, 8):
            count += 1
            found = read(exact(tree), layer, axes)
            if differ(evaluate(tree, layer), found, 1e-4):
                apart.append(tree)
    assert [str(tree) for tree in apart if not hangs_on_rounding(tree)] == []
    assert len(apart) < 0.05 * count
    assert count >= 60 * many
