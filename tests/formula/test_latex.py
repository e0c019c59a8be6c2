"""LaTeX of formulas: well formed, and the reference metrics as a person would write them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from gp_prune.formula.latex import definitions, latex, to_sympy
from gp_prune.language import symbols
from gp_prune.language.axes import Axes
from gp_prune.language.expression import Expression
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_functions, builtin_primitives
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


def test_random_trees_are_well_formed(random_trees: Trees, tree_types: tuple[Axes, ...]) -> None:
    for axes in tree_types:
        for tree in random_trees(axes, 32, seed=71, most=8):
            check_form(latex(tree, PRIMITIVES))


REFERENCE = {
    "activation_variance": r"\sum_{s} \operatorname{std}_{n} A_{o,n,s}",
    "apoz": r"\frac{1}{N_{n} N_{s}} \sum_{n,s} \left[A_{o,n,s} \neq 0\right]",
    "bn_scale": r"\left|\gamma_{o}\right|",
    "chip": r"\frac{1}{N_{n}} \sum_{n} {\Delta\lVert A \rVert_{*}}_{o,n}",
    "conjunctive_activation": r"\frac{1}{N_{n}} \sum_{n} \left[\frac{\frac{1}{N_{s}} \sum_{s} "
    r"A_{o,n,s} - \min_{o'} \frac{1}{N_{s}} \sum_{s} A_{o',n,s}}{\max_{o'} \frac{1}{N_{s}} "
    r"\sum_{s} A_{o',n,s} - \min_{o'} \frac{1}{N_{s}} \sum_{s} A_{o',n,s}}_{\!\epsilon} \geq "
    r"0.1\right]",
    "di": r"\sum_{c} n^{P}_{c} \left\lVert m^{P}_{o,c,\cdot} - m^{A}_{o,\cdot} "
    r"\right\rVert^{2}_{\left(\operatorname{scatter}_{n}\left(A_{o,n,\cdot}\right) + 0.0001 "
    r"I\right)^{-1}}",
    "fdr": r"\frac{1}{N_{c}} \sum_{c} \frac{\left(\mu^{P}_{o,c} - "
    r"\mu^{Q}_{o,c}\right)^{2}}{\sigma^{2,P}_{o,c} + \sigma^{2,Q}_{o,c} + 0.0001}_{\!\epsilon}",
    "fpgm": r"\sum_{p} \lVert W_{o,\cdot,\cdot} - W_{p,\cdot,\cdot} \rVert_2",
    "gecco_1": r"\sum_{c,s} \left(\frac{\left(\sigma^{2,Q}_{o,c} - "
    r"m^{A}_{o,s}\right)^{2}}{\sigma^{2,P}_{o,c} + \sigma^{2,Q}_{o,c} + 0.05}_{\!\epsilon} + "
    r"\sigma^{2,P}_{o,c}\right)",
    "gecco_2": r"\sum_{c,s} \left(\frac{\left(m^{A}_{o,s} \sigma^{2,Q}_{o,c} "
    r"\operatorname{std}_{s'} m^{A}_{o,s'} - \mu^{Q}_{o,c} + "
    r"\sigma^{2,P}_{o,c}\right)^{2}}{\sigma^{2,P}_{o,c} + \sigma^{2,Q}_{o,c} + "
    r"0.05}_{\!\epsilon} + \frac{\sigma^{2,P}_{o,c}}{\sigma^{2,Q}_{o,c} + 0.05}_{\!\epsilon} + "
    r"\frac{\sigma^{2,Q}_{o,c}}{\sigma^{2,P}_{o,c} + 0.05}_{\!\epsilon}\right)",
    "gecco_3": r"\sum_{c,s} \frac{\left(m^{A}_{o,s} - "
    r"\sigma^{2,Q}_{o,c}\right)^{2}}{\sqrt{\frac{\sigma^{2,P}_{o,c}}{n^{P}_{c}}_{\!\epsilon} "
    r"+ \frac{\sigma^{2,Q}_{o,c}}{n^{Q}_{c}}_{\!\epsilon} + 0.0001}}_{\!\epsilon}",
    "gecco_4": r"\sum_{c,s} \left(\left|\mu^{P}_{o,c} - \mu^{Q}_{o,c}\right| + "
    r"\frac{\sigma^{2,P}_{o,c}}{\frac{\sigma^{2,Q}_{o,c}}{n^{Q}_{c}}_{\!\epsilon} + "
    r"0.05}_{\!\epsilon} + m^{Q}_{o,c,s} + 0.05\right)",
    "geo_median": r"\sqrt{\sum_{i,k} \left(W_{o,i,k} - \operatorname{medoid}_{o'} "
    r"W_{o',i,k}\right)^{2}}",
    "grasp": r"\sum_{i,k} H G_{o,i,k} W_{o,i,k}",
    "grasp_weight": r"H G_{o,i,k} W_{o,i,k}",
    "group_hessian": r"\sum_{j} \overline{(g^{+})^{2}}_{o,j} \left(W^{+}_{o,j}\right)^{2} + "
    r"\sum_{i,k} \overline{g^{2}}_{o,i,k} W_{o,i,k}^{2}",
    "group_norm": r"\frac{1}{3} \left(\gamma_{o}^{2} + \sum_{j} \left(W^{+}_{o,j}\right)^{2} + "
    r"\sum_{i,k} W_{o,i,k}^{2}\right)",
    "group_taylor": r"\left|\sum_{j} G^{+}_{o,j} W^{+}_{o,j}\right| + \left|\sum_{i,k} G_{o,i,k} "
    r"W_{o,i,k}\right|",
    "hrank": r"\frac{1}{N_{n}} \sum_{n} \operatorname{rank} A_{o,n}",
    "l1": r"\sum_{i,k} \left|W_{o,i,k}\right|",
    "l2": r"\lVert W_{o,\cdot,\cdot} \rVert_2",
    "lamp": r"\sum_{i,k} \frac{W_{o,i,k}^{2}}{\sum_{o',i',k'} \left[W_{o',i',k'}^{2} \geq "
    r"W_{o,i,k}^{2}\right] W_{o',i',k'}^{2}}_{\!\epsilon}",
    "lamp_weight": r"\frac{W_{o,i,k}^{2}}{\sum_{o',i',k'} \left[W_{o',i',k'}^{2} \geq "
    r"W_{o,i,k}^{2}\right] W_{o',i',k'}^{2}}_{\!\epsilon}",
    "magnitude": r"\left|W_{o,i,k}\right|",
    "mean_activation": r"\frac{1}{N_{n} N_{s}} \sum_{n,s} \left|A_{o,n,s}\right|",
    "mmd": r"\frac{1}{N_{c}} \sum_{c} \left(k^{PP}_{o,c} - 2 k^{PQ}_{o,c} + k^{QQ}_{o,c}\right)",
    "obd": r"\frac{1}{2} \sum_{i,k} \overline{g^{2}}_{o,i,k} W_{o,i,k}^{2}",
    "obd_weight": r"\frac{\overline{g^{2}}_{o,i,k} W_{o,i,k}^{2}}{2}",
    "pruner_zero": r"\sum_{i,k} \frac{\sqrt{\overline{g^{2}}_{o,i,k}} - \min_{o',i',k'} "
    r"\sqrt{\overline{g^{2}}_{o',i',k'}}}{\max_{o',i',k'} \sqrt{\overline{g^{2}}_{o',i',k'}} - "
    r"\min_{o',i',k'} \sqrt{\overline{g^{2}}_{o',i',k'}}}_{\!\epsilon} W_{o,i,k}^{2}",
    "pruner_zero_weight": r"\frac{\sqrt{\overline{g^{2}}_{o,i,k}} - \min_{o',i',k'} "
    r"\sqrt{\overline{g^{2}}_{o',i',k'}}}{\max_{o',i',k'} \sqrt{\overline{g^{2}}_{o',i',k'}} - "
    r"\min_{o',i',k'} \sqrt{\overline{g^{2}}_{o',i',k'}}}_{\!\epsilon} W_{o,i,k}^{2}",
    "random": r"U_{o}",
    "random_weight": r"U_{o,i,k}",
    "ria": r"\sum_{i,k} \left(\frac{\left|W_{o,i,k}\right|}{\sum_{o'} "
    r"\left|W_{o',i,k}\right|}_{\!\epsilon} + \frac{\left|W_{o,i,k}\right|}{\sum_{i',k'} "
    r"\left|W_{o,i',k'}\right|}_{\!\epsilon}\right) \sqrt{\lVert X \rVert_{i,k}}",
    "ria_weight": r"\left(\frac{\left|W_{o,i,k}\right|}{\sum_{o'} "
    r"\left|W_{o',i,k}\right|}_{\!\epsilon} + \frac{\left|W_{o,i,k}\right|}{\sum_{i',k'} "
    r"\left|W_{o,i',k'}\right|}_{\!\epsilon}\right) \sqrt{\lVert X \rVert_{i,k}}",
    "snip": r"\sum_{i,k} \left|G_{o,i,k} W_{o,i,k}\right|",
    "snip_weight": r"\left|G_{o,i,k} W_{o,i,k}\right|",
    "snr": r"\frac{1}{N_{c}} \sum_{c} \frac{\left|\mu^{P}_{o,c} - "
    r"\mu^{Q}_{o,c}\right|}{\sqrt{\sigma^{2,P}_{o,c}} + \sqrt{\sigma^{2,Q}_{o,c}} + "
    r"0.0001}_{\!\epsilon}",
    "sparsegpt": r"\sum_{i,k} \frac{W_{o,i,k}^{2}}{\left(C^{X}_{i,k}\right)^{2}}_{\!\epsilon}",
    "sparsegpt_weight": r"\frac{W_{o,i,k}^{2}}{\left(C^{X}_{i,k}\right)^{2}}_{\!\epsilon}",
    "symmetric_divergence": r"\frac{1}{N_{c}} \sum_{c} \left(\frac{1}{2} "
    r"\left(\frac{\left(\mu^{P}_{o,c} - \mu^{Q}_{o,c}\right)^{2}}{\sigma^{2,P}_{o,c} + "
    r"\sigma^{2,Q}_{o,c} + 0.05}_{\!\epsilon} + \frac{\sigma^{2,P}_{o,c}}{\sigma^{2,Q}_{o,c} "
    r"+ 0.05}_{\!\epsilon} + \frac{\sigma^{2,Q}_{o,c}}{\sigma^{2,P}_{o,c} + "
    r"0.05}_{\!\epsilon}\right) - 1\right)",
    "synflow": r"\sum_{i,k} \left|R_{o,i,k} W_{o,i,k}\right|",
    "synflow_weight": r"\left|R_{o,i,k} W_{o,i,k}\right|",
    "t_test": r"\frac{1}{N_{c}} \sum_{c} \frac{\left|\mu^{P}_{o,c} - "
    r"\mu^{Q}_{o,c}\right|}{\sqrt{\frac{\sigma^{2,P}_{o,c}}{n^{P}_{c}}_{\!\epsilon} + "
    r"\frac{\sigma^{2,Q}_{o,c}}{n^{Q}_{c}}_{\!\epsilon} + 0.0001}}_{\!\epsilon}",
    "taylor_2017": r"\frac{\frac{1}{N_{n}} \sum_{n} \left|\frac{1}{N_{s}} \sum_{s} Z_{o,n,s} "
    r"\partial Z_{o,n,s}\right|}{\sqrt{\sum_{o'} \frac{1}{N_{n}^{2}} \left(\sum_{n} "
    r"\left|\frac{1}{N_{s}} \sum_{s} Z_{o',n,s} \partial "
    r"Z_{o',n,s}\right|\right)^{2}}}_{\!\epsilon}",
    "taylor_bn": r"\overline{(G^{\beta})^{2}}_{o} \beta_{o}^{2} + \overline{(G^{\gamma})^{2}}_{o} "
    r"\gamma_{o}^{2} + 2 \overline{G^{\gamma} G^{\beta}}_{o} \beta_{o} \gamma_{o}",
    "taylor_gate": r"\frac{1}{N_{n}} \sum_{n} \left(\sum_{s} Z_{o,n,s} \partial "
    r"Z_{o,n,s}\right)^{2}",
    "taylor_sum": r"\overline{\langle W, G \rangle^{2}}_{o}",
    "taylor_weight": r"\overline{G^{2}}_{o,i,k} W_{o,i,k}^{2}",
    "taylor_weights": r"\sum_{i,k} \overline{G^{2}}_{o,i,k} W_{o,i,k}^{2}",
    "wanda": r"\sum_{i,k} \left|W_{o,i,k}\right| \lVert X \rVert_{i,k}",
    "wanda_weight": r"\left|W_{o,i,k}\right| \lVert X \rVert_{i,k}",
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
    "square(mean[i,k](W))": r"\frac{1}{N_{i}^{2} N_{k}^{2}} \left(\sum_{i,k} W_{o,i,k}\right)^{2}",
    "sqrt(mean[i,k](abs(W)))": r"\sqrt{\frac{1}{N_{i} N_{k}} \sum_{i,k} \left|W_{o,i,k}\right|}",
    "mul(l1[i,k](W), max[i,k](W))": r"\left(\max_{i,k} W_{o,i,k}\right) "
    r"\sum_{i,k} \left|W_{o,i,k}\right|",
    "max[i,k](neg(W))": r"\max_{i,k} \left(- W_{o,i,k}\right)",
    "square(max[i,k](abs(W)))": r"\left(\max_{i,k} \left|W_{o,i,k}\right|\right)^{2}",
    "mul(max[i,k](abs(W)), sqrt(max[i,k](abs(W))))": r"\left(\max_{i,k} \left|W_{o,i,k}\right|"
    r"\right)^{\frac{3}{2}}",
    "sum[k](sum[i](W))": r"\sum_{i,k} W_{o,i,k}",
    "square(nonzero(b))": r"\left[b_{o} \neq 0\right]",
    "square(tanh(b))": r"\tanh^{2}\left(b_{o}\right)",
    "square(log(b))": r"\log_{\epsilon}^{2}\left(b_{o}\right)",
    "exp(neg(b))": r"\exp_{50}\left(- b_{o}\right)",
    "square(var)": r"\left(\sigma^{2}_{o}\right)^{2}",
    "square(div(b, gamma))": r"\left(\frac{b_{o}}{\gamma_{o}}_{\!\epsilon}\right)^{2}",
    "mul(div(b, sum[c](nP)), gamma)": r"\frac{b_{o}}{\sum_{c} n^{P}_{c}}_{\!\epsilon} \gamma_{o}",
    "l2[i,k](Xn)": r"\sqrt{\sum_{i,k} \lVert X \rVert_{i,k}^{2}}",
    "min_max[o](b)": r"\frac{b_{o} - \min_{o'} b_{o'}}{\max_{o'} b_{o'} - \min_{o'} b_{o'}}"
    r"_{\!\epsilon}",
    "sum[i,k](sub(W, medoid(W)))": r"\sum_{i,k} \left(W_{o,i,k} - \operatorname{medoid}_{o'} "
    r"W_{o',i,k}\right)",
}


@pytest.mark.parametrize("text", READABLE)
def test_readable_forms(text: str) -> None:
    check_form(written(text))
    assert written(text) == READABLE[text]


def test_definitions_of_protected_forms() -> None:
    def used(text: str) -> list[str]:
        return definitions(to_sympy(parse(text, PRIMITIVES)), PRIMITIVES)

    assert used("sum[i,k](abs(W))") == []
    assert used("div(b, gamma)") == [symbols.Div.definition]
    assert used("nonzero(log(b))") == [symbols.Log.definition, symbols.Indicator.definition]
    nested = used("min_max[o](" * 4 + "b" + ")" * 4)
    assert symbols.MinMax.definition in nested


def test_every_function_says_what_it_means() -> None:
    stated = {name: kind.definition for name, kind in builtin_functions().items()}
    assert None not in stated.values()
    common = {name for name, line in stated.items() if not line}
    assert common == {"MaxOver", "MinOver", "Maximum", "Minimum", "Sqrt"}  # sqrt prints its bars
    for line in filter(None, stated.values()):
        check_form(line)
