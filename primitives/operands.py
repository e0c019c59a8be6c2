"""Operands: what a formula may read of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune.language.primitive import Operand, operand

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.language.record import LayerRecord


WORDS: dict[str, tuple[str, str]] = {
    "W": ("the weight", "weight"),
    "b": ("the bias", "activation"),
    "gamma": ("the batch-norm scale", "activation"),
    "beta": ("the batch-norm shift", "activation"),
    "mu": ("the batch-norm mean", "activation"),
    "var": ("the batch-norm variance", "activation^2"),
    "G": ("the gradient with respect to the weight", "loss/weight"),
    "Ggamma": ("the gradient with respect to the batch-norm scale", "loss/activation"),
    "Gbeta": ("the gradient with respect to the batch-norm shift", "loss/activation"),
    "X": ("the input", "input"),
    "Xn": ("the norm of the input", "input"),
    "Z": ("the output before the activation function", "activation"),
    "A": ("the activation", "activation"),
    "muP": ("the mean activation in the class", "activation"),
    "varP": ("the variance of the activation in the class", "activation^2"),
    "nP": ("the number of samples in the class", ""),
    "muQ": ("the mean activation outside the class", "activation"),
    "varQ": ("the variance of the activation outside the class", "activation^2"),
    "nQ": ("the number of samples outside the class", ""),
    "UW": ("the random number", ""),
    "mP": ("the mean map of the class", "activation"),
    "mQ": ("the mean map outside the class", "activation"),
    "mA": ("the mean map", "activation"),
    "kPP": ("the mean kernel in the class", ""),
    "kQQ": ("the mean kernel outside the class", ""),
    "kPQ": ("the mean kernel between the class and the others", ""),
    "G2": (
        "the mean square of the gradient with respect to the weight over mini-batches",
        "loss^2/weight^2",
    ),
    "Gn2": (
        "the mean square of the gradient with respect to the weight over samples",
        "loss^2/weight^2",
    ),
    "WG2": ("the mean square of the filter's sum of weight times gradient", "loss^2"),
    "Ggamma2": (
        "the mean square of the gradient with respect to the batch-norm scale",
        "loss^2/activation^2",
    ),
    "Gbeta2": (
        "the mean square of the gradient with respect to the batch-norm shift",
        "loss^2/activation^2",
    ),
    "Ggammabeta": (
        "the mean product of the gradients with respect to the batch-norm scale and shift",
        "loss^2/activation^2",
    ),
    "Hg": ("the Hessian-gradient product of the weight", "loss^2/weight^3"),
    "R": ("the synaptic-flow gradient with respect to the weight", "flow/weight"),
    "dZ": (
        "the gradient with respect to the output before the activation function",
        "loss/activation",
    ),
    "rk": ("the rank of the map", ""),
    "nm": ("the nuclear norm of the map", "activation"),
    "nl": ("the loss of nuclear norm without the channel", "activation"),
    "Hd": ("the diagonal of the Cholesky factor of the inverse input Gram matrix", "1/input"),
    "V": ("the outgoing weight", "weight"),
    "GV": ("the gradient with respect to the outgoing weight", "loss/weight"),
    "GV2": (
        "the mean square of the gradient with respect to the outgoing weight over mini-batches",
        "loss^2/weight^2",
    ),
    "GVn2": (
        "the mean square of the gradient with respect to the outgoing weight over samples",
        "loss^2/weight^2",
    ),
}
"""What one entry of each operand is called in words, and its unit."""


BATCHES = (
    "mean over mini-batches of 32 samples (L: mean loss of the mini-batch; each counts by its "
    "number of samples)"
)
"""What the operands of mini-batches are averaged over."""


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
    phrase, unit = WORDS[name]
    declare = operand(
        name,
        axes=axes,
        meaning=meaning,
        latex=latex,
        needs=needs.split(),
        searchable=searchable,
        nonnegative=nonnegative,
        source=field,
        phrase=phrase,
        unit=unit,
    )
    return declare(lambda layer: layer.require(field))


@operand(
    "U",
    axes="o",
    needs=["noise"],
    searchable=False,
    nonnegative=True,
    meaning="a uniform random number per channel",
    phrase="the random number",
    unit="",
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
    _field("G", "oik", "weight_grad", "gradients", r"\frac{\partial L}{\partial W_{#}}",
           "gradient of L, the mean loss, with respect to the weights"),
    _field("Ggamma", "o", "gamma_grad", "gradients", r"\frac{\partial L}{\partial \gamma_{#}}",
           "gradient of L, the mean loss, with respect to gamma (without batch norm: the sum over "
           "the filter of each weight times the gradient with respect to it)"),
    _field("Gbeta", "o", "beta_grad", "gradients", r"\frac{\partial L}{\partial \beta_{#}}",
           "gradient of L, the mean loss, with respect to beta (to the bias without batch norm)"),
    _field("X", "ins", "inputs", "inputs", "X", "input of the layer"),
    _field("Xn", "ik", "input_norm", "inputs",
           r"\lVert X_{#,\cdot,\cdot} \rVert_{2}",
           "l2 norm, over samples and positions, of the input of channel i that tap k reads",
           nonnegative=True),
    _field("Z", "ons", "pre_activation", "outputs", "Z", "output before the activation function"),
    _field("A", "ons", "activation", "outputs", "A",
           "output after the activation function; of a layer that ends in a residual sum, the "
           "output of the sum"),
    _field("muP", "oc", "class_mean", "labels", r"\mu", "mean of A in class c"),
    _field("varP", "oc", "class_var", "labels", r"\sigma^{2}",
           "variance of A in class c", nonnegative=True),
    _field("nP", "c", "class_count", "labels", "n", "samples in class c", nonnegative=True),
    _field("muQ", "oc", "rest_mean", "labels", r"\mu_{#1,\bar{#2}}",
           "mean of A in all classes but c"),
    _field("varQ", "oc", "rest_var", "labels", r"\sigma^{2}_{#1,\bar{#2}}",
           "variance of A in all classes but c", nonnegative=True),
    _field("nQ", "c", "rest_count", "labels", r"n_{\bar{#1}}",
           "samples in all classes but c", nonnegative=True),
    _field("UW", "oik", "noise", "noise", "U",
           "a uniform random number per weight", nonnegative=True, searchable=False),
    _field("mP", "ocs", "class_map", "centroids", "m", "mean map of A in class c"),
    _field("mQ", "ocs", "rest_map", "centroids", r"m_{#1,\bar{#2},#3}",
           "mean map of A in all classes but c"),
    _field("mA", "os", "mean_map", "centroids", "m", "mean map of A"),
    _field("kPP", "oc", "kernel_class", "kernels", "k_{#1,#2 #2}",
           "mean of the kernel exp(-|x - y|^2 / 2) over all pairs of maps x, y of A in class c, a "
           "map with itself included", nonnegative=True),
    _field("kQQ", "oc", "kernel_rest", "kernels", r"k_{#1,\bar{#2} \bar{#2}}",
           "mean of the kernel exp(-|x - y|^2 / 2) over all pairs of maps x, y of A in all classes "
           "but c, a map with itself included", nonnegative=True),
    _field("kPQ", "oc", "kernel_between", "kernels", r"k_{#1,#2 \bar{#2}}",
           "mean of the kernel exp(-|x - y|^2 / 2) over all pairs of a map x of A in class c and a "
           "map y in the other classes",
           nonnegative=True),
    _field("G2", "oik", "fisher", "fisher", r"\overline{(\partial L / \partial W_{#})^{2}}",
           f"squared gradient of L with respect to the weights, {BATCHES}",
           nonnegative=True),
    _field("Gn2", "oik", "sample_fisher", "sample_fisher",
           r"\overline{(\partial L_{n} / \partial W_{#})^{2}}",
           "squared gradient of the loss of sample n with respect to the weights, mean over "
           "samples (empirical Fisher)", nonnegative=True),
    _field("WG2", "o", "filter_square", "fisher",
           r"\overline{\langle W_{#}, \partial L / \partial W_{#} \rangle^{2}}",
           "squared sum over the filter of each weight times the gradient of L with respect to it, "
           f"{BATCHES}",
           nonnegative=True),
    _field("Ggamma2", "o", "gamma_square", "fisher",
           r"\overline{(\partial L / \partial \gamma_{#})^{2}}",
           f"squared gradient of L with respect to gamma, {BATCHES}",
           nonnegative=True),
    _field("Gbeta2", "o", "beta_square", "fisher",
           r"\overline{(\partial L / \partial \beta_{#})^{2}}",
           f"squared gradient of L with respect to beta, {BATCHES}",
           nonnegative=True),
    _field("Ggammabeta", "o", "gamma_beta_product", "fisher",
           r"\overline{(\partial L / \partial \gamma_{#}) (\partial L / \partial \beta_{#})}",
           f"product of the gradients of L with respect to gamma and to beta, {BATCHES}"),
    _field("Hg", "oik", "hessian_grad", "hessian", r"\left(H \nabla L\right)_{#}",
           "Hessian H of L, the mean loss, with respect to the weights, times the gradient of L "
           "(GraSP)"),
    _field("R", "oik", "synflow_grad", "synflow", r"\frac{\partial R}{\partial W_{#}}",
           "gradient with respect to the weights of R, the summed output of the network with the "
           "magnitudes of its weights, for an input of ones (SynFlow)"),
    _field("dZ", "ons", "output_grad", "output_gradients",
           r"\frac{\partial L_{#2}}{\partial Z_{#}}",
           "gradient of the loss of sample n with respect to Z"),
    _field("rk", "on", "map_rank", "map_ranks", r"\operatorname{rank}(A_{#})",
           "rank of the activation map", nonnegative=True),
    _field("nm", "on", "map_nuclear", "map_spectra", r"\lVert A_{#} \rVert_{*}",
           "nuclear norm, the sum of the singular values, of the activation map of a sample as a "
           "matrix of rows by columns", nonnegative=True),
    _field("nl", "on", "nuclear_loss", "map_norms", r"\Delta_{#1} \lVert A_{#2} \rVert_{*}",
           "nuclear norm (sum of the singular values) of the matrix of all maps of sample n, "
           "channels by positions, minus that of this matrix with row o set to 0 (CHIP)"),
    _field("Hd", "ik", "inverse_factor", "second_moments", "C",
           "diagonal of the upper triangular U with U^T U = (S + 0.01 d I)^-1, where S is the "
           "sum over samples and positions of x x^T, x the unfolded input (all i and k), and d"
           " the mean of the diagonal of S (SparseGPT)",
           nonnegative=True),
    _field("V", "oj", "outgoing", "outgoing", "W^{+}",
           "weights of the next layers that read the channel"),
    _field("GV", "oj", "outgoing_grad", "outgoing gradients",
           r"\frac{\partial L}{\partial W^{+}_{#}}",
           "gradient of L, the mean loss, with respect to the weights that read the channel"),
    _field("GV2", "oj", "outgoing_fisher", "outgoing fisher",
           r"\overline{(\partial L / \partial W^{+}_{#})^{2}}",
           f"squared gradient of L with respect to the weights that read the channel, {BATCHES}",
           nonnegative=True),
    _field("GVn2", "oj", "outgoing_sample_fisher", "outgoing sample_fisher",
           r"\overline{(\partial L_{n} / \partial W^{+}_{#})^{2}}",
           "squared gradient of the loss of sample n with respect to the weights that read the "
           "channel, mean over samples "
           "(empirical Fisher)", nonnegative=True),
]
