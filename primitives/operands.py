"""Operands: weights, batch normalisation, activations, gradients, class statistics, noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune.primitive import operand

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.layer import LayerRecord


@operand("W", axes="oik", meaning="weights")
def weights(layer: LayerRecord) -> Tensor:
    return layer.weight


@operand("b", axes="o", meaning="bias (0 where there is none)")
def bias(layer: LayerRecord) -> Tensor:
    return layer.bias


@operand("gamma", axes="o", latex=r"\gamma", meaning="batch-norm scale (1 without batch norm)")
def gamma(layer: LayerRecord) -> Tensor:
    return layer.gamma


@operand("beta", axes="o", latex=r"\beta", meaning="batch-norm shift (the bias without batch norm)")
def beta(layer: LayerRecord) -> Tensor:
    return layer.beta


@operand(
    "mu",
    axes="o",
    latex=r"\mu",
    needs=["outputs"],
    meaning="batch-norm running mean (mean of Z without batch norm)",
)
def running_mean(layer: LayerRecord) -> Tensor:
    return layer.require("mu")


@operand(
    "var",
    axes="o",
    nonnegative=True,
    latex=r"\sigma^{2}",
    needs=["outputs"],
    meaning="batch-norm running variance (variance of Z without batch norm)",
)
def running_variance(layer: LayerRecord) -> Tensor:
    return layer.require("var")


@operand("G", axes="oik", needs=["gradients"], meaning="gradient of the loss by the weights")
def weight_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("weight_grad")


@operand(
    "Ggamma",
    axes="o",
    latex=r"G^{\gamma}",
    needs=["gradients"],
    meaning="gradient of the loss by gamma (sum of W G without batch norm)",
)
def gamma_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("gamma_grad")


@operand(
    "Gbeta",
    axes="o",
    latex=r"G^{\beta}",
    needs=["gradients"],
    meaning="gradient of the loss by beta (by the bias without batch norm)",
)
def beta_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("beta_grad")


@operand("X", axes="ins", needs=["inputs"], meaning="input of the layer, a seeded sample")
def layer_input(layer: LayerRecord) -> Tensor:
    return layer.require("inputs")


@operand(
    "Xn",
    axes="ik",
    nonnegative=True,
    latex=r"\lVert X \rVert",
    needs=["inputs"],
    meaning="l2 norm of the unfolded input per input channel and tap",
)
def input_norm(layer: LayerRecord) -> Tensor:
    return layer.require("input_norm")


@operand("Z", axes="ons", needs=["outputs"], meaning="output before the activation function")
def pre_activation(layer: LayerRecord) -> Tensor:
    return layer.require("pre_activation")


@operand("A", axes="ons", needs=["outputs"], meaning="output after the activation function")
def activation(layer: LayerRecord) -> Tensor:
    return layer.require("activation")


@operand("muP", axes="oc", latex=r"\mu^{P}", needs=["labels"], meaning="mean of A in a class")
def class_mean(layer: LayerRecord) -> Tensor:
    return layer.require("class_mean")


@operand(
    "varP",
    axes="oc",
    latex=r"\sigma^{2,P}",
    needs=["labels"],
    nonnegative=True,
    meaning="variance of A in a class",
)
def class_variance(layer: LayerRecord) -> Tensor:
    return layer.require("class_var")


@operand(
    "nP", axes="c", latex="n^{P}", needs=["labels"], nonnegative=True, meaning="samples in a class"
)
def class_count(layer: LayerRecord) -> Tensor:
    return layer.require("class_count")


@operand(
    "muQ",
    axes="oc",
    latex=r"\mu^{Q}",
    needs=["labels"],
    meaning="mean of A in all other classes",
)
def rest_mean(layer: LayerRecord) -> Tensor:
    return layer.require("rest_mean")


@operand(
    "varQ",
    axes="oc",
    nonnegative=True,
    latex=r"\sigma^{2,Q}",
    needs=["labels"],
    meaning="variance of A in all other classes",
)
def rest_variance(layer: LayerRecord) -> Tensor:
    return layer.require("rest_var")


@operand(
    "nQ",
    axes="c",
    latex="n^{Q}",
    needs=["labels"],
    nonnegative=True,
    meaning="samples in all other classes",
)
def rest_count(layer: LayerRecord) -> Tensor:
    return layer.require("rest_count")


@operand(
    "U",
    axes="o",
    needs=["noise"],
    searchable=False,
    nonnegative=True,
    meaning="a uniform random number per channel",
)
def channel_noise(layer: LayerRecord) -> Tensor:
    return layer.require("noise")[:, 0, 0]


@operand(
    "UW",
    axes="oik",
    nonnegative=True,
    latex="U",
    needs=["noise"],
    searchable=False,
    meaning="a uniform random number per weight",
)
def weight_noise(layer: LayerRecord) -> Tensor:
    return layer.require("noise")
