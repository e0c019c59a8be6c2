"""LaTeX of formulas: well formed, and the reference metrics as a person would write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gp_prune.formula.intervals import Intervals
from gp_prune.formula.latex import Printed, latex, print_latex, to_sympy
from gp_prune.language import symbols
from gp_prune.language.axes import Axes
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import (
    builtin_functions,
    builtin_primitives,
    operand,
    primitive_set,
)
from gp_prune.language.record import synthetic_layer
from gp_prune.metric.metric import Metric, bundled_metrics

PRIMITIVES = builtin_primitives()
Trees = Callable[..., list[Expression]]


def written(text: str) -> str:
    return latex(parse(text, PRIMITIVES), PRIMITIVES)


def check_form(text: str) -> None:
    r"""Braces balance, \left and \right pair, no base has two scripts of one kind."""
    tokens = re.findall(r"\\[A-Za-z]+|\\.|'+|[^\s]", text)

    def group(start: int) -> int:
        """The place after a sequence of bases, each with its scripts."""
        place = start
        while place < len(tokens) and tokens[place] != "}":
            assert tokens[place] not in "_^", f"a script without a base in {text}"
            place = item(place)
            seen = ""
            while place < len(tokens) and tokens[place][0] in "_^'":
                kind = tokens[place][0].replace("'", "^")
                assert kind not in seen, f"two of {kind} on one base in {text}"
                seen += kind
                place = place + 1 if tokens[place][0] == "'" else item(place + 1)
        return place

    def item(place: int) -> int:
        if tokens[place] != "{":
            return place + 1
        end = group(place + 1)
        assert end < len(tokens), f"a brace is not closed in {text}"
        return end + 1

    assert group(0) == len(tokens), f"a brace is closed that was not opened in {text}"
    depth = 0
    for token in tokens:
        depth += (token == r"\left") - (token == r"\right")
        assert depth >= 0
    assert depth == 0, text
    assert not re.search(r"inf|nan|None|\+ -|- -|\bSum\b|Over|Div", text), text


def test_the_checker_sees_what_is_wrong() -> None:
    for bad in (
        "x^{2}^{3}",
        "x_{a}_{b}",
        "{x",
        "x}",
        r"\left(x",
        "x^{y_{a}_{b}}",
        "^{2}",
        "x'^{2}",
    ):
        with pytest.raises(AssertionError):
            check_form(bad)
    for good in (
        "x_{a}^{2}",
        "{x_{a}}_{b}",
        r"\frac{a}{b}_{c}",
        r"\lVert x \rVert_2",
        "x_{o'}^{2}",
    ):
        check_form(good)


@pytest.mark.many(3, 16)
def test_random_trees_are_well_formed(
    random_trees: Trees, tree_types: tuple[Axes, ...], many: int
) -> None:
    for axes in tree_types:
        for tree in random_trees(axes, many, seed=71, most=8):
            check_form(latex(tree, PRIMITIVES))


REFERENCE = {
    "activation_variance": r"\sum_{s} \operatorname{std}_{n} A_{o,n,s}",
    "apoz": r"\frac{1}{N_{n} N_{s}} \sum_{n,s} \left[A_{o,n,s} \neq 0\right]",
    "bn_scale": r"\left|\gamma_{o}\right|",
    "chip": r"\frac{1}{N_{n}} \sum_{n} \Delta_{o} \lVert A_{n} \rVert_{*}",
    "conjunctive_activation": (
        r"\frac{1}{N_{n}} \sum_{n} \left[\frac{z_{o,n} - \min_{o'} z_{o',n}}{\max_{o'} "
        r"z_{o',n} - \min_{o'} z_{o',n}} \geq 0.1\right], \quad \text{where } z_{o,n} = "
        r"\frac{1}{N_{s}} \sum_{s} A_{o,n,s}"
    ),
    "di": (
        r"\sum_{c} n_{c} \left\lVert m_{o,c,\cdot} - m_{o,\cdot} "
        r"\right\rVert^{2}_{\left(\operatorname{scatter}_{n}\left(A_{o,n,\cdot}\right) + "
        r"0.0001 I\right)^{-1}}"
    ),
    "fdr": (
        r"\frac{1}{N_{c}} \sum_{c} \frac{\left(\mu_{o,c} - "
        r"\mu_{o,\bar{c}}\right)^{2}}{\sigma^{2}_{o,c} + \sigma^{2}_{o,\bar{c}} + 0.0001}"
    ),
    "entropy": r"\operatorname{entropy}_{n} \left(\frac{1}{N_{s}} \sum_{s} A_{o,n,s}\right)",
    "filter_nuclear_norm": r"\left\lVert W_{o,\cdot,\cdot} \right\rVert_{*}",
    "flap": (
        r"\left(\sum_{j} \left(W^{+}_{o,j}\right)^{2}\right) \operatorname{var}_{n,s} "
        r"A_{o,n,s}"
    ),
    "flap_weight": r"W_{o,i,k}^{2} \operatorname{var}_{n,s} X_{i,n,s}",
    "fpgm": r"\sum_{o'} \lVert W_{o,\cdot,\cdot} - W_{o',\cdot,\cdot} \rVert_2",
    "gecco_1": (
        r"\sum_{c,s} \left(\frac{\left(\sigma^{2}_{o,\bar{c}} - "
        r"m_{o,s}\right)^{2}}{\sigma^{2}_{o,c} + \sigma^{2}_{o,\bar{c}} + 0.05} + "
        r"\sigma^{2}_{o,c}\right)"
    ),
    "gecco_2": (
        r"\sum_{c,s} \left(\frac{\left(m_{o,s} \sigma^{2}_{o,\bar{c}} "
        r"\operatorname{std}_{s'} m_{o,s'} - \mu_{o,\bar{c}} + "
        r"\sigma^{2}_{o,c}\right)^{2}}{\sigma^{2}_{o,c} + \sigma^{2}_{o,\bar{c}} + 0.05} "
        r"+ \frac{\sigma^{2}_{o,c}}{\sigma^{2}_{o,\bar{c}} + 0.05} + "
        r"\frac{\sigma^{2}_{o,\bar{c}}}{\sigma^{2}_{o,c} + 0.05}\right)"
    ),
    "gecco_3": (
        r"\sum_{c,s} \frac{\left(m_{o,s} - "
        r"\sigma^{2}_{o,\bar{c}}\right)^{2}}{\sqrt{\frac{\sigma^{2}_{o,c}}{n_{c}} + "
        r"\frac{\sigma^{2}_{o,\bar{c}}}{n_{\bar{c}}} + 0.0001}}"
    ),
    "gecco_4": (
        r"\sum_{c,s} \left(\left|\mu_{o,c} - \mu_{o,\bar{c}}\right| + "
        r"\frac{\sigma^{2}_{o,c}}{\frac{\sigma^{2}_{o,\bar{c}}}{n_{\bar{c}}} + 0.05} + "
        r"m_{o,\bar{c},s} + 0.05\right)"
    ),
    "geo_median": (
        r"\sqrt{\sum_{i,k} \left(W_{o,i,k} - \operatorname{medoid}_{o'} "
        r"W_{o',i,k}\right)^{2}}"
    ),
    "grasp": r"\sum_{i,k} \left(H \nabla L\right)_{o,i,k} W_{o,i,k}",
    "grasp_weight": r"\left(H \nabla L\right)_{o,i,k} W_{o,i,k}",
    "group_hessian": (
        r"\sum_{j} \overline{(\partial L_{n} / \partial W^{+}_{o,j})^{2}} \, "
        r"\left(W^{+}_{o,j}\right)^{2} + \sum_{i,k} \overline{(\partial L_{n} / \partial "
        r"W_{o,i,k})^{2}} \, W_{o,i,k}^{2}"
    ),
    "group_norm": (
        r"\frac{1}{3} \left(\gamma_{o}^{2} + \sum_{j} \left(W^{+}_{o,j}\right)^{2} + "
        r"\sum_{i,k} W_{o,i,k}^{2}\right)"
    ),
    "group_taylor": (
        r"\left|\sum_{j} \frac{\partial L}{\partial W^{+}_{o,j}} W^{+}_{o,j}\right| + "
        r"\left|\sum_{i,k} \frac{\partial L}{\partial W_{o,i,k}} W_{o,i,k}\right|"
    ),
    "hrank": r"\frac{1}{N_{n}} \sum_{n} \operatorname{rank}(A_{o,n})",
    "l1": r"\sum_{i,k} \left|W_{o,i,k}\right|",
    "l2": r"\lVert W_{o,\cdot,\cdot} \rVert_2",
    "lamp": (
        r"\sum_{i,k} \frac{W_{o,i,k}^{2}}{\sum_{o',i',k'} \left[W_{o',i',k'}^{2} \geq "
        r"W_{o,i,k}^{2}\right] W_{o',i',k'}^{2}}"
    ),
    "lamp_weight": (
        r"\frac{W_{o,i,k}^{2}}{\sum_{o',i',k'} \left[W_{o',i',k'}^{2} \geq "
        r"W_{o,i,k}^{2}\right] W_{o',i',k'}^{2}}"
    ),
    "magnitude": r"\left|W_{o,i,k}\right|",
    "map_nuclear_norm": r"\frac{1}{N_{n}} \sum_{n} \lVert A_{o,n} \rVert_{*}",
    "mean_activation": r"\frac{1}{N_{n} N_{s}} \sum_{n,s} \left|A_{o,n,s}\right|",
    "mmd": (
        r"\frac{1}{N_{c}} \sum_{c} \left(k_{o,c c} - 2 k_{o,c \bar{c}} + k_{o,\bar{c} "
        r"\bar{c}}\right)"
    ),
    "obd": (
        r"\frac{1}{2} \sum_{i,k} \overline{(\partial L_{n} / \partial W_{o,i,k})^{2}} \, "
        r"W_{o,i,k}^{2}"
    ),
    "obd_weight": (
        r"\frac{1}{2} \overline{(\partial L_{n} / \partial W_{o,i,k})^{2}} \, W_{o,i,k}^{2}"
    ),
    "pruner_zero": (
        r"\sum_{i,k} \frac{z_{o,i,k} - \min_{o',i',k'} z_{o',i',k'}}{\max_{o',i',k'} "
        r"z_{o',i',k'} - \min_{o',i',k'} z_{o',i',k'}} W_{o,i,k}^{2}, \quad \text{where } "
        r"z_{o,i,k} = \sqrt{\overline{(\partial L_{n} / \partial W_{o,i,k})^{2}}}"
    ),
    "pruner_zero_weight": (
        r"\frac{z_{o,i,k} - \min_{o',i',k'} z_{o',i',k'}}{\max_{o',i',k'} z_{o',i',k'} - "
        r"\min_{o',i',k'} z_{o',i',k'}} W_{o,i,k}^{2}, \quad \text{where } z_{o,i,k} = "
        r"\sqrt{\overline{(\partial L_{n} / \partial W_{o,i,k})^{2}}}"
    ),
    "nisp": r"\sum_{j} \left|W^{+}_{o,j}\right|",
    "random": r"U_{o}",
    "random_weight": r"U_{o,i,k}",
    "ria": (
        r"\sum_{i,k} \left(\frac{\left|W_{o,i,k}\right|}{\sum_{o'} "
        r"\left|W_{o',i,k}\right|} + \frac{\left|W_{o,i,k}\right|}{\sum_{i',k'} "
        r"\left|W_{o,i',k'}\right|}\right) \sqrt{\lVert X_{i,k,\cdot,\cdot} \rVert_{2}}"
    ),
    "ria_weight": (
        r"\left(\frac{\left|W_{o,i,k}\right|}{\sum_{o'} \left|W_{o',i,k}\right|} + "
        r"\frac{\left|W_{o,i,k}\right|}{\sum_{i',k'} \left|W_{o,i',k'}\right|}\right) "
        r"\sqrt{\lVert X_{i,k,\cdot,\cdot} \rVert_{2}}"
    ),
    "snip": r"\sum_{i,k} \left|\frac{\partial L}{\partial W_{o,i,k}} W_{o,i,k}\right|",
    "snip_weight": r"\left|\frac{\partial L}{\partial W_{o,i,k}} W_{o,i,k}\right|",
    "snr": (
        r"\frac{1}{N_{c}} \sum_{c} \frac{\left|\mu_{o,c} - "
        r"\mu_{o,\bar{c}}\right|}{\sigma_{o,c} + \sigma_{o,\bar{c}} + 0.0001}"
    ),
    "sparsegpt": r"\sum_{i,k} \frac{W_{o,i,k}^{2}}{C_{i,k}^{2}}",
    "sparsegpt_weight": r"\frac{W_{o,i,k}^{2}}{C_{i,k}^{2}}",
    "symmetric_divergence": (
        r"\frac{1}{N_{c}} \sum_{c} \left(\frac{1}{2} \left(\frac{\left(\mu_{o,c} - "
        r"\mu_{o,\bar{c}}\right)^{2}}{\sigma^{2}_{o,c} + \sigma^{2}_{o,\bar{c}} + 0.05} + "
        r"\frac{\sigma^{2}_{o,c}}{\sigma^{2}_{o,\bar{c}} + 0.05} + "
        r"\frac{\sigma^{2}_{o,\bar{c}}}{\sigma^{2}_{o,c} + 0.05}\right) - 1\right)"
    ),
    "synflow": r"\sum_{i,k} \left|\frac{\partial R}{\partial W_{o,i,k}} W_{o,i,k}\right|",
    "synflow_weight": r"\left|\frac{\partial R}{\partial W_{o,i,k}} W_{o,i,k}\right|",
    "t_test": (
        r"\frac{1}{N_{c}} \sum_{c} \frac{\left|\mu_{o,c} - "
        r"\mu_{o,\bar{c}}\right|}{\sqrt{\frac{\sigma^{2}_{o,c}}{n_{c}} + "
        r"\frac{\sigma^{2}_{o,\bar{c}}}{n_{\bar{c}}} + 0.0001}}"
    ),
    "taylor_2017": (
        r"\frac{z_{o}}{\lVert z_{\cdot} \rVert_2}, \quad \text{where } z_{o} = "
        r"\frac{1}{N_{n}} \sum_{n} \left|\frac{1}{N_{s}} \sum_{s} Z_{o,n,s} "
        r"\frac{\partial L_{n}}{\partial Z_{o,n,s}}\right|"
    ),
    "taylor_bn": (
        r"\overline{(\partial L / \partial \beta_{o})^{2}} \, \beta_{o}^{2} + "
        r"\overline{(\partial L / \partial \gamma_{o})^{2}} \, \gamma_{o}^{2} + 2 "
        r"\overline{(\partial L / \partial \gamma_{o}) (\partial L / \partial \beta_{o})} \, "
        r"\beta_{o} \gamma_{o}"
    ),
    "taylor_gate": (
        r"\frac{1}{N_{n}} \sum_{n} \left(\sum_{s} Z_{o,n,s} \frac{\partial "
        r"L_{n}}{\partial Z_{o,n,s}}\right)^{2}"
    ),
    "taylor_sum": r"\overline{\langle W_{o}, \partial L / \partial W_{o} \rangle^{2}}",
    "taylor_weight": r"\overline{(\partial L / \partial W_{o,i,k})^{2}} \, W_{o,i,k}^{2}",
    "taylor_weights": (
        r"\sum_{i,k} \overline{(\partial L / \partial W_{o,i,k})^{2}} \, W_{o,i,k}^{2}"
    ),
    "wanda": r"\sum_{i,k} \left|W_{o,i,k}\right| \lVert X_{i,k,\cdot,\cdot} \rVert_{2}",
    "wanda_weight": r"\left|W_{o,i,k}\right| \lVert X_{i,k,\cdot,\cdot} \rVert_{2}",
}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_metrics(name: str) -> None:
    text = Metric.load(name).latex()
    check_form(text)
    assert text == REFERENCE[name]


def test_every_reference_metric_is_listed() -> None:
    bundled = {name for name, file in bundled_metrics().items() if file.parent.name == "reference"}
    assert set(REFERENCE) == bundled


READABLE = {
    "neg(b)": r"- b_{o}",
    "mul(-0.25, b)": r"- 0.25 b_{o}",
    "mul(b, 0.00001)": r"10^{-5} b_{o}",
    "mul(b, -0.00001)": r"- 10^{-5} b_{o}",
    "mul(b, 0.0000325)": r"3.25 \cdot 10^{-5} b_{o}",
    "mul(b, 1e20)": r"10^{20} b_{o}",
    "div(b, 3)": r"\frac{b_{o}}{3}",
    "add(-0.25, b)": r"b_{o} - 0.25",
    "sub(3, b)": r"3 - b_{o}",
    "add(neg(b), gamma)": r"\gamma_{o} - b_{o}",
    "mul(mean[i,k](W), 2)": r"\frac{2}{N_{i} N_{k}} \sum_{i,k} W_{o,i,k}",
    "div(mean[i,k](W), 3)": r"\frac{1}{3 N_{i} N_{k}} \sum_{i,k} W_{o,i,k}",
    "neg(mean[i,k](W))": r"- \frac{1}{N_{i} N_{k}} \sum_{i,k} W_{o,i,k}",
    "sub(b, mul(2.5, mean[i,k](W)))": r"b_{o} - \frac{2.5}{N_{i} N_{k}} \sum_{i,k} W_{o,i,k}",
    "square(mean[i,k](W))": (
        r"\frac{1}{N_{i}^{2} N_{k}^{2}} \left(\sum_{i,k} W_{o,i,k}\right)^{2}"
    ),
    "sqrt(mean[i,k](abs(W)))": r"\sqrt{\frac{1}{N_{i} N_{k}} \sum_{i,k} \left|W_{o,i,k}\right|}",
    "mul(l1[i,k](W), max[i,k](W))": (
        r"\left(\max_{i,k} W_{o,i,k}\right) \sum_{i,k} \left|W_{o,i,k}\right|"
    ),
    "max[i,k](neg(W))": r"\max_{i,k} \left(- W_{o,i,k}\right)",
    "square(max[i,k](abs(W)))": r"\left(\max_{i,k} \left|W_{o,i,k}\right|\right)^{2}",
    "mul(max[i,k](abs(W)), sqrt(max[i,k](abs(W))))": (
        r"\left(\max_{i,k} \left|W_{o,i,k}\right|\right)^{\frac{3}{2}}"
    ),
    "sum[k](sum[i](W))": r"\sum_{i,k} W_{o,i,k}",
    "square(nonzero(b))": r"\left[b_{o} \neq 0\right]",
    "square(tanh(b))": r"\tanh^{2}\left(b_{o}\right)",
    "square(log(b))": r"\left(\log\left|b_{o}\right|\right)^{2}",
    "exp(neg(b))": r"\exp\left(- b_{o}\right)",
    "square(var)": r"\left(\sigma^{2}_{o}\right)^{2}",
    "square(div(b, gamma))": r"\left(\frac{b_{o}}{\gamma_{o}}^{\dagger}\right)^{2}",
    "mul(div(b, sum[c](nP)), gamma)": r"\frac{b_{o}}{\sum_{c} n_{c}} \gamma_{o}",
    "l2[i,k](Xn)": r"\sqrt{\sum_{i,k} \lVert X_{i,k,\cdot,\cdot} \rVert_{2}^{2}}",
    "min_max[o](b)": r"\frac{b_{o} - \min_{o'} b_{o'}}{\max_{o'} b_{o'} - \min_{o'} b_{o'}}",
    "sum[i,k](sub(W, medoid(W)))": (
        r"\sum_{i,k} \left(W_{o,i,k} - \operatorname{medoid}_{o'} W_{o',i,k}\right)"
    ),
    "sub(div(b, sum[c](nP)), div(gamma, abs(beta)))": (
        r"\frac{b_{o}}{\sum_{c} n_{c}} - \frac{\gamma_{o}}{\left|\beta_{o}\right|}"
    ),
    "div(var, add(var, 0.1))": r"\frac{\sigma^{2}_{o}}{\sigma^{2}_{o} + 0.1}",
    "log(sub(b, gamma))": r"\log\left|b_{o} - \gamma_{o}\right|",
    "log(add(square(b), 1))": r"\log\left(b_{o}^{2} + 1\right)",
    "log(var)": r"\log\left(\sigma^{2}_{o}\right)",
    "exp(neg(abs(b)))": r"\exp\left(- \left|b_{o}\right|\right)",
    "mul(b, 0.123456)": r"0.123 b_{o}",
    "mul(b, 1234.5)": r"1230 b_{o}",
    "div(l2[i,k](mul(W, G)), l2[o](l2[i,k](mul(W, G))))": (
        r"\frac{z_{o}}{\lVert z_{\cdot} \rVert_2}, \quad \text{where } z_{o} = "
        r"\sqrt{\sum_{i,k} \left(\frac{\partial L}{\partial W_{o,i,k}}\right)^{2} "
        r"W_{o,i,k}^{2}}"
    ),
    "maximum(minimum(-2.65, 0.000202), b)": r"\max\left(b_{o}, -2.65\right)",
    "maximum(maximum(b, gamma), maximum(beta, b))": (
        r"\max\left(b_{o}, \gamma_{o}, \beta_{o}\right)"
    ),
    "mul(sqrt(var), abs(var))": r"\sigma^{2}_{o} \sigma_{o}",
    "square(G)": r"\left(\frac{\partial L}{\partial W_{o,i,k}}\right)^{2}",
    "mul(sum[s](dZ), rk)": (
        r"\operatorname{rank}(A_{o,n}) \sum_{s} \frac{\partial L_{n}}{\partial Z_{o,n,s}}"
    ),
}


@pytest.mark.parametrize("text", READABLE)
def test_readable_forms(text: str) -> None:
    check_form(written(text))
    assert written(text) == READABLE[text]


def said(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    printed = print_latex(parse(text, PRIMITIVES), PRIMITIVES)
    return printed.notes, printed.definitions


QUOTIENT = r"A quotient is 0 where the magnitude of its divisor is at most $10^{-12}$."
LOGARITHM = r"The logarithm of a number below $10^{-12}$ is that of $10^{-12}$."
NOTES = {
    "sum[i,k](abs(W))": (),
    "div(b, add(var, 0.0001))": (),  # the divisor is positive
    "div(b, 4)": (),
    "div(b, mean[i,k](add(abs(W), 1)))": (),
    "div(b, sum[o](exp(b)))": (QUOTIENT, "An exponent above 50 counts as 50."),
    "div(b, var)": (QUOTIENT,),
    "div(b, std[o](b))": (QUOTIENT,),
    "div(b, l2[i,k](W))": (QUOTIENT,),
    "div(b, l1[o](b))": (QUOTIENT,),
    "div(b, mul(nQ, sum[s](square(mQ))))": (QUOTIENT,),
    "div(b, maximum(gamma, abs(b)))": (QUOTIENT,),
    "min_max[o](b)": (QUOTIENT,),  # the largest value is not below the smallest
    "z_score[o](b)": (QUOTIENT,),
    "by_max[o](b)": (QUOTIENT,),
    "div(b, tail_sum[o](var))": (QUOTIENT,),
    "div(b, medoid(abs(W)))": (QUOTIENT,),
    "div(b, sub(var, 1))": (symbols.Div.note,),
    "div(b, minimum(gamma, abs(b)))": (symbols.Div.note,),
    "div(b, sum[o](b))": (symbols.Div.note,),
    "add(div(b, gamma), div(b, var))": (symbols.Div.note, QUOTIENT),
    "log(add(square(b), 1))": (),
    "log(var)": (LOGARITHM,),
    "log(b)": (LOGARITHM,),
    "exp(neg(abs(b)))": (),
    "exp(tanh(b))": (),
    "exp(b)": ("An exponent above 50 counts as 50.",),
    "mul(b, 0.125)": (),
    "mul(b, 0.1254)": ("Constants are rounded to 3 digits.",),
}


@pytest.mark.parametrize("text", NOTES)
def test_the_sentence_below_a_formula(text: str) -> None:
    notes, _ = said(text)
    assert set(notes) == set(NOTES[text])
    assert (r"\dagger" in written(text)) == (symbols.Div.note in notes)


def test_an_unprotected_function_beside_a_protected_one_takes_the_light_sign(
    tmp_path: Path,
) -> None:
    file = tmp_path / "plain.py"
    file.write_text(PLAIN)
    own = primitive_set(file)

    def printed(text: str) -> Printed:
        return print_latex(parse(text, own), own)

    assert printed("plain_div(b, var)").notes == ()
    both = printed("add(plain_div(b, var), div(gamma, var))")
    assert both.notes == (symbols.Div.note,)
    assert both.formula.count(r"\dagger") == 1
    both = printed("add(plain_log(var), log(var))")
    assert r"\log_{\epsilon}" in both.formula
    assert symbols.Log.definition in both.definitions


PLAIN = """
import sympy
from gp_prune import Elementwise, operator

