"""The rank form: shorter, and the same plans, under every convention, with and without coupling."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor, nn

from gp_prune.errors import DegenerateScores
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.file import JOINS, NORMALISERS, Conventions
from gp_prune.metric.rank_form import measure, rank_form
from gp_prune.pruning import Architecture, Budget, select_channels, select_weights, trace
from gp_prune.statistics import collect

PRIMITIVES = builtin_primitives()


class Residual(nn.Module):
    """Convolutions whose channels are coupled by a sum, and others that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.outer = nn.Conv2d(5, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.outer(self.inner(x).relu())
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)
    )


def network(*, coupled: bool) -> tuple[nn.Module, Architecture]:
    torch.manual_seed(3)
    model = (Residual() if coupled else plain()).eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters(), 1):
            parameter.mul_(number)
    return model, trace(model, torch.zeros(1, 2, 8, 8))


NETWORKS = {coupled: network(coupled=coupled) for coupled in (False, True)}
RECORDS = {key: collect(model, None, []) for key, (model, _) in NETWORKS.items()}
BASES = {
    "channel": ["l2[i,k](W)", "sum[i,k](W)", "abs(b)", "max[i,k](abs(W))"],
    "weight": ["abs(W)", "W", "mul(abs(W), l2[k](W))"],
}
AROUND = {
    "channel": ["min_max[o]({})", "by_sum[o]({})", "z_score[o]({})", "mul({}, l2[i,k](W))"],
    "weight": ["by_max[o,i,k]({})", "min_max[i,k]({})", "mul({}, exp(tanh(b)))", "sub({}, b)"],
}
BOTH = [
    "tanh({})", "sqrt({})", "square({})", "log(add(1, abs({})))", "add({}, 0.7)", "sub({}, 0.3)",
    "mul(3, {})", "div({}, 7)", "mul({}, add(0.1, max[o,i,k](abs(W))))",
    "add({}, mean[o](abs(b)))", "neg({})", "exp(tanh({}))", "div(2, {})", "sub(1, {})",
    "mul(-0.5, {})", "div({}, max[o,i,k](abs(W)))",
]  # fmt: skip


def draw(granularity: str, source: random.Random) -> Expression:
    text = source.choice(BASES[granularity])
    for _ in range(source.randint(1, 4)):
        text = source.choice(BOTH + AROUND[granularity]).format(text)
    return parse(text, PRIMITIVES)


def plans(tree: Expression, conventions: Conventions, *, coupled: bool) -> list[str] | None:
    """Digests of the plans; None where nothing is ranked, or positions decide among ties."""
    try:
        return _plans(tree, conventions, coupled=coupled)
    except DegenerateScores:
        return None


def _plans(tree: Expression, conventions: Conventions, *, coupled: bool) -> list[str] | None:
    model, architecture = NETWORKS[coupled]
    scores = {name: evaluate(tree, layer) for name, layer in RECORDS[coupled].items()}
    digests = []
    for keep in (0.3, 0.5, 0.7):
        if "i" in tree.axes:
            budget = Budget("params", keep)
            plan = select_weights(model, architecture, scores, conventions, budget)
        else:
            budget = Budget("channels", keep)
            plan = select_channels(architecture, scores, conventions, budget)  # type: ignore[assignment]
        if plan.ties:
            return None
        digests.append(plan.digest())
    return digests


def conventions_of(granularity: str) -> list[Conventions]:
    scopes = ("global", "layer", {"channel": "isomorphic", "weight": "row"}[granularity])
    return [Conventions(*each) for each in itertools.product(scopes, NORMALISERS, JOINS)]


CASES = pytest.mark.parametrize(
    ("granularity", "coupled"), [*itertools.product(["channel", "weight"], [False, True])]
)


@CASES
def test_plans_stay_the_same(granularity: str, coupled: bool) -> None:
    """A few formulas under some conventions."""
    several = random.Random(11).sample(conventions_of(granularity), 8)
    compared, shorter = check_plans(several, 1, granularity, coupled=coupled)
    assert compared >= 3
    assert shorter >= 2


@pytest.mark.slow
@CASES
def test_many_plans_stay_the_same(granularity: str, coupled: bool) -> None:
    """Many formulas under all conventions."""
    compared, shorter = check_plans(conventions_of(granularity), 6, granularity, coupled=coupled)
    assert compared > 60
    assert shorter > 40


def check_plans(
    several: list[Conventions], count: int, granularity: str, *, coupled: bool
) -> tuple[int, int]:
    """How many formulas were compared, and how many had become shorter."""
    source = random.Random(7)
    compared = shorter = 0
    for conventions in several:
        for _ in range(count):
            tree = draw(granularity, source)
            found = rank_form(tree, PRIMITIVES, conventions, coupled=coupled)
            assert found.axes is tree.axes
            assert measure(found) <= measure(tree) or found.size <= tree.size
            wanted = plans(tree, conventions, coupled=coupled)
            if wanted is None or found == tree:
                continue
            case = f"{tree} became {found} under {conventions}"
            became = _plans(found, conventions, coupled=coupled)  # it must rank, too
            if became is None:  # the rounding of the factor had broken ties
                continue
            compared += 1
            shorter += found.size < tree.size
            assert became == wanted, case
    return compared, shorter


