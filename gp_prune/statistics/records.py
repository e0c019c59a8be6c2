"""Putting together what is known of a layer into its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.language.record import LayerRecord
from gp_prune.statistics.gradients import Gradients
from gp_prune.statistics.layers import (
    TRANSPOSED,
    dense_weight,
    effective,
    effective_weight,
    to_dense,
)
from gp_prune.statistics.recording import Recorder
from gp_prune.statistics.running import derive_seed
from gp_prune.statistics.sampling import uniform


class Consumer(NamedTuple):
    """A layer that reads output channels of another; plain data, without tensors.

    Attributes:
        module: dotted name of the reading layer.
        entries: ``entries[q]`` are the input entries of the reader that carry output entry ``q``
            of the layer that is read: none, one, or several (behind a flattening one for each
            position).
    """

    module: str
    entries: tuple[tuple[int, ...], ...]


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


def outgoing(
    channels: int, readers: Sequence[Consumer], columns: Callable[[str], Tensor], like: Tensor
) -> Tensor:
    """Everything that reads each output channel of a layer, reader after reader.

    Args:
        channels: number of output channels of the layer.
        readers: the layers that read them.
        columns: name of a reader -> its numbers by input entry, see :func:`by_input`.
        like: a tensor of the device that the result should have.

    Returns:
        (o, j), float64; rows of channels that fewer weights read are filled up with zeros, and
        where nothing is read, there is one column of zeros.
    """
    blocks = [torch.zeros(channels, 0, dtype=torch.float64, device=like.device)]
    for reader in readers:
        table = columns(reader.module)
        width = max((len(entries) for entries in reader.entries), default=0)
        nothing = table.shape[0]
        table = torch.cat([table, table.new_zeros(1, table.shape[1])])
        index = [[*entries, *[nothing] * (width - len(entries))] for entries in reader.entries]
        chosen = torch.tensor(index, dtype=torch.int64, device=table.device)
        blocks.append(table[chosen.reshape(channels, width)].flatten(1))
    found = torch.cat(blocks, dim=1)
    return found if found.shape[1] else found.new_zeros(channels, 1)


Measurements = dict[str, Tensor | None]


def measures_outputs(norm: nn.Module | None) -> bool:
    """Whether mean and variance must be measured because no batch norm has running ones."""
    return norm is None or getattr(norm, "running_mean", None) is None


def parameters_of(module: nn.Module, norm: nn.Module | None) -> dict[str, Tensor]:
    """``weight`` (o, i, k), ``bias``, ``gamma`` and ``beta`` (o,), and running ``mu`` and ``var``.

    Without batch norm gamma is 1 and beta the bias; a missing bias or shift is 0, a missing
    scale 1.
    """
    weight = dense_weight(module)
    zeros = weight.new_zeros(weight.shape[0])
    bias = _vector(module, "bias", zeros)
    found = {"weight": weight, "bias": bias, "gamma": zeros + 1, "beta": bias}
    if norm is not None:
        found["gamma"] = _vector(norm, "weight", zeros + 1)
        found["beta"] = _vector(norm, "bias", zeros)
    if norm is not None and not measures_outputs(norm):
        found["mu"] = _vector(norm, "running_mean", zeros)
        found["var"] = _vector(norm, "running_var", zeros + 1)
    return found


def _vector(module: nn.Module, field: str, default: Tensor) -> Tensor:
    value = effective(module, field)
    return default if value is None else value.to(default).clone()


def recorded(name: str, recorder: Recorder, needs: AbstractSet[str]) -> Measurements:
    """Everything that the recorder measured on a layer, by field of the record."""
    statistics = recorder.statistics[name]
    found: Measurements = {
        "inputs": statistics.inputs.result(),
        "pre_activation": statistics.pre_activation.result(),
        "activation": statistics.activation.result(),
        "output_grad": statistics.output_grad.result(),
    }
    if statistics.energy is not None:
        found["input_norm"] = statistics.energy.sqrt()
    if statistics.products is not None:
        found["inverse_factor"] = statistics.products.result()
    if statistics.output_moments.count.numel():
        found["mu"] = statistics.output_moments.mean[:, 0]
        found["var"] = statistics.output_moments.variance[:, 0]
    classes = recorder.class_count.shape[0]
    for meter in statistics.meters:
        found.update(meter.result(classes))
    if "labels" in needs:
        moments = statistics.class_moments
        moments.grow(classes)
        rest = moments.rest()
        found["class_mean"], found["class_var"] = moments.mean, moments.variance
        found["rest_mean"], found["rest_var"] = rest.mean, rest.variance
        found["class_count"] = recorder.class_count
        found["rest_count"] = recorder.class_count.sum() - recorder.class_count
    return found


def differentiated(
    module: nn.Module, norm: nn.Module | None, weight: Tensor, gradients: Gradients
) -> Measurements:
    """``weight_grad`` (o, i, k), ``gamma_grad`` and ``beta_grad`` (o,).

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


