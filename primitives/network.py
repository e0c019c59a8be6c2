"""Operands of a layer's place in the traced network: one number each, for shares of layers."""

from __future__ import annotations

from gp_prune.language.primitive import Operand, operand


def _place(name: str, latex: str, phrase: str, meaning: str) -> Operand:
    """Declare an operand that is one number of the layer record."""
    declare = operand(
        name,
        axes="",
        meaning=meaning,
        latex=latex,
        needs=["network"],
        nonnegative=True,
        source=name,
        phrase=phrase,
        unit="",
    )
    return declare(lambda layer: layer.require(name))


PLACES = [
    _place(
        "macs_freed",
        r"\Delta_{\mathrm{MACs}}",
        "the MACs",
        "MACs of the network that go with one channel of the layer, divided by their mean over "
        "all channels that may be cut",
    ),
    _place(
        "params_freed",
        r"\Delta_{\mathrm{params}}",
        "the parameters",
        "parameters of the network that go with one channel of the layer, divided by their mean "
        "over all channels that may be cut",
    ),
    _place(
        "channels",
        r"\mathrm{channels}",
        "the count",
        "number of channels of the layer",
    ),
    _place(
        "depth",
        r"\mathrm{depth}",
        "the place",
        "place of the layer among all L layers: (l - 1/2) / L for the l-th, in module order",
    ),
    _place(
        "stride",
        r"\mathrm{stride}",
        "the factor",
        "largest stride of the layer; of a transposed convolution its inverse, 1 of a linear layer",
    ),
    _place(
        "residual",
        r"\mathrm{residual}",
        "the mark",
        "1 where several layers make the channels together, as in a residual sum; 0 elsewhere",
    ),
]
