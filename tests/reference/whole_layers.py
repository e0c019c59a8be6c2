"""Every measurement of the layers of a network over all samples and positions, by its definition.

Plain torch, numpy and scipy with hooks of their own: nothing here uses the engine. The values have
the names and layouts of the fields of ``gp_prune.language.record.LayerRecord``. Maps are held
whole, so this is for small networks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from real_networks import CLASSES, Network
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from torch.nn import functional

MINI_BATCH = 32
"""Samples, in the order of the data, whose gradients are averaged before they are squared."""

Fields = dict[str, Any]


def measure(network: Network, batch_size: int) -> dict[str, Fields]:
    """Layer -> field -> array, float64."""
    layers = network.layers()
    found: dict[str, Fields] = {name: _parameters(network, name) for name in layers}
    slopes, single = _mean_gradients(network)
    apart = _sample_squares(network)
    curved, flow = _hessian_gradients(network.double(), batch_size), _synaptic_flow(network)
    maps = _maps(network, batch_size)
    for name, module in layers.items():
        fields = found[name]
        before, z, a = maps[name, "input"], maps[name, "Z"], maps[name, "A"]
        gradient = dense(module, slopes[f"{name}.weight"])
        norm = network.norms.get(name)
        bias = slopes.get(f"{name}.bias", torch.zeros(len(gradient)))
        fields |= {
            "weight_grad": gradient,
            "gamma_grad": (fields["weight"] * gradient).sum((1, 2))
            if norm is None
            else slopes[f"{norm}.weight"],
            "beta_grad": bias if norm is None else slopes[f"{norm}.bias"],
            **_squares(network, name, single),
            "sample_fisher": dense(module, apart[name]),
            "hessian_grad": dense(module, curved[f"{name}.weight"]),
            "synflow_grad": dense(module, flow[f"{name}.weight"]),
            "groups": torch.tensor(getattr(module, "groups", 1)),
            "inputs": _flat(before),
            "pre_activation": _flat(z),
            "activation": _flat(a),
            "output_grad": _flat(maps[name, "dZ"]),
            "map_rank": _ranks(a),
            "map_nuclear": _nuclear_norms(a),
            "nuclear_loss": _nuclear_losses(a),
        }
        fields |= _input_products(module, before)
        fields |= _class_statistics(_flat(a).numpy(), network.labels.numpy())
        if "mu" not in fields:
            values = _flat(maps[name, "raw"])
            fields["mu"], fields["var"] = values.mean((1, 2)), values.var((1, 2), correction=0)
    for name in layers:
        for field, kind in (
            ("outgoing", "weight"), ("outgoing_grad", "weight_grad"), ("outgoing_fisher", "fisher"),
            ("outgoing_sample_fisher", "sample_fisher"),
        ):  # fmt: skip
            found[name][field] = _read_by(network, name, {n: found[n][kind] for n in layers})
    return {
        name: {field: np.asarray(value, np.float64) for field, value in fields.items()}
        for name, fields in found.items()
    }


def dense(module: Any, weight: Tensor) -> Tensor:
    """(o, i, k), zero where a group has no weight."""
    weight = weight.double()
    if isinstance(module, nn.Linear):
        return weight.unsqueeze(2)
    outputs, inputs = module.out_channels, module.in_channels // module.groups
    full = weight.new_zeros(outputs, module.in_channels, weight[0, 0].numel())
    for o in range(outputs):
        first = o // (outputs // module.groups) * inputs
        full[o, first : first + inputs] = weight[o].flatten(1)
    return full


def _parameters(network: Network, name: str) -> Fields:
    module = network.layers()[name]
    weight = dense(module, module.weight)
    bias = torch.zeros(len(weight)) if module.bias is None else module.bias
    fields: Fields = {
        "weight": weight,
        "bias": bias,
        "gamma": torch.ones(len(weight)),
        "beta": bias,
    }
    if name in network.norms:
        norm: Any = network.model.get_submodule(network.norms[name])
        fields |= {"gamma": norm.weight, "beta": norm.bias}
        fields |= {"mu": norm.running_mean, "var": norm.running_var}
    return fields


def _read_by(network: Network, name: str, tensors: dict[str, Tensor]) -> Tensor:
    """(o, j): what belongs to the weights that read each channel; a column of 0 if none does.

    ``tensors`` has an (o, i, k) for every layer.
    """
    rows = []
    for q in range(len(tensors[name])):
        parts = [
            part(tensors[reader], q).flatten() for reader, part in network.readers[name].items()
        ]
        rows.append(torch.cat(parts) if parts else torch.zeros(1))
    return torch.stack(rows)


def _flat(maps: Tensor) -> Tensor:
    """(channels, n, positions) from (n, channels, ...), float64."""
    return maps.double().reshape(*maps.shape[:2], -1).transpose(0, 1)


@contextmanager
def _seen(network: Network) -> Iterator[dict[tuple[str, str], Tensor]]:
    """What the layers were given, returned raw, and Z and A, of the latest run inside."""
    now: dict[tuple[str, str], Tensor] = {}
    layers, hooks = network.layers(), []

    def keep(layer: str, *kinds: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            for kind in kinds:
                now[layer, kind] = args[0] if kind == "input" else output

        return hook

    for name, module in layers.items():
        hooks.append(module.register_forward_hook(keep(name, "input", "raw", "Z", "A")))
    for name, norm in network.norms.items():
        hooks.append(network.model.get_submodule(norm).register_forward_hook(keep(name, "Z", "A")))
    for name, activation in network.activations.items():
        hooks.append(network.model.get_submodule(activation).register_forward_hook(keep(name, "A")))
    try:
        yield now
    finally:
        for hook in hooks:
            hook.remove()


def _maps(network: Network, batch_size: int) -> dict[tuple[str, str], Tensor]:
    """Layer and kind -> the maps of all samples; dZ is the gradient of each sample's own loss."""
    parts: dict[tuple[str, str], list[Tensor]] = {}
    layers = network.layers()
    with torch.enable_grad(), _seen(network) as now:
        for images, labels in network.batches(batch_size):
            output = network.model(images.clone().requires_grad_())
            loss = functional.cross_entropy(output, labels, reduction="sum")
            slopes = torch.autograd.grad(loss, [now[name, "Z"] for name in layers])
            for name, slope in zip(layers, slopes, strict=True):
                parts.setdefault((name, "dZ"), []).append(slope)
            for key, value in now.items():
                parts.setdefault(key, []).append(value.detach())
    return {key: torch.cat(values) for key, values in parts.items()}