@dataclass
class Measured:
    """What the passes over the data have measured on all layers, before it is sorted by layer.

    Attributes:
        needs: what was asked for.
        modules: name -> module, for the layers and their readers.
        readers: name of a layer -> the layers that read it; a layer that is missing has none.
        noise_seed: seed of the noise.
        recorder: what was measured in forward passes, if any.
        gradients: what was measured in backward passes, if any.
        curvature: Hessian times gradient, if wanted.
        flow: gradients of SynFlow, if wanted.
    """

    needs: AbstractSet[str]
    modules: Mapping[str, nn.Module]
    readers: Mapping[str, Sequence[Consumer]]
    noise_seed: int
    recorder: Recorder | None = None
    gradients: Gradients | None = None
    curvature: Gradients | None = None
    flow: Gradients | None = None

    def release(self, name: str) -> None:
        """Let go what no other layer's record needs."""
        if self.recorder is not None:
            self.recorder.statistics.pop(name)


def _from_backward(
    name: str, norm: nn.Module | None, weight: Tensor, measured: Measured
) -> Measurements:
    """What was measured with gradients of any kind."""
    module, gradients = measured.modules[name], measured.gradients
    found: Measurements = {}

    def dense(value: Tensor | None) -> Tensor | None:
        return None if value is None else to_dense(value, module)

    if gradients is not None and "gradients" in measured.needs:
        found.update(differentiated(module, norm, weight, gradients))
    if gradients is not None and "fisher" in measured.needs:
        found["fisher"] = dense(gradients.mean_square(module, "weight"))
    if measured.curvature is not None:
        found["hessian_grad"] = dense(measured.curvature.mean(module, "weight"))
    if measured.flow is not None:
        found["synflow_grad"] = dense(measured.flow.mean(module, "weight"))
    return found


def _from_readers(name: str, weight: Tensor, measured: Measured) -> Measurements:
    """``outgoing`` and, with gradients, ``outgoing_grad`` and ``outgoing_fisher`` (o, j)."""
    readers, gradients = measured.readers.get(name, ()), measured.gradients

    def beside(read: Callable[[nn.Module], Tensor | None]) -> Tensor:
        def of(reader: str) -> Tensor:
            module = measured.modules[reader]
            value = read(module)
            # A reader that did not run has no influence on the loss.
            value = torch.zeros_like(effective_weight(module)) if value is None else value
            return by_input(value, module)

        return outgoing(weight.shape[0], readers, of, weight)

    found: Measurements = {"outgoing": beside(effective_weight)}
    if gradients is not None and "gradients" in measured.needs:
        found["outgoing_grad"] = beside(lambda module: gradients.mean(module, "weight"))
    if gradients is not None and "fisher" in measured.needs:
        found["outgoing_fisher"] = beside(lambda module: gradients.mean_square(module, "weight"))
    return found


def _is_finite(value: Tensor) -> bool:
    """Whether all numbers are; their sum says so in a third of the time, unless it overflows."""
    return bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())


def build_record(
    name: str, norm: nn.Module | None, measured: Measured, device: torch.device
) -> LayerRecord:
    """The record of one layer, on ``device``.

    Args:
        name: dotted name of the layer.
        norm: its batch norm, or None.
        measured: what was measured on all layers.
        device: where the tensors go.

    Raises:
        UserError: a value is not finite.
    """
    found: Measurements = {**parameters_of(measured.modules[name], norm)}
    weight = found["weight"]
    assert weight is not None
    if measured.recorder is not None:
        found.update(recorded(name, measured.recorder, measured.needs))
    found.update(_from_backward(name, norm, weight, measured))
    if "outgoing" in measured.needs:
        found.update(_from_readers(name, weight, measured))
    if "noise" in measured.needs:
        seed = derive_seed(measured.noise_seed, name, "noise", bits=63)
        found["noise"] = uniform(tuple(weight.shape), seed)
    for field, value in found.items():
        if value is not None and not _is_finite(value):  # of few bits the sum is quicker
            raise UserError(
                f"layer {name!r} has a {field} that is not finite; "
                "check the model's weights and the data"
            )
    placed = {
        field: None if value is None else value.to(device, torch.float64)
        for field, value in found.items()
    }
    known = {item.name for item in fields(LayerRecord)}
    assert set(placed) <= known
    return LayerRecord(name=name, has_batch_norm=norm is not None, **placed)  # type: ignore[arg-type]
