"""Put together what was measured on a layer into its record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.language.record import MAP_FIELDS, LayerRecord
from gp_prune.statistics.gradients import Gradients
from gp_prune.statistics.layers import (
    TRANSPOSED,
    dense_weight,
    effective,
    effective_weight,
    to_dense,
)
from gp_prune.statistics.recording import Recorder, is_finite
from gp_prune.statistics.running import derive_seed
from gp_prune.statistics.sampling import Sampling

Fields = dict[str, Tensor | None]
"""Field of a record -> measurement, or None where there is none."""


_GROWTH = {"input_norm": 0.5, "class_count": 1.0, "rest_count": 1.0}
"""Field -> power of the number of samples with which it grows; where samples are left out, it is
scaled up to all of them."""


class Consumer(NamedTuple):
    """A layer that reads output channels of another; plain data, without tensors.

    Attributes:
        module: dotted name of the reading layer.
        entries: ``entries[q]`` are the input entries of the reader that carry output entry ``q``
            of the layer that is read: none, one, or several (one for each position where a map
            was flattened).
    """

    module: str
    entries: tuple[tuple[int, ...], ...]


class LayerPlace(NamedTuple):
    """The place of a layer in its network; plain data, see ``gp_prune.primitives.network``.

    Attributes:
        macs_freed: MACs that go with one of its channels, relative to the mean channel.
        params_freed: parameters that go with one of its channels, relative to the mean channel.
        channels: number of channels.
        depth: its place among all layers, in (0, 1).
        residual: whether several layers make its channels together.
    """

    macs_freed: float
    params_freed: float
    channels: int
    depth: float
    residual: bool


def by_input(weight: Tensor, module: nn.Module) -> Tensor:
    """Sort a tensor in the layout of a layer's weight by the input entry that each weight reads.

    Args:
        weight: as for :func:`~gp_prune.statistics.layers.to_dense`.
        module: the layer that the tensor belongs to.

    Returns:
        (i, o / groups * k), float64.
    """
    values = weight.detach().to(torch.float64)
    if isinstance(module, nn.Linear):
        return values.T
    if isinstance(module, TRANSPOSED):
        return values.flatten(1)
    groups = int(module.groups)  # type: ignore[arg-type]
    blocks = values.reshape(groups, values.shape[0] // groups, *values.shape[1:]).flatten(3)
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)


def uniform(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return independent uniform numbers in the open interval (0, 1), float64, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(shape, dtype=torch.float64, generator=generator)
    return numbers.clamp(min=2.0**-54)  # torch.rand may return 0


def draw_noise(layer: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return the noise of a layer (o, i, k), float64, on the CPU: the measurement ``"noise"``.

    Args:
        layer: name of the layer.
        shape: of its weights.
        seed: of the measurements.
    """
    return uniform(shape, derive_seed(seed, layer, "noise", bits=63))


def _stride(module: nn.Module) -> float:
    """Return the largest stride of a layer; of a transposed convolution its inverse."""
    stride = getattr(module, "stride", 1)
    largest = float(max(stride) if isinstance(stride, tuple) else stride)
    return 1 / largest if isinstance(module, TRANSPOSED) else largest


def has_running_statistics(norm: nn.Module | None) -> bool:
    """Return whether a batch norm knows mean and variance, so that they need no measuring."""
    return getattr(norm, "running_mean", None) is not None


def _parameters(module: nn.Module, norm: nn.Module | None) -> Fields:
    """Return ``weight`` (o, i, k), ``bias``, ``gamma``, ``beta`` and running ``mu`` and ``var``.

    Without batch norm gamma is 1 and beta the bias; a missing bias or shift is 0, a missing
    scale 1.
    """
    weight = dense_weight(module)
    zeros = weight.new_zeros(weight.shape[0])

    def vector(owner: nn.Module, field: str, default: Tensor) -> Tensor:
        value = effective(owner, field)
        return default if value is None else value.to(default).clone()

    bias = vector(module, "bias", zeros)
    fields: Fields = {"weight": weight, "bias": bias, "gamma": zeros + 1, "beta": bias}
    if norm is not None:
        fields["gamma"] = vector(norm, "weight", zeros + 1)
        fields["beta"] = vector(norm, "bias", zeros)
        if has_running_statistics(norm):
            fields["mu"] = vector(norm, "running_mean", zeros)
            fields["var"] = vector(norm, "running_var", zeros + 1)
    return fields