def _gradient(network: Network, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of the mean loss by every parameter."""
    named = {name: p.clone().requires_grad_() for name, p in network.model.named_parameters()}
    with torch.enable_grad():
        output: Any = torch.func.functional_call(network.model, named, (images,))
        loss = functional.cross_entropy(output, labels)
        slopes = torch.autograd.grad(loss, list(named.values()))
    return {name: slope.double() for name, slope in zip(named, slopes, strict=True)}


def _mean_gradients(network: Network) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """The gradient of the mean loss over all samples, and that of every mini-batch."""
    batches = network.batches(MINI_BATCH)
    single = [_gradient(network, images, labels) for images, labels in batches]
    shares = [len(labels) / len(network.labels) for _, labels in batches]
    total = {
        name: sum((s * row[name] for s, row in zip(shares, single, strict=True)), torch.zeros(()))
        for name in single[0]
    }
    return total, single


def _squares(network: Network, name: str, single: list[dict[str, Tensor]]) -> Fields:
    """Squares and products of the gradients of the mini-batches, mean weighted by samples."""
    module, norm = network.layers()[name], network.norms.get(name)
    weight, found = dense(module, module.weight), dict[str, Any]()
    for (_, labels), slopes in zip(network.batches(MINI_BATCH), single, strict=True):
        gradient = dense(module, slopes[f"{name}.weight"])
        of_filter = (weight * gradient).sum((1, 2))
        gamma = of_filter if norm is None else slopes[f"{norm}.weight"]
        beta = slopes.get(f"{name}.bias" if norm is None else f"{norm}.bias", 0 * gamma)
        products = {
            "fisher": gradient**2,
            "filter_square": of_filter**2,
            "gamma_square": gamma**2,
            "beta_square": beta**2,
            "gamma_beta_product": gamma * beta,
        }
        for field, value in products.items():
            found[field] = found.get(field, 0) + value * len(labels) / len(network.labels)
    return found


def _sample_squares(network: Network) -> dict[str, Tensor]:
    """The squared gradient of each sample's loss by the weights, mean over the samples."""
    names = {f"{name}.weight": name for name in network.layers()}
    fixed = dict(network.model.named_parameters())
    weights = {key: fixed.pop(key).detach() for key in names}

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        output: Any = torch.func.functional_call(
            network.model, {**fixed, **weights}, (image[None],)
        )
        return functional.cross_entropy(output, label[None])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
    total = {name: torch.zeros(()).double() for name in names.values()}
    for images, labels in network.batches(MINI_BATCH):
        for key, slopes in each(weights, images, labels).items():
            total[names[key]] = total[names[key]] + slopes.double().square().sum(0)
    return {name: value / len(network.labels) for name, value in total.items()}


def _hessian_gradients(network: Network, batch_size: int) -> dict[str, Tensor]:
    """The derivative along the gradient by all layer weights of that gradient; for float64."""
    slopes, _ = _mean_gradients(network)
    names = [f"{layer}.weight" for layer in network.layers()]
    weights = tuple(network.model.get_parameter(name) for name in names)
    along = tuple(slopes[name] for name in names)
    total = {name: torch.zeros_like(slope) for name, slope in zip(names, along, strict=True)}
    for images, labels in network.batches(batch_size):
        loss = partial(_loss_of_weights, network.model, names, images, labels)
        _, change = torch.autograd.functional.vhp(loss, weights, along)  # type: ignore[no-untyped-call]
        for name, value in zip(names, change, strict=True):
            total[name] += value * len(labels) / len(network.labels)
    return total


def _loss_of_weights(
    model: nn.Module, names: list[str], images: Tensor, labels: Tensor, *weights: Tensor
) -> Tensor:
    named = dict(zip(names, weights, strict=True))
    output: Any = torch.func.functional_call(model, named, (images,))
    return functional.cross_entropy(output, labels)


def _synaptic_flow(network: Network) -> dict[str, Tensor]:
    positive: Any = copy.deepcopy(network.model).double()
    for value in positive.state_dict().values():
        value.abs_()
    positive.requires_grad_()
    with torch.enable_grad():
        flow = positive(torch.ones_like(network.images[:1]).double()).sum()
        named = dict(positive.named_parameters())
        slopes = torch.autograd.grad(flow, list(named.values()), allow_unused=True)
    return {n: slope for n, slope in zip(named, slopes, strict=True) if slope is not None}


def _input_products(module: Any, inputs: Tensor) -> Fields:
    """The norm of what every tap reads, and SparseGPT's divisor, both (i, k)."""
    taps, groups = module.weight[0, 0].numel(), getattr(module, "groups", 1)
    gram: Any = 0.0
    for some in inputs.double().split(32):  # type: ignore[no-untyped-call]
        if isinstance(module, nn.Linear):
            columns = some
        else:
            columns = functional.unfold(
                some, module.kernel_size, padding=module.padding, stride=module.stride
            )
            columns = columns.transpose(1, 2).flatten(0, 1)  # (n * s, i * k)
        gram = gram + columns.T @ columns
    block = torch.arange(len(gram)) // (len(gram) // groups)
    gram = gram * (block[:, None] == block[None, :])
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    return {
        "input_norm": gram.diagonal().sqrt().reshape(-1, taps),
        "inverse_factor": upper.diagonal().reshape(-1, taps),
    }


def _class_statistics(maps: Any, labels: Any) -> Fields:
    """Of maps (o, n, s): moments, centroids and mean kernels, one class against the rest."""
    member = [labels == label for label in range(CLASSES)]
    kernels = []
    for one in maps:
        kernel = np.exp(-cdist(one, one, "sqeuclidean") / 2)
        kernels.append([
            (kernel[m][:, m].mean(), kernel[~m][:, ~m].mean(), kernel[m][:, ~m].mean())
            for m in member
        ])  # fmt: skip
    within, rest, between = np.moveaxis(np.array(kernels), 2, 0)
    return {
        "class_mean": np.stack([maps[:, m].mean((1, 2)) for m in member], 1),
        "class_var": np.stack([maps[:, m].var((1, 2)) for m in member], 1),
        "class_count": np.array([m.sum() for m in member]),
        "rest_mean": np.stack([maps[:, ~m].mean((1, 2)) for m in member], 1),
        "rest_var": np.stack([maps[:, ~m].var((1, 2)) for m in member], 1),
        "rest_count": np.array([(~m).sum() for m in member]),
        "class_map": np.stack([maps[:, m].mean(1) for m in member], 1),
        "rest_map": np.stack([maps[:, ~m].mean(1) for m in member], 1),
        "mean_map": maps.mean(1),
        "kernel_class": within,
        "kernel_rest": rest,
        "kernel_between": between,
    }


def _ranks(maps: Tensor) -> Tensor:
    """(o, n): ranks of the maps (n, o, h, w) in their own precision; of one number, 0 or 1.

    By torch's function, because another one rounds a singular value at its tolerance otherwise.
    """
    if maps.dim() == 2:
        return (maps.T != 0).double()
    return torch.stack([torch.linalg.matrix_rank(sample) for sample in maps], 1).double()


def _nuclear_norms(maps: Tensor) -> Any:
    """(o, n): sums of the singular values of the maps (n, o, h, w); of one number, its size."""
    matrices = maps.double().numpy() if maps.dim() == 4 else maps.double().numpy()[:, :, None, None]
    norms = [[np.linalg.norm(matrix, "nuc") for matrix in sample] for sample in matrices]
    return np.transpose(norms)


def _nuclear_losses(maps: Tensor) -> Any:
    """(o, n): the nuclear norm of a sample's matrix (o, s) less that without the channel's row."""
    rows = maps.double().reshape(*maps.shape[:2], -1).numpy()
    whole = np.linalg.svd(rows, compute_uv=False).sum(1)
    return np.stack([
        whole - np.linalg.svd(np.delete(rows, channel, 1), compute_uv=False).sum(1)
        for channel in range(rows.shape[1])
    ])  # fmt: skip