@pytest.mark.parametrize(
    ("text", "scope", "normaliser", "join", "coupled", "form"),
    [
        ("add(-1, l2[i,k](W))", "global", "none", "mean", True, "l2[i,k](W)"),
        ("add(-1, l2[i,k](W))", "global", "none", "sum", True, "sub(l2[i,k](W), 1)"),
        ("add(-1, l2[i,k](W))", "global", "mean", "mean", False, "sub(l2[i,k](W), 1)"),
        ("add(-1, l2[i,k](W))", "layer", "mean", "mean", False, "l2[i,k](W)"),
        ("add(-1, l2[i,k](W))", "layer", "mean", "mean", True, "sub(l2[i,k](W), 1)"),
        ("tanh(abs(b))", "layer", "none", "mean", True, "tanh(abs(b))"),
        ("tanh(abs(b))", "layer", "none", "max", True, "abs(b)"),
        ("tanh(mul(3, abs(b)))", "global", "none", "sum", False, "abs(b)"),
        ("sqrt(b)", "layer", "none", "sum", False, "sqrt(b)"),
        ("log(abs(b))", "layer", "none", "sum", False, "log(b)"),
        ("mul(0.2, mean[i,k](W))", "global", "mean", "mean", True, "sum[i,k](W)"),
        ("mul(0.2, mean[i,k](W))", "global", "none", "mean", False, "mean[i,k](W)"),
        ("sqrt(mean[i,k](square(W)))", "global", "max", "sum", True, "l2[i,k](W)"),
        ("by_sum[o](var[n,s](A))", "global", "sum", "mean", True, "var[n,s](A)"),
        ("div(b, add(0.1, l1[o,i,k](W)))", "global", "mean", "mean", True, "b"),
        ("div(b, l1[o,i,k](W))", "global", "mean", "mean", True, "div(b, l1[o,i,k](W))"),
        ("div(b, sum[o,i,k](W))", "global", "mean", "mean", True, "div(b, sum[o,i,k](W))"),
        ("mul(abs(W), exp(tanh(b)))", "row", "none", "mean", False, "abs(W)"),
        ("mul(abs(W), abs(b))", "row", "none", "mean", False, "abs(mul(W, b))"),
        ("mul(abs(W), b)", "row", "none", "mean", False, "mul(abs(W), b)"),
        ("min_max[i,k](abs(W))", "row", "mean", "mean", False, "abs(W)"),
        ("sub(1, abs(b))", "global", "none", "max", True, "neg(abs(b))"),
        ("sub(1, abs(b))", "global", "none", "sum", True, "sub(1, abs(b))"),
        ("sub(max[o](mu), abs(b))", "layer", "none", "mean", False, "neg(abs(b))"),
        ("div(5, abs(b))", "global", "mean", "sum", True, "div(1, abs(b))"),
        ("div(b, mul(2, var))", "global", "mean", "sum", True, "div(b, mul(2, var))"),
        ("div(b, mul(2, add(1, var)))", "global", "mean", "sum", True, "div(b, add(1, var))"),
        ("mul(-0.5, abs(b))", "global", "mean", "sum", True, "neg(abs(b))"),
        ("add(mu, add(b, 3))", "layer", "none", "mean", False, "add(mu, b)"),
        ("sub(b, sub(mu, 3))", "layer", "none", "mean", False, "sub(b, mu)"),
        ("neg(tanh(b))", "layer", "none", "mean", False, "neg(b)"),
        ("neg(z_score[o](b))", "layer", "none", "mean", False, "neg(b)"),
        ("neg(exp(neg(b)))", "layer", "none", "mean", False, "neg(exp(neg(b)))"),
    ],
)  # fmt: skip
def test_the_table(
    text: str, scope: str, normaliser: str, join: str, coupled: bool, form: str
) -> None:
    conventions = Conventions(scope, normaliser, join)
    found = rank_form(parse(text, PRIMITIVES), PRIMITIVES, conventions, coupled=coupled)
    assert str(found) == form


def test_what_is_not_dropped_does_change_plans() -> None:
    for short, long, conventions, coupled in (
        ("l2[i,k](W)", "tanh(mul(5, l2[i,k](W)))", Conventions("global", "mean"), False),
        ("l2[i,k](W)", "sub(l2[i,k](W), 3)", Conventions("global", "mean"), False),
        ("l2[i,k](W)", "z_score[o](l2[i,k](W))", Conventions("global", "none"), False),
        (
            "l2[i,k](W)",
            "square(square(square(l2[i,k](W))))",
            Conventions("layer", "none"),
            True,
        ),
    ):
        forms = [plans(parse(t, PRIMITIVES), conventions, coupled=coupled) for t in (short, long)]
        assert None not in forms, long
        assert forms[0] != forms[1], long


@pytest.mark.parametrize("text", ["mul({}, max[o](abs(b)))", "div({}, l2[o](b))"])
def test_a_factor_that_is_0_in_a_layer_stays(text: str) -> None:
    """Where a layer has no bias, a formula that reads it ranks nothing of that layer."""
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 5, 3, bias=False), nn.Conv2d(5, 4, 3)
    model = nn.Sequential(*layers).eval()
    architecture, records = trace(model, torch.zeros(1, 2, 8, 8)), collect(model, None, [])
    tree = parse(text.format("mul(2, l2[i,k](W))"), PRIMITIVES)
    found = rank_form(tree, PRIMITIVES, Conventions("global", "mean", "mean"))
    assert found.size == tree.size - 2  # without the number
    for each in (tree, found):
        scores = {name: evaluate(each, layer) for name, layer in records.items()}
        with pytest.raises(DegenerateScores):
            select_channels(architecture, scores, Conventions(), Budget("channels", 0.5))
