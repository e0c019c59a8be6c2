"""Operands: the weights that read a channel further on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune.language.primitive import operand

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.language.record import LayerRecord


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


@operand(
    "mP",
    axes="ocs",
    latex=r"m^{P}",
    needs=["centroids"],
    meaning="mean map of A in a class",
)
def class_map(layer: LayerRecord) -> Tensor:
    return layer.require("class_map")


@operand(
    "mQ",
    axes="ocs",
    latex=r"m^{Q}",
    needs=["centroids"],
    meaning="mean map of A in all other classes",
)
def rest_map(layer: LayerRecord) -> Tensor:
    return layer.require("rest_map")


@operand(
    "mA",
    axes="os",
    latex=r"m^{A}",
    needs=["centroids"],
    meaning="mean map of A",
)
def mean_map(layer: LayerRecord) -> Tensor:
    return layer.require("mean_map")


@operand(
    "kPP",
    axes="oc",
    nonnegative=True,
    latex=r"k^{PP}",
    needs=["kernels"],
    meaning="mean RBF kernel of two maps of A in a class",
)
def kernel_class(layer: LayerRecord) -> Tensor:
    return layer.require("kernel_class")


@operand(
    "kQQ",
    axes="oc",
    nonnegative=True,
    latex=r"k^{QQ}",
    needs=["kernels"],
    meaning="mean RBF kernel of two maps of A in all other classes",
)
def kernel_rest(layer: LayerRecord) -> Tensor:
    return layer.require("kernel_rest")


@operand(
    "kPQ",
    axes="oc",
    nonnegative=True,
    latex=r"k^{PQ}",
    needs=["kernels"],
    meaning="mean RBF kernel of a map of A in a class and one in the others",
)
def kernel_between(layer: LayerRecord) -> Tensor:
    return layer.require("kernel_between")


@operand(
    "G2",
    axes="oik",
    nonnegative=True,
    latex=r"\overline{G^{2}}",
    needs=["fisher"],
    meaning="squared gradient of a small batch, mean over batches (empirical Fisher)",
)
def fisher(layer: LayerRecord) -> Tensor:
    return layer.require("fisher")


@operand(
    "Hg",
    axes="oik",
    latex=r"H G",
    needs=["hessian"],
    meaning="Hessian of the loss times its gradient (GraSP)",
)
def hessian_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("hessian_grad")


@operand(
    "R",
    axes="oik",
    needs=["synflow"],
    meaning="gradient of the summed output of the network of absolute weights (SynFlow)",
)
def synflow_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("synflow_grad")


@operand(
    "dZ",
    axes="ons",
    latex=r"\partial Z",
    needs=["output_gradients"],
    meaning="gradient of the loss of each sample by Z",
)
def output_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("output_grad")


@operand(
    "rk",
    axes="on",
    nonnegative=True,
    latex=r"\operatorname{rank} A",
    needs=["map_ranks"],
    meaning="rank of the activation map",
)
def map_rank(layer: LayerRecord) -> Tensor:
    return layer.require("map_rank")


@operand(
    "nl",
    axes="on",
    latex=r"\Delta\lVert A \rVert_{*}",
    needs=["map_norms"],
    meaning="what the nuclear norm of all maps of a sample loses without the channel (CHIP)",
)
def nuclear_loss(layer: LayerRecord) -> Tensor:
    return layer.require("nuclear_loss")


@operand(
    "Hd",
    axes="ik",
    nonnegative=True,
    latex=r"C^{X}",
    needs=["second_moments"],
    meaning="diagonal of the Cholesky factor of the inverse damped Gram of the input (SparseGPT)",
)
def inverse_factor(layer: LayerRecord) -> Tensor:
    return layer.require("inverse_factor")


@operand(
    "V",
    axes="oj",
    latex=r"W^{+}",
    needs=["outgoing"],
    meaning="weights of the next layers that read the channel",
)
def outgoing_weights(layer: LayerRecord) -> Tensor:
    return layer.require("outgoing")


@operand(
    "GV",
    axes="oj",
    latex=r"G^{+}",
    needs=["outgoing", "gradients"],
    meaning="gradient of the loss by the weights V",
)
def outgoing_gradient(layer: LayerRecord) -> Tensor:
    return layer.require("outgoing_grad")


@operand(
    "GV2",
    axes="oj",
    latex=r"\overline{(G^{+})^{2}}",
    needs=["outgoing", "fisher"],
    meaning="mean squared gradient of batches of 32 samples by the weights V (empirical Fisher)",
)
def outgoing_fisher(layer: LayerRecord) -> Tensor:
    return layer.require("outgoing_fisher")
