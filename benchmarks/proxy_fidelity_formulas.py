"""The formulas of benchmarks/proxy_fidelity.py: published, written by hand, drawn at random."""

from __future__ import annotations

from gp_prune.language.expression import Expression
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.metric import Metric

_PUBLISHED = (
    "activation_variance", "apoz", "bn_scale", "class_map_energy", "conjunctive_activation",
    "fdr", "fpgm", "gecco_1", "gecco_2", "gecco_3", "gecco_4", "geo_median", "grasp",
    "group_hessian", "group_norm", "group_taylor", "l1", "l2", "lamp", "mean_activation",
    "mean_activation_energy", "obd", "pruner_zero", "random", "ria", "snip", "snr",
    "sparsegpt", "symmetric_divergence", "synflow", "t_test", "taylor_2017", "taylor_bn",
    "taylor_gate", "taylor_sum", "taylor_weights", "wanda",
)  # fmt: skip
"""Metrics that were bundled when the study began, but for those that take minutes to measure on
ResNet-20: nuclear norms, ranks, kernels."""

_HAND_WRITTEN = (
    "var[n,s](A) * sum[j](V^2)",
    "std[n,s](A) * sum[j](abs(V))",
    "mean[n,s](abs(A)) * sum[j](abs(V))",
    "mean[n,s](A^2) * sum[j](V^2)",
    "var[c](muP) * sum[j](V^2)",
    "std[c](muP) * l2[j](V)",
    "sum[s](var[c](mP)) * sum[j](V^2)",
    "mean[s](var[c](mP)) * sum[j](V^2)",
    "mean[s](var[n](A)) * sum[j](V^2)",
    "var[n](mean[s](A)) * sum[j](V^2)",
    "sum[j](V^2)",
    "sum[j](abs(V))",
    "l2[i,k](W) * l2[j](V)",
    "sum[i,k](abs(W)) * sum[j](abs(V))",
    "var[n,s](A)",
    "var[c](muP)",
    "abs(gamma) * sum[j](abs(V))",
    "mean[c](abs(muP - muQ)) * sum[j](abs(V))",
    "mean[n,s](dZ^2) * var[n,s](Z)",
    "mean[n,s](dZ^2) * mean[n,s](A^2)",
    "abs(sum[j](V * GV))",
    "sum[j](V^2 * GV2)",
    "sum[i,k](abs(W * G)) * sum[j](abs(V * GV))",
    "mean[n](abs(mean[s](dZ * A)))",
)

_DRAWN = (
    "mean[n](max[s](A))",
    "sub(square(0.00016), std[c,s](mP))",
    "at_least(mul(0.066, exp(neg(Ggamma))), z_score[o](by_max[o](tanh(beta))))",
    "l2[i,k](sqrt(W))",
    "square(mean[n,s](min_max[o,n,s](dZ)))",
    "min[c,s](at_least(nQ, mA))",
    "square(max[n,s](dZ))",
    "mul(max[j](log(GV2)), square(at_least(-0.0241, 0.709)))",
    "l1[c,s](sub(mul(mQ, muP), div(varQ, muP)))",
    "minimum(mean[c](min_max[o](varQ)), tanh(sum[i,k](Hd)))",
    "sum[n,s](div(exp(minimum(beta, dZ)), nonzero(minimum(Gbeta, dZ))))",
    "l2[s](maximum(Ggamma, mA))",
    "mean[j](div(mul(min[i,k](Hd), z_score[o](beta)), sqrt(minimum(Ggamma2, V))))",
    "by_sum[o](maximum(neg(0.000228), var[c,s](mP)))",
    "exp(sqrt(maximum(5.44, var)))",
    "by_sum[o](minimum(2.32, var))",
)
"""Random trees of the search's generator, as text, since what it draws follows the vocabulary."""


def formulas() -> dict[str, Expression]:
    """Return name -> formula, all of type {o}."""
    primitives = builtin_primitives()
    found = {name: Metric.load(name).expression for name in _PUBLISHED}
    return found | {text: parse(text, primitives) for text in (*_HAND_WRITTEN, *_DRAWN)}
