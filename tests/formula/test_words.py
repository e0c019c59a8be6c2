"""Formulas in words have one meaning, that of the tree; units follow from declarations."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import pytest

from gp_prune.errors import UserError
from gp_prune.formula.units import unit_of
from gp_prune.formula.words import Words, in_words
from gp_prune.language.axes import AXIS_WORDS, SCALAR, Axes, Elementwise
from gp_prune.language.expression import Expression, ExpressionError
from gp_prune.language.parser import parse
from gp_prune.language.primitive import Operand, Operator, builtin_primitives, operand, operator
from gp_prune.metric.metric import Metric, bundled_metrics

PRIMITIVES = builtin_primitives()
LEAVES = {f"{o.phrase} {o.name}": Expression.of(o) for o in PRIMITIVES.operands.values()}
LETTERS = {many: letter for letter, (_, many) in AXIS_WORDS.items()}


TOGETHER = {
    "the fourth power of ": "the square of ",
    "the sum of squares over ": "the l2 norm over ",
}
"""The square of something under one name."""


class Reader:
    """Finds every tree that words can mean, by the phrases of the vocabulary alone."""

    def __init__(self, words: Words) -> None:
        self.parts: dict[str, Expression] = {}
        for name, text in words.parts.items():
            self.parts[name] = self.only(text)

    def only(self, sentence: str) -> Expression:
        """The one tree of a sentence."""
        text = re.sub(r"^For .*?: (.*)\.$", r"\1", sentence)
        found = set(self.readings(text, at_root=True))
        assert len(found) == 1, (sentence, found)
        return found.pop()

    def readings(self, text: str, *, at_root: bool = False) -> Iterator[Expression]:
        if text in LEAVES:
            yield LEAVES[text]
        elif text in self.parts:
            yield self.parts[text]
        elif re.fullmatch(r"-?[0-9.]+(e[-+]?[0-9]+)?", text):
            yield Expression.constant(float(text))
        elif text.startswith("(") and closing(text) == len(text) - 1:
            yield from self.readings(text[1:-1])
        else:
            for together, inner in TOGETHER.items():
                if text.startswith(together):
                    for tree in self.readings(inner + text.removeprefix(together)):
                        yield Expression.apply(PRIMITIVES.operators["square"], tree)
            for head in PRIMITIVES.operators.values():
                yield from self.applied(text, head, at_root)

    def applied(self, text: str, head: Operator, at_root: bool) -> Iterator[Expression]:
        loose = at_root and head.phrase.startswith("{a}")
        template = head.phrase.replace("{a} ", "{a}, ", 1) if loose else head.phrase
        pieces = re.split(r"\{(\w+)\}", template)  # words, slot, words, slot, ..., words
        for filled in split(text, pieces[::2]):
            slots = dict(zip(pieces[1::2], filled, strict=True))
            over = axes_of(slots.pop("axes", ""))
            if over is None:
                continue
            for arguments in self.each(head, slots, loose, template):
                with contextlib.suppress(ExpressionError):
                    yield Expression.apply(head, *arguments, over=over)

    def each(
        self, head: Operator, slots: dict[str, str], loose: bool, template: str
    ) -> Iterator[tuple[Expression, ...]]:
        """All combinations of what the arguments can mean."""
        options = []
        for slot in sorted(slots):
            text = slots[slot]
            last = loose or template.endswith(f"{{{slot}}}")
            trees = set(self.readings(text, at_root=loose and slot == "a"))
            bracketed = text.startswith("(") and closing(text) == len(text) - 1
            if not bracketed:
                trees = {
                    tree
                    for tree in trees
                    if not tree.arguments
                    or text in self.parts
                    or (slot == "a" and tree.head is head)
                    or (last and isinstance(tree.head, Operator) and tree.head.phrase[:3] == "the")
                }
            options.append(trees)
        pairs = [(a,) for a in options[0]]
        combined: list[tuple[Expression, ...]] = [*pairs]
        for trees in options[1:]:
            combined = [(*some, tree) for some in combined for tree in trees]
        yield from combined


def closing(text: str) -> int:
    """The place of the bracket that closes the first one."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return place
    return -1


def split(text: str, words: list[str]) -> Iterator[list[str]]:
    """All ways to cut a text at these words, outside of brackets."""
    first, *rest = words
    if not text.startswith(first):
        return
    text = text[len(first) :]
    if not rest:
        if not text:
            yield []
        return
    depth = 0
    for place in range(len(text) + 1):
        if depth == 0 and place and text.startswith(rest[0], place):
            for others in split(text[place:], rest):
                yield [text[:place], *others]
        if place < len(text):
            depth += (text[place] == "(") - (text[place] == ")")


def axes_of(text: str) -> Axes | None:
    if not text:
        return SCALAR
    names = [name for part in text.split(", ") for name in part.split(" and ")]
    return Axes("".join(LETTERS[name] for name in names)) if set(names) <= set(LETTERS) else None


def check(tree: Expression) -> None:
    words = in_words(tree)
    assert Reader(words).only(words.sentence) == tree
    read = {node.name for node in tree.nodes() if isinstance(node.head, Operand)}
    assert set(words.operands) == read


@pytest.mark.parametrize("name", sorted(bundled_metrics()))
def test_the_words_of_bundled_metrics_have_one_meaning(name: str) -> None:
    check(Metric.load(name).expression)