def _gradients(
    module: nn.Module, norm: nn.Module | None, weight: Tensor, gradients: Gradients
) -> Fields:
    """Return ``weight_grad`` (o, i, k), ``gamma_grad`` and ``beta_grad`` (o,).

    Without batch norm the scale of a channel acts as a common factor of its weights, so its
    gradient is the sum of weight times gradient.
    """
    grad = gradients.mean(module, "weight")
    if grad is None:
        return {}
    dense = to_dense(grad, module)
    if norm is None:
        gamma: Tensor | None = (weight * dense).sum((1, 2))
        beta = gradients.mean(module, "bias")
    else:
        gamma, beta = gradients.mean(norm, "weight"), gradients.mean(norm, "bias")
    zeros = dense.new_zeros(dense.shape[0])
    return {
        "weight_grad": dense,
        "gamma_grad": zeros if gamma is None else gamma,
        "beta_grad": zeros if beta is None else beta,
    }


def _squares(
    module: nn.Module, norm: nn.Module | None, weight: Tensor, gradients: Gradients
) -> Fields:
    """Return the mean squares and products of gradients by scale, shift and filter, all (o,)."""
    owner = module if norm is None else norm
    found = {
        "filter_square": gradients.mean_scale_square(module),
        "gamma_square": gradients.mean_scale_square(owner),
        "beta_square": gradients.mean_square(owner, "bias"),
        "gamma_beta_product": gradients.mean_scale_times_shift(owner),
    }
    zeros = weight.new_zeros(weight.shape[0])
    return {field: zeros if value is None else value for field, value in found.items()}


