"""Operands: what a formula may read of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune.language.primitive import Operand, operand

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.language.record import LayerRecord


def _field(
    name: str,
    axes: str,
    field: str,
    needs: str,
    latex: str,
    meaning: str,
    nonnegative: bool = False,
    searchable: bool = True,
) -> Operand:
    """Declare an operand that is one field of the layer record; needs are separated by blanks."""
    declare = operand(
        name,
        axes=axes,
        meaning=meaning,
        latex=latex,
        needs=needs.split(),
        searchable=searchable,
        nonnegative=nonnegative,
        source=field,
    )
    return declare(lambda layer: layer.require(field))


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


# fmt: off
FIELDS = [
    # name, axes, field of the layer record, needs, LaTeX, meaning
    _field("W", "oik", "weight", "", "W", "weights"),
    _field("b", "o", "bias", "", "b", "bias (0 where there is none)"),
    _field("gamma", "o", "gamma", "", r"\gamma", "batch-norm scale (1 without batch norm)"),
    _field("beta", "o", "beta", "", r"\beta", "batch-norm shift (the bias without batch norm)"),
    _field("mu", "o", "mu", "outputs", r"\mu",
           "batch-norm running mean (mean of Z without batch norm)"),
    _field("var", "o", "var", "outputs", r"\sigma^{2}",
           "batch-norm running variance (variance of Z without batch norm)", nonnegative=True),
    _field("G", "oik", "weight_grad", "gradients", "G", "gradient of the loss by the weights"),
    _field("Ggamma", "o", "gamma_grad", "gradients", r"G^{\gamma}",
           "gradient of the loss by gamma (sum of W G without batch norm)"),
    _field("Gbeta", "o", "beta_grad", "gradients", r"G^{\beta}",
           "gradient of the loss by beta (by the bias without batch norm)"),
    _field("X", "ins", "inputs", "inputs", "X", "input of the layer"),
    _field("Xn", "ik", "input_norm", "inputs", r"\lVert X \rVert",
           "l2 norm of the unfolded input per input channel and tap", nonnegative=True),
    _field("Z", "ons", "pre_activation", "outputs", "Z", "output before the activation function"),
    _field("A", "ons", "activation", "outputs", "A",
           "output after the activation function (that of the residual sum, where it is in one)"),
    _field("muP", "oc", "class_mean", "labels", r"\mu^{P}", "mean of A in a class"),
    _field("varP", "oc", "class_var", "labels", r"\sigma^{2,P}",
           "variance of A in a class", nonnegative=True),
    _field("nP", "c", "class_count", "labels", "n^{P}", "samples in a class", nonnegative=True),
    _field("muQ", "oc", "rest_mean", "labels", r"\mu^{Q}", "mean of A in all other classes"),
    _field("varQ", "oc", "rest_var", "labels", r"\sigma^{2,Q}",
           "variance of A in all other classes", nonnegative=True),
    _field("nQ", "c", "rest_count", "labels", "n^{Q}",
           "samples in all other classes", nonnegative=True),
    _field("UW", "oik", "noise", "noise", "U",
           "a uniform random number per weight", nonnegative=True, searchable=False),
    _field("mP", "ocs", "class_map", "centroids", "m^{P}", "mean map of A in a class"),
    _field("mQ", "ocs", "rest_map", "centroids", "m^{Q}", "mean map of A in all other classes"),
    _field("mA", "os", "mean_map", "centroids", "m^{A}", "mean map of A"),
    _field("kPP", "oc", "kernel_class", "kernels", "k^{PP}",
           "mean RBF kernel of two maps of A in a class", nonnegative=True),
    _field("kQQ", "oc", "kernel_rest", "kernels", "k^{QQ}",
           "mean RBF kernel of two maps of A in all other classes", nonnegative=True),
    _field("kPQ", "oc", "kernel_between", "kernels", "k^{PQ}",
           "mean RBF kernel of a map of A in a class and one in the others", nonnegative=True),
    _field("G2", "oik", "fisher", "fisher", r"\overline{G^{2}}",
           "squared gradient by the weights, mean over mini-batches of 32 samples",
           nonnegative=True),
    _field("Gn2", "oik", "sample_fisher", "sample_fisher", r"\overline{g^{2}}",
           "squared gradient of a sample's loss by the weights, mean over samples "
           "(empirical Fisher)", nonnegative=True),
    _field("WG2", "o", "filter_square", "fisher", r"\overline{\langle W, G \rangle^{2}}",
           "squared sum of W G over the filter, mean over mini-batches of 32 samples",
           nonnegative=True),
    _field("Ggamma2", "o", "gamma_square", "fisher", r"\overline{(G^{\gamma})^{2}}",
           "squared Ggamma, mean over mini-batches of 32 samples", nonnegative=True),
    _field("Gbeta2", "o", "beta_square", "fisher", r"\overline{(G^{\beta})^{2}}",
           "squared Gbeta, mean over mini-batches of 32 samples", nonnegative=True),
    _field("Ggammabeta", "o", "gamma_beta_product", "fisher",
           r"\overline{G^{\gamma} G^{\beta}}",
           "Ggamma times Gbeta, mean over mini-batches of 32 samples"),
    _field("Hg", "oik", "hessian_grad", "hessian", "H G",
           "Hessian of the loss times its gradient (GraSP)"),
    _field("R", "oik", "synflow_grad", "synflow", "R",
           "gradient of the summed output of the network of absolute weights (SynFlow)"),
    _field("dZ", "ons", "output_grad", "output_gradients", r"\partial Z",
           "gradient of the loss of each sample by Z"),
    _field("rk", "on", "map_rank", "map_ranks", r"\operatorname{rank} A",
           "rank of the activation map", nonnegative=True),
    _field("nl", "on", "nuclear_loss", "map_norms", r"\Delta\lVert A \rVert_{*}",
           "what the nuclear norm of all maps of a sample loses without the channel (CHIP)"),
    _field("Hd", "ik", "inverse_factor", "second_moments", "C^{X}",
           "diagonal of the Cholesky factor of the inverse damped Gram of the input (SparseGPT)",
           nonnegative=True),
    _field("V", "oj", "outgoing", "outgoing", "W^{+}",
           "weights of the next layers that read the channel"),
    _field("GV", "oj", "outgoing_grad", "outgoing gradients", "G^{+}",
           "gradient of the loss by the weights V"),
    _field("GV2", "oj", "outgoing_fisher", "outgoing fisher", r"\overline{(G^{+})^{2}}",
           "squared gradient by the weights V, mean over mini-batches of 32 samples",
           nonnegative=True),
    _field("GVn2", "oj", "outgoing_sample_fisher", "outgoing sample_fisher",
           r"\overline{(g^{+})^{2}}",
           "squared gradient of a sample's loss by the weights V, mean over samples "
           "(empirical Fisher)", nonnegative=True),
]