@operator("plain_div", shape=Elementwise(2), meaning="a / (b^2 + 1e-20)",
          symbol=lambda a, b: a / (b**2 + 1e-20))
def plain_div(a, b):
    return a / (b * b + 1e-20)

@operator("plain_log", shape=Elementwise(1), meaning="log(x^2 + 1e-20)",
          symbol=lambda x: sympy.log(x**2 + 1e-20))
def plain_log(x):
    return (x * x + 1e-20).log()
"""


def test_what_an_operator_of_ones_own_declares_is_used(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    own = primitive_set(file)
    notes = {
        text: print_latex(parse(text, own), own).notes
        for text in ("div(b, cosh(b))", "div(b, bump(b))", "div(b, peak[i,k](abs(W)))", "div(b, q)")
    }
    assert notes == {
        "div(b, cosh(b))": (QUOTIENT,),  # by its law
        "div(b, bump(b))": (),  # by its bounds
        "div(b, peak[i,k](abs(W)))": (QUOTIENT,),  # it keeps the sign
        "div(b, q)": (QUOTIENT,),  # the operand is declared nonnegative
    }


OWN = """
import sympy
from gp_prune import Elementwise, Reduction, operand, operator
from gp_prune.language.symbols import OverAxes, RealFunction

class Cosh(RealFunction):
    nargs = 1

    @staticmethod
    def written_out(x):
        return sympy.cosh(sympy.Min(sympy.Abs(x), 9))