@pytest.mark.many(3, 12)
def test_the_words_of_random_trees_have_one_meaning(
    random_trees: Callable[..., list[Expression]], tree_types: tuple[Axes, ...], many: int
) -> None:
    for axes in tree_types:
        for tree in random_trees(axes, many, seed=23) + random_trees(axes, many // 3, 24, 4, 8):
            check(tree)


NOTED = {
    "div(b, 2)": False,
    "div(b, add(var, 0.05))": False,
    "div(b, var)": True,
    "div(b, gamma)": True,
    "sqrt(var)": False,
    "sqrt(b)": True,
}


@pytest.mark.parametrize("text", NOTED)
def test_a_note_stands_where_it_says_something(text: str) -> None:
    assert bool(in_words(parse(text, PRIMITIVES)).notes) == NOTED[text]


def test_every_primitive_has_words_and_a_unit() -> None:
    for primitive in PRIMITIVES:
        assert primitive.phrase, primitive.name
        assert primitive.unit is not None, primitive.name


SENTENCES = {
    "flap": "For every channel: the variance over samples and positions of the activation A, times "
    "the sum over outgoing taps of the square of the outgoing weight V.",
    "mul(sum[i,k](W), b)": "For every channel: the sum over input channels and taps of the weight "
    "W, times the bias b.",
    "sum[i,k](mul(W, b))": "For every channel: the sum over input channels and taps of (the weight "
    "W times the bias b).",
    "add(add(b, beta), mu)": "For every channel: the bias b, plus the batch-norm shift beta, plus "
    "the batch-norm mean mu.",
    "maximum(maximum(b, beta), mu)": "For every channel: the larger of (the larger of the bias b "
    "and the batch-norm shift beta) and the batch-norm mean mu.",
}


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences(text: str) -> None:
    assert in_words(Metric.load(text).expression).sentence == SENTENCES[text]


def test_a_repeated_term_is_said_once() -> None:
    words = in_words(parse("div(mean[i,k](abs(W)), max[o](mean[i,k](abs(W))))", PRIMITIVES))
    assert words.sentence == "For every channel: x1, divided by the largest over channels of x1."
    assert list(words.parts) == ["x1"]
    assert words.notes == ("A quotient is 0 where the divisor is at most 1e-12 in magnitude.",)


UNITS = {
    "flap": "activation^2 x weight^2",
    "lamp": "none",
    "taylor_gate": "loss^2",
    "grasp": "loss^2 / weight^2",
    "fdr": "mixed units (add of activation^2 and a number)",
    "group_norm": "mixed units (add of weight^2 and activation^2)",
    "sqrt(mul(abs(b), abs(Ggamma)))": "loss^(1/2)",
    "maximum(b, 0)": "activation",
    "tanh(b)": "mixed units (tanh of activation)",
    "tanh(by_sum[o](b))": "none",
    "at_least(b, gamma)": "none",
}


@pytest.mark.parametrize("text", UNITS)
def test_units(text: str) -> None:
    assert unit_of(Metric.load(text).expression) == UNITS[text]


def test_own_primitives_without_words_are_said_by_their_names() -> None:
    half = operator("half", shape=Elementwise(1), meaning="x / 2", symbol=lambda x: x / 2)(
        lambda x: x / 2
    )
    own = operand("own", axes="o", meaning="bias once more")(lambda layer: layer.bias)
    tree = Metric.parse("half(add(own, b))", primitives=PRIMITIVES.extended([half, own])).expression
    words = in_words(tree)
    assert words.sentence == "For every channel: the half of (the value own plus the bias b)."
    assert words.notes == ("half: x / 2.",)
    assert words.operands["own"] == "bias once more, for every channel"
    assert unit_of(tree) == "not known: operand own declares none"


def test_the_meaning_of_an_own_operator_is_printed_beside_its_phrase() -> None:
    half = operator(
        "half",
        shape=Elementwise(1),
        meaning="x / 2",
        symbol=lambda x: x / 2,
        phrase="the half of {a}",
        unit="same",
    )(lambda x: x / 2)
    tree = Metric.parse("half(abs(b))", primitives=PRIMITIVES.extended([half])).expression
    words = in_words(tree)
    assert words.sentence == "For every channel: the half of the magnitude of the bias b."
    assert words.notes == ("half: x / 2.",)
    assert unit_of(tree) == "activation"


def test_a_meaning_that_is_the_name_explains_nothing() -> None:
    """So it is no note; brackets say what a chain without infix words does not."""
    mix = operator(
        "mix", shape=Elementwise(2), meaning="mix", symbol=lambda a, b: a + b, laws=["commutative"]
    )(lambda a, b: a + b)
    tree = Metric.parse("mix(mix(b, mu), b)", primitives=PRIMITIVES.extended([mix])).expression
    words = in_words(tree)
    assert words.sentence == (
        "For every channel: the mix of (the mix of the bias b and the batch-norm mean mu) and the "
        "bias b."
    )
    assert words.notes == ()


@pytest.mark.parametrize("phrase", ["half", "{a} of {a}", "half of {b}", "half of {a!r}", "{a", 3])
def test_phrases_are_checked(phrase: str) -> None:
    with pytest.raises(UserError, match="phrase="):
        operator(
            "half", shape=Elementwise(1), meaning="x / 2", symbol=lambda x: x / 2, phrase=phrase
        )


def test_units_and_rules_are_checked() -> None:
    with pytest.raises(UserError, match="unit="):
        operand("own", axes="o", meaning="bias", unit="Weight**2")(lambda layer: layer.bias)
    with pytest.raises(UserError, match="unknown rule of units"):
        operator("half", shape=Elementwise(1), meaning="x", symbol=lambda x: x, unit="twice")