@dataclass
class Measured:
    """What the passes over the data have measured on all layers.

    Attributes:
        needs: what was asked for.
        modules: name -> module, for the layers and their consumers.
        norms: name of a layer -> the batch norm after it, or None.
        consumers: name of a layer -> the layers that read it; a layer that is missing has none.
        places: name of a layer -> its place in the network.
        seed: seed of the noise.
        recorder: what was measured in forward passes, if any.
        gradients: what was measured in backward passes, if any.
        curvature: Hessian times gradient, if wanted.
        flow: gradients of SynFlow, if wanted.
        sampling: how much was seen of the maps.
        samples: samples that were seen, and that the data has.
        streamed: fields that formulas read as they came.
        exact: whether maps become float64; else they stay in the precision of the network.
    """

    needs: AbstractSet[str]
    modules: Mapping[str, nn.Module]
    norms: Mapping[str, nn.Module | None]
    consumers: Mapping[str, Sequence[Consumer]]
    places: Mapping[str, LayerPlace]
    seed: int
    recorder: Recorder | None = None
    gradients: Gradients | None = None
    curvature: Gradients | None = None
    flow: Gradients | None = None
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    samples: tuple[int, int] = (0, 0)
    streamed: AbstractSet[str] = frozenset()
    exact: bool = True

    def forget(self, name: str) -> None:
        """Let go what belongs to a layer alone."""
        if self.recorder is not None:
            self.recorder.forget(name)

    def record(self, name: str, device: torch.device) -> LayerRecord:
        """Return what was measured so far on a layer, on a device.

        Raises:
            UserError: a value is not finite.
        """
        norm = self.norms[name]
        fields = _parameters(self.modules[name], norm)
        weight = fields["weight"]
        assert weight is not None
        from_data: Fields = {}
        if self.recorder is not None:
            from_data |= self.recorder.fields(name)
        some, of = self.samples
        for field, power in _GROWTH.items():
            value = from_data.get(field)
            if value is not None and 0 < some < of:
                from_data[field] = value * (of / some) ** power
        from_data |= self._from_backward(name, weight)
        fields |= from_data
        if "outgoing" in self.needs:
            fields |= self._from_consumers(name, weight)
        if "network" in self.needs:
            fields |= self._from_place(name, weight)
        if "noise" in self.needs:
            fields["noise"] = draw_noise(name, tuple(weight.shape), self.seed)
        for field, value in fields.items():
            if value is not None and not is_finite(value):  # before it becomes float64: quicker
                raise UserError(
                    f"layer {name!r} has a {field} that is not finite; "
                    "check the model's weights and the data"
                )
        moved: dict[str, Any] = {
            field: value.to(device, value.dtype if self._stays(field) else torch.float64)
            for field, value in fields.items()
            if value is not None
        }
        seen = {field for field, value in from_data.items() if value is not None}
        coverage = {
            field: self.sampling.coverage(name, field, *self.samples)
            for field in sorted((seen | self.streamed) - {"synflow_grad"})
        }
        groups = int(getattr(self.modules[name], "groups", 1))
        return LayerRecord(
            name=name, has_batch_norm=norm is not None, groups=groups, coverage=coverage, **moved
        )

    def _stays(self, field: str) -> bool:
        """Return whether a field stays in the precision of the network."""
        return not self.exact and field in MAP_FIELDS

    def _from_backward(self, name: str, weight: Tensor) -> Fields:
        """Return what was measured with gradients of any kind."""
        module, gradients = self.modules[name], self.gradients
        fields: Fields = {}
        if gradients is not None and "gradients" in self.needs:
            fields |= _gradients(module, self.norms[name], weight, gradients)
        by_weight: Fields = {}
        if gradients is not None and "fisher" in self.needs:
            by_weight["fisher"] = gradients.mean_square(module, "weight")
            fields |= _squares(module, self.norms[name], weight, gradients)
        if gradients is not None and "sample_fisher" in self.needs:
            by_weight["sample_fisher"] = gradients.mean_sample_square(module)
        if self.curvature is not None:
            by_weight["hessian_grad"] = self.curvature.mean(module, "weight")
        if self.flow is not None:
            by_weight["synflow_grad"] = self.flow.mean(module, "weight")
        for field, value in by_weight.items():
            fields[field] = None if value is None else to_dense(value, module)
        return fields

    def _from_place(self, name: str, weight: Tensor) -> Fields:
        """Return the numbers of the layer's place; none where it makes no channels."""
        if name not in self.places:
            return {}
        numbers = {**self.places[name]._asdict(), "stride": _stride(self.modules[name])}
        return {field: weight.new_tensor(float(number)) for field, number in numbers.items()}

    def _from_consumers(self, name: str, weight: Tensor) -> Fields:
        """Return ``outgoing`` and what was measured of its gradients."""
        gradients = self.gradients
        fields: Fields = {"outgoing": self._outgoing(name, weight, effective_weight)}
        if gradients is not None and "gradients" in self.needs:
            fields["outgoing_grad"] = self._outgoing(
                name, weight, lambda module: gradients.mean(module, "weight")
            )
        if gradients is not None and "fisher" in self.needs:
            fields["outgoing_fisher"] = self._outgoing(
                name, weight, lambda module: gradients.mean_square(module, "weight")
            )
        if gradients is not None and "sample_fisher" in self.needs:
            fields["outgoing_sample_fisher"] = self._outgoing(
                name, weight, gradients.mean_sample_square
            )
        return fields

    def _outgoing(
        self, name: str, weight: Tensor, read: Callable[[nn.Module], Tensor | None]
    ) -> Tensor:
        """Return what ``read`` gives of the consumers of each output channel, side by side (o, j).

        Rows of channels that fewer weights read are filled up with zeros; where nothing is read,
        there is one column of zeros.
        """
        channels = weight.shape[0]
        blocks = [weight.new_zeros(channels, 0)]
        for consumer in self.consumers.get(name, ()):
            module = self.modules[consumer.module]
            value = read(module)
            if value is None:  # it did not run, so it has no influence on the loss
                value = torch.zeros_like(effective_weight(module))
            table = by_input(value, module)
            table = torch.cat([table, table.new_zeros(1, table.shape[1])])
            width = max((len(entries) for entries in consumer.entries), default=0)
            index = [[*entries, *[-1] * (width - len(entries))] for entries in consumer.entries]
            rows = torch.tensor(index, dtype=torch.int64, device=table.device)
            blocks.append(table[rows.reshape(channels, width)].flatten(1))
        joined = torch.cat(blocks, dim=1)
        return joined if joined.shape[1] else joined.new_zeros(channels, 1)