@operator("cosh", shape=Elementwise(1), meaning="cosh(min(|x|, 9))", laws=["nonnegative", "even"],
          symbol=Cosh)
def cosh(x):
    return x.abs().clamp(max=9).cosh()

class Bump(RealFunction):
    nargs = 1
    bounds = (1.0, 2.0)

    @staticmethod
    def written_out(x):
        return 1 + 1 / (1 + x**2)

@operator("bump", shape=Elementwise(1), meaning="1 + 1 / (1 + x^2)", symbol=Bump)
def bump(x):
    return 1 + 1 / (1 + x * x)

class Peak(OverAxes):
    keeps_sign = True

    @staticmethod
    def numpy(x, dims):
        return x.max(axis=dims)

@operator("peak", shape=Reduction(), meaning="largest", symbol=Peak)
def peak(x, dims):
    return x.amax(dims)

@operand("q", axes="o", meaning="squared bias", nonnegative=True)
def q(layer):
    return layer.bias.square()
"""


@pytest.mark.many(5, 25)
def test_every_interval_holds_the_values(
    random_trees: Trees, tree_types: tuple[Axes, ...], many: int
) -> None:
    layer = synthetic_layer()
    intervals = Intervals(PRIMITIVES)
    bounded = 0
    for axes in tree_types:
        for tree in random_trees(axes, many, seed=73, most=8):
            low, high = intervals.of(to_sympy(tree))
            values = evaluate(tree, layer).double()
            slack = 1e-9 * values.abs().amax().clamp(min=1.0)
            assert not (values < low - slack).any(), tree
            assert not (values > high + slack).any(), tree
            bounded += low >= 0
    assert bounded > 2.4 * many


def test_definitions_of_named_forms() -> None:
    assert said("sum[i,k](abs(W))") == ((), ())
    assert said("nonzero(log(b))")[1] == (symbols.Indicator.definition,)
    notes, lines = said("min_max[o](" * 4 + "b" + ")" * 4)
    assert symbols.MinMax.definition in lines
    assert symbols.Div.note in notes  # the definition has the mark


def test_wide_terms_that_occur_twice_get_a_name() -> None:
    twice = "add(div(l2[i,k](mul(W, G)), b), tanh(l2[i,k](mul(W, G))))"
    printed = print_latex(parse(twice, PRIMITIVES), PRIMITIVES)
    assert printed.formula == r"\tanh\left(z_{o}\right) + \frac{z_{o}}{b_{o}}^{\dagger}"
    (term,) = printed.where
    assert term.startswith(r"z_{o} = \sqrt{\sum_{i,k}")
    assert printed.text == rf"{printed.formula}, \quad \text{{where }} {term}"
    assert written("add(square(b), tanh(square(b)))").count("z") == 0  # short terms stay
    plain = print_latex(parse(twice, PRIMITIVES), PRIMITIVES, name_terms=False)
    assert plain.where == ()
    assert plain.formula.count(r"\sqrt") == 2


def test_a_named_term_has_no_name_of_an_operand() -> None:
    """Also not of one outside the formula, whose sign would be printed in its place."""
    own = operand("z", axes="o", meaning="own", latex=r"\zeta")(lambda layer: layer.bias)
    text = "mul(add(std[i,k](W), b), add(std[i,k](W), gamma))"
    for primitives, sign in ((PRIMITIVES, "z_{o}"), (PRIMITIVES.extended([own]), "y_{o}")):
        printed = print_latex(parse(text, primitives), primitives)
        assert [line.split(" = ")[0] for line in printed.where] == [sign]
        assert "zeta" not in printed.text


def test_a_named_term_may_hold_another(random_trees: Trees) -> None:
    inner = "mean[n](abs(mean[s](mul(dZ, Z))))"
    outer = f"z_score[o](log({inner}))"
    printed = print_latex(parse(f"mul({outer}, tanh(by_max[o]({inner})))", PRIMITIVES), PRIMITIVES)
    assert [term[0] for term in printed.where] == ["z", "y"]
    for tree in random_trees(Axes("o"), 60, seed=75, least=4, most=8):
        where = print_latex(tree, PRIMITIVES).where
        names = [term[0] for term in where]
        assert len(set(names)) == len(names)
        for place, term in enumerate(where):  # a term is defined after what uses it
            earlier = "|".join(names[: place + 1])
            assert not re.search(rf"(?<![A-Za-z])({earlier})_\{{", term[1:]), where


def test_every_function_says_what_it_means() -> None:
    stated = {name: kind.definition for name, kind in builtin_functions().items()}
    assert None not in stated.values()
    common = {name for name, line in stated.items() if not line}
    assert common == {
        "MaxOver",
        "MinOver",
        "Maximum",
        "Minimum",
        "Sqrt",
        "Div",
    }  # sqrt prints its bars
    for line in filter(None, stated.values()):
        check_form(line)
