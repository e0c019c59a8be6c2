"""Hold the raw measurements of one prunable layer, from which operands are read.

A :class:`LayerRecord` is what :mod:`gp_prune.statistics` measures and what the functions under
``@operand`` read. Fields that a metric does not need stay None; reading such a field through
:meth:`LayerRecord.require` names what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gp_prune.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.language.expression import Expression


NEEDS: dict[str, str] = {
    "inputs": "a forward pass over calibration data (layer inputs)",
    "outputs": "a forward pass over calibration data (layer outputs)",
    "labels": "a forward pass over calibration data with class labels",
    "gradients": "a forward and a backward pass over calibration data with a loss",
    "noise": "random numbers from the run's seed",
    "outgoing": "the layers that read each channel, from the traced network",
    "network": "the place of each layer in the traced network",
    "synflow": "one pass forward and backward on an input of ones, without data",
    "fisher": "a forward and a backward pass per 32 samples of calibration data with a loss",
    "sample_fisher": "a forward and a backward pass over calibration data with a loss "
    "(gradients of every sample)",
    "hessian": "two passes over calibration data with a loss, the second differentiated twice",
    "output_gradients": "a forward and a backward pass over calibration data with a loss, "
    "down to the layer outputs",
    "second_moments": "a forward pass over calibration data (products of layer inputs)",
    "centroids": "a forward pass over calibration data with class labels (mean maps)",
    "kernels": "a forward pass over calibration data with class labels (kernels between maps)",
    "map_ranks": "a forward pass over calibration data (ranks of whole activation maps)",
    "map_spectra": "a forward pass over calibration data (singular values of every activation map)",
    "map_norms": "a forward pass over calibration data (nuclear norms of whole activation maps)",
}
"""What an operand can need beyond the network itself, with the pass over the data it costs."""

LOSS_NEEDS = frozenset({"gradients", "fisher", "sample_fisher", "hessian", "output_gradients"})
"""Needs for which the data must have targets, and a loss compares the output with them."""

FAMILIES: dict[str, frozenset[str]] = {
    "labels": frozenset({"labels", "centroids", "kernels"}),
    "gradients": LOSS_NEEDS,
    "data": frozenset(NEEDS) - {"noise", "outgoing", "network", "synflow"},
    **{need: frozenset({need}) for need in NEEDS if need not in ("labels", "gradients", "noise")},
}
"""Families of operands: an operand belongs to each family of which it has a need. Those without any
need are the family ``weights``."""


def families_of(needs: AbstractSet[str]) -> tuple[str, ...]:
    """Return the families of an operand with these needs, see :data:`FAMILIES`."""
    if not needs:
        return ("weights",)
    return tuple(name for name, members in FAMILIES.items() if members & needs)


MAP_FIELDS: dict[str, str] = {
    "inputs": "inputs",
    "pre_activation": "outputs",
    "activation": "outputs",
    "output_grad": "output_gradients",
    "map_rank": "map_ranks",
    "map_nuclear": "map_spectra",
    "nuclear_loss": "map_norms",
}
"""Fields of a record that have a value for each sample (axis n), with the need that asks for them:
a formula that reads them can be evaluated on some samples after the others."""

MAP_NEEDS = frozenset(MAP_FIELDS.values())
"""Needs that ask for such fields."""


def map_fields(needs: AbstractSet[str]) -> frozenset[str]:
    """Return the fields of :data:`MAP_FIELDS` that needs ask for."""
    return frozenset(name for name, need in MAP_FIELDS.items() if need in needs)


CLASS_MAP_FIELDS = frozenset({"class_map", "rest_map", "mean_map"})
"""Fields of a record that have a value for each position (axis s), but not for each sample."""


class MissingMeasurement(UserError):
    """An operand needs a measurement that was not taken or that the model does not offer."""


class Coverage(NamedTuple):
    """How much of the data the measurement of a field saw.

    Attributes:
        samples: samples that were seen.
        of_samples: samples that the data has.
        positions: positions of each map that were seen; 1 where there are no maps.
        of_positions: positions that a map has.
    """

    samples: int
    of_samples: int
    positions: int = 1
    of_positions: int = 1

    @property
    def whole(self) -> bool:
        """Return whether everything was seen."""
        return self.samples == self.of_samples and self.positions == self.of_positions


@dataclass(frozen=True)
class LayerRecord:
    """Raw measurements of one layer; every tensor is float64 and on one device.

    Shapes are written with the axis letters of :mod:`gp_prune.language.axes`. The weights of a
    grouped layer are in a full ``(o, i, k)`` tensor whose entries between groups are zero; formulas
    are evaluated without these, see :mod:`gp_prune.language.grouped`.
    """

    name: str
    weight: Tensor  # (o, i, k)
    bias: Tensor  # (o,), zeros where the layer has none
    has_batch_norm: bool
    gamma: Tensor  # (o,), ones without batch norm
    beta: Tensor  # (o,), the bias without batch norm
    mu: Tensor | None = None  # (o,) running mean, or measured on Z ("outputs") without batch norm
    var: Tensor | None = None  # (o,) running variance, or measured on Z without batch norm
    weight_grad: Tensor | None = None  # (o, i, k), "gradients"
    gamma_grad: Tensor | None = None  # (o,), "gradients"
    beta_grad: Tensor | None = None  # (o,), "gradients"
    inputs: Tensor | None = None  # (i, n, s), "inputs"
    input_norm: Tensor | None = None  # (i, k), "inputs": l2 norm of the unfolded input, all samples
    pre_activation: Tensor | None = None  # (o, n, s), "outputs"
    activation: Tensor | None = None  # (o, n, s), "outputs"
    class_mean: Tensor | None = None  # (o, c), "labels": mean of A over one class, all samples
    class_var: Tensor | None = None  # (o, c), "labels": population variance
    class_count: Tensor | None = None  # (c,), "labels": number of samples
    rest_mean: Tensor | None = None  # (o, c), "labels": mean of A over all other classes
    rest_var: Tensor | None = None  # (o, c)
    rest_count: Tensor | None = None  # (c,)
    noise: Tensor | None = None  # (o, i, k), "noise": independent uniform numbers in (0, 1)
    outgoing: Tensor | None = None  # (o, j), "outgoing": weights that read the channel, 0 if none
    outgoing_grad: Tensor | None = None  # (o, j), "outgoing" and "gradients": their gradient
    synflow_grad: Tensor | None = None  # (o, i, k), "synflow": gradient of the summed output
    fisher: Tensor | None = None  # (o, i, k), "fisher": squared gradient, mean over mini-batches
    hessian_grad: Tensor | None = None  # (o, i, k), "hessian": Hessian times gradient of the loss
    output_grad: Tensor | None = None  # (o, n, s), "output_gradients": as pre_activation
    inverse_factor: Tensor | None = None  # (i, k), "second_moments": Cholesky factor's diagonal
    class_map: Tensor | None = None  # (o, c, s), "centroids": mean map of A in a class
    rest_map: Tensor | None = None  # (o, c, s), "centroids": mean map of A in all other classes
    mean_map: Tensor | None = None  # (o, s), "centroids": mean map of A, all samples
    kernel_class: Tensor | None = None  # (o, c), "kernels": mean kernel within a class
    kernel_rest: Tensor | None = None  # (o, c), "kernels": within all other classes
    kernel_between: Tensor | None = None  # (o, c), "kernels": between class and the others
    map_rank: Tensor | None = None  # (o, n), "map_ranks"
    nuclear_loss: Tensor | None = None  # (o, n), "map_norms"
    outgoing_fisher: Tensor | None = None  # (o, j), "outgoing" and "fisher": as fisher, of outgoing
    filter_square: Tensor | None = None  # (o,), "fisher": squared sum of weight times gradient
    gamma_square: Tensor | None = None  # (o,), "fisher": squared gradient by gamma
    beta_square: Tensor | None = None  # (o,), "fisher": squared gradient by beta
    gamma_beta_product: Tensor | None = None  # (o,), "fisher": gradient by gamma times by beta
    sample_fisher: Tensor | None = None  # (o, i, k), "sample_fisher": squared, mean over samples
    outgoing_sample_fisher: Tensor | None = None  # (o, j), "outgoing" and "sample_fisher"
    map_nuclear: Tensor | None = None  # (o, n), "map_spectra": nuclear norm of each map
    macs_freed: Tensor | None = None  # (), "network": see gp_prune.statistics.LayerPlace
    params_freed: Tensor | None = None  # (), "network"
    channels: Tensor | None = None  # (), "network"
    depth: Tensor | None = None  # (), "network"
    stride: Tensor | None = None  # (), "network"
    residual: Tensor | None = None  # (), "network"
    groups: int = 1
    """Groups of the layer; output channels of one read the inputs of that one alone."""
    values: Mapping[Expression, Tensor] = field(default_factory=dict, repr=False)
    """Subtrees of formulas whose value is known already, from all samples and positions."""
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    """Field -> how much of the data it was measured on."""

    def require(self, field: str) -> Tensor:
        """Return the tensor in ``field``.

        Raises:
            MissingMeasurement: the field was not measured on this layer.
        """
        value = getattr(self, field)
        if value is None:
            raise MissingMeasurement(
                f"layer {self.name!r} has no measurement {field!r}; "
                "collect statistics with data (and labels or a loss) that provide it"
            )
        return value  # type: ignore[no-any-return]


def synthetic_layer(seed: int = 0) -> LayerRecord:
    """Return a small layer with every measurement, the same on every machine and torch version.

    Sizes: o=4, i=3, k=4, n=5, s=3, c=3, j=2. Used to check primitives and saved metrics.

    The numbers come from an own linear congruential generator in exact integer arithmetic,
    because torch does not promise the same random stream in every release.
    """
    import torch

    state = seed * 2 + 1

    def numbers(*shape: int) -> Tensor:
        nonlocal state
        count = 1
        for size in shape:
            count *= size
        values = []
        for _ in range(count):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            values.append((state >> 11) / 2**53)
        return torch.tensor(values, dtype=torch.float64).reshape(shape)

    def signed(*shape: int) -> Tensor:
        return numbers(*shape) * 4 - 2

    o, i, k, n, s, c, j = 4, 3, 4, 5, 3, 3, 2
    pre_activation = signed(o, n, s)
    return LayerRecord(
        name="synthetic",
        weight=signed(o, i, k),
        bias=signed(o),
        has_batch_norm=True,
        gamma=signed(o),
        beta=signed(o),
        mu=signed(o),
        var=numbers(o) + 0.1,
        weight_grad=signed(o, i, k),
        gamma_grad=signed(o),
        beta_grad=signed(o),
        inputs=signed(i, n, s),
        input_norm=numbers(i, k) * 3,
        pre_activation=pre_activation,
        activation=pre_activation.clamp(min=0),
        class_mean=numbers(o, c),
        class_var=numbers(o, c) + 0.1,
        class_count=torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64),
        rest_mean=numbers(o, c),
        rest_var=numbers(o, c) + 0.1,
        rest_count=torch.tensor([3.0, 3.0, 4.0], dtype=torch.float64),
        noise=numbers(o, i, k),
        # New fields go to the end: the numbers of the others, on which saved scores rest, stay.
        outgoing=signed(o, j),
        outgoing_grad=signed(o, j),
        synflow_grad=numbers(o, i, k) + 0.1,
        fisher=numbers(o, i, k),
        hessian_grad=signed(o, i, k),
        output_grad=signed(o, n, s),
        inverse_factor=numbers(i, k) + 0.1,
        class_map=numbers(o, c, s),
        rest_map=numbers(o, c, s),
        mean_map=numbers(o, s),
        kernel_class=numbers(o, c),
        kernel_rest=numbers(o, c),
        kernel_between=numbers(o, c),
        map_rank=(numbers(o, n) * 3).floor(),
        nuclear_loss=numbers(o, n),
        outgoing_fisher=numbers(o, j),
        filter_square=numbers(o),
        gamma_square=numbers(o),
        beta_square=numbers(o),
        gamma_beta_product=signed(o) / 4,
        sample_fisher=numbers(o, i, k),
        outgoing_sample_fisher=numbers(o, j),
        map_nuclear=numbers(o, n) * 3,
        macs_freed=numbers() + 0.1,
        params_freed=numbers() + 0.1,
        channels=torch.tensor(float(o), dtype=torch.float64),
        depth=numbers(),
        stride=torch.tensor(2.0, dtype=torch.float64),
        residual=torch.tensor(1.0, dtype=torch.float64),
    )
