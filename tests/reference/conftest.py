"""Every quantity that a published formula names, measured once more by plain torch and numpy.

Nothing here uses the engine. The fields have the names and layouts of
:class:`gp_prune.language.record.LayerRecord`, so that one formula serves measured layers
and made-up ones.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.language.record import NEEDS, LayerRecord, synthetic_layer
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.pruning import consumers, trace
from gp_prune.statistics import Batch, collect

# Modules that several tests read, and the formulas of the tests beside one another.
sys.path.insert(0, str(Path(__file__).resolve().parent))

Array = NDArray[np.float64]
Tensors = dict[str, Array]

SAMPLES, BATCH, CLASSES = 40, 8, 3
MINI_BATCH = 32  # over which a gradient is averaged before it is squared, whatever the batches
LAYERS = ("conv", "grouped", "up", "hidden", "out")


def network() -> Any:
    """Convolution with batch norm, grouped and transposed convolution, two linear layers."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model: Any = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(2, 4, 3, padding=1),
                norm=nn.BatchNorm2d(4),
                relu1=nn.ReLU(),
                grouped=nn.Conv2d(4, 6, 3, groups=2),
                relu2=nn.ReLU(),
                up=nn.ConvTranspose2d(6, 3, 3, stride=2, padding=1),
                relu3=nn.ReLU(),
                flatten=nn.Flatten(),
                hidden=nn.Linear(75, 5),
                relu4=nn.ReLU(),
                out=nn.Linear(5, CLASSES),
            )
        ).double()
        model.train()
        model(torch.randn(40, 2, 5, 5).double())
        for parameter in model.norm.parameters():
            nn.init.normal_(parameter, mean=0.5)
    return model.eval()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    images = torch.randn(SAMPLES, 2, 5, 5, generator=generator).double()
    return images, torch.randint(0, CLASSES, (SAMPLES,), generator=generator)


def run(model: nn.Sequential, x: Tensor) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
    """The output, and of every layer its input, Z and A."""
    seen: dict[str, dict[str, Tensor]] = {}
    layer = ""
    for name, module in model.named_children():
        before, x = x, module(x)
        if name in LAYERS:
            layer = name
            seen[layer] = {"input": before, "Z": x, "A": x}
        elif isinstance(module, nn.BatchNorm2d):
            seen[layer].update(Z=x, A=x)
        elif isinstance(module, nn.ReLU):
            seen[layer]["A"] = x
    return x, seen


def dense(module: Any, weight: Tensor) -> Any:
    """(o, i, k), zero where a group has no weight."""
    if isinstance(module, nn.ConvTranspose2d):
        return weight.transpose(0, 1).flatten(2)
    if isinstance(module, nn.Linear):
        return weight.unsqueeze(2)
    outputs, inputs = module.out_channels, module.in_channels // module.groups
    full = weight.new_zeros(outputs, module.in_channels, weight[0, 0].numel())
    for o in range(outputs):
        first = o // (outputs // module.groups) * inputs
        full[o, first : first + inputs] = weight[o].flatten(1)
    return full


def unfolded(module: Any, x: Tensor) -> Tensor:
    """(i, k, samples * positions): what every tap reads."""
    if isinstance(module, nn.Linear):
        return x.T.unsqueeze(1)
    taps = 9
    if isinstance(module, nn.ConvTranspose2d):  # a convolution of the input with gaps, turned round
        stuffed = x.new_zeros(*x.shape[:2], 2 * x.shape[2] - 1, 2 * x.shape[3] - 1)
        stuffed[:, :, ::2, ::2] = x
        columns = functional.unfold(stuffed, 3, padding=1)
    else:
        columns = functional.unfold(x, 3, padding=module.padding)
    columns = columns.reshape(x.shape[0], x.shape[1], taps, -1).permute(1, 2, 0, 3).flatten(2)
    return columns.flip(1) if isinstance(module, nn.ConvTranspose2d) else columns


def inputs_of(x: Tensor) -> Tensor:
    """(i, n, s)."""
    return x.reshape(*x.shape[:2], -1).transpose(0, 1)


def inverse_factor(module: nn.Module, columns: Tensor) -> Any:
    """(i, k): SparseGPT's divisor, the diagonal of the Cholesky factor of the inverse Hessian."""
    rows = columns.flatten(0, 1)
    gram = rows @ rows.T
    groups = getattr(module, "groups", 1)
    block = torch.arange(len(rows)) // (len(rows) // groups)
    gram = gram * (block[:, None] == block[None, :])
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(len(rows), dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    return upper.diagonal().reshape(columns.shape[:2])


def by_reader(weight: Tensor, layer: str) -> Tensor:
    """(o, j): the part of the next layer's weight that reads each channel of ``layer``."""
    if layer == "conv":  # read by the grouped convolution: channel 0 and 1 by its first half
        return torch.stack(
            [weight[3 * (o // 2) : 3 * (o // 2) + 3, o % 2].flatten() for o in range(4)]
        )
    if layer == "grouped":  # read by the transposed convolution
        return weight.flatten(1)
    if layer == "up":  # flattened, read by a linear layer
        return torch.stack([weight[:, 25 * o : 25 * o + 25].flatten() for o in range(3)])
    return weight.T if layer == "hidden" else weight.new_zeros(CLASSES, 1)


def synaptic_flow(model: nn.Sequential) -> dict[str, Tensor]:
    positive = copy.deepcopy(model)
    for value in positive.state_dict().values():
        value.abs_()
    flow = positive(torch.ones(1, 2, 5, 5, dtype=torch.float64)).sum()
    weights: Any = [positive.get_submodule(name).weight for name in LAYERS]
    return dict(zip(LAYERS, torch.autograd.grad(flow, weights), strict=True))


def hessian_gradients(model: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The gradient of the mean loss times its Hessian, over the weights of all layers."""

    def loss(*weights: Tensor) -> Tensor:
        named = dict(zip((f"{name}.weight" for name in LAYERS), weights, strict=True))
        return functional.cross_entropy(torch.func.functional_call(model, named, (x,)), y)

    weights = tuple(model.get_submodule(name).weight.detach() for name in LAYERS)
    gradient = torch.autograd.functional.jacobian(loss, weights)  # type: ignore[no-untyped-call]
    _, change = torch.autograd.functional.vhp(loss, weights, gradient)  # type: ignore[no-untyped-call]
    return dict(zip(LAYERS, change, strict=True))


def class_statistics(maps: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of maps (o, n, s): moments, centroids and mean kernels, one class against the rest."""
    found: dict[str, list[Tensor]] = {}
    apart = (maps[:, :, None] - maps[:, None]).square().sum(-1)  # (o, n, n)
    kernel = (-apart / 2).exp()
    for label in range(CLASSES):
        for kind, member in (("class", labels == label), ("rest", labels != label)):
            values = maps[:, member]
            found.setdefault(f"{kind}_mean", []).append(values.mean((1, 2)))
            found.setdefault(f"{kind}_var", []).append(values.var((1, 2), correction=0))
            found.setdefault(f"{kind}_map", []).append(values.mean(1))
            found.setdefault(f"{kind}_count", []).append(member.sum().double())
            found.setdefault(f"kernel_{kind}", []).append(
                kernel[:, member][:, :, member].mean((1, 2))
            )
        between = kernel[:, labels == label][:, :, labels != label].mean((1, 2))
        found.setdefault("kernel_between", []).append(between)
    return {
        "mean_map": maps.mean(1),
        **{
            name: torch.stack(values, -1 if "map" not in name else 1)
            for name, values in found.items()
        },
    }


def nuclear_losses(maps: Tensor) -> Tensor:
    """(o, n) from maps (n, o, s): the nuclear norm less that with the channel's row zeroed."""
    rows = []
    for sample in maps:
        whole = torch.linalg.matrix_norm(sample, "nuc")
        losses = []
        for channel in range(len(sample)):
            without = sample.clone()
            without[channel] = 0
            losses.append(whole - torch.linalg.matrix_norm(without, "nuc"))
        rows.append(torch.stack(losses))
    return torch.stack(rows, 1)


def map_ranks(maps: Tensor) -> Tensor:
    """(o, n) from the maps of a layer, (n, o, h, w) or (n, o)."""
    matrices = maps.numpy() if maps.dim() == 4 else maps.numpy()[:, :, None, None]
    return torch.from_numpy(np.linalg.matrix_rank(matrices).T.astype(float))


def map_nuclear_norms(maps: Tensor) -> Tensor:
    """(o, n) from the maps of a layer, (n, o, h, w) or (n, o): sums of singular values."""
    matrices = maps.numpy() if maps.dim() == 4 else maps.numpy()[:, :, None, None]
    norms = [[np.linalg.norm(matrix, "nuc") for matrix in sample] for sample in matrices]
    return torch.tensor(norms, dtype=torch.float64).T


def measure(model: Any, x: Tensor, y: Tensor) -> dict[str, dict[str, Tensor]]:
    """Layer -> field -> value, each by its definition."""
    output, seen = run(model, x)
    modules = {name: model.get_submodule(name) for name in LAYERS}
    parameters: Any = [p for m in modules.values() for p in (m.weight, m.bias)]
    parameters += [model.norm.weight, model.norm.bias]
    slopes = torch.autograd.grad(functional.cross_entropy(output, y), parameters)
    slope = {id(p): g for p, g in zip(parameters, slopes, strict=True)}
    squares, single = squares_by_batch(model, x, y), squares_by_sample(model, x, y)
    by_output = sample_gradients(model, x, y)
    flow, curved = synaptic_flow(model), hessian_gradients(model, x, y)
    following = dict(zip(LAYERS, (*LAYERS[1:], "out"), strict=True))
    found = {}
    for name, module in modules.items():
        raw = seen[name]["A"].detach()
        z, a = (seen[name][key].detach().reshape(SAMPLES, raw.shape[1], -1) for key in "ZA")
        columns = unfolded(module, seen[name]["input"].detach())
        norm: Any = model.norm if name == "conv" else None
        weight, gradient = (
            dense(module, module.weight.detach()),
            dense(module, slope[id(module.weight)]),
        )
        reader: Any = modules[following[name]].weight
        found[name] = {
            "weight": weight,
            "gamma": weight.new_ones(len(weight)) if norm is None else norm.weight.detach(),
            "beta": module.bias.detach() if norm is None else norm.bias.detach(),
            "weight_grad": gradient,
            "gamma_grad": (weight * gradient).sum((1, 2))
            if norm is None
            else slope[id(norm.weight)],
            "beta_grad": slope[id(module.bias if norm is None else norm.bias)],
            "inputs": inputs_of(seen[name]["input"].detach()),
            "input_norm": columns.square().sum(2).sqrt(),
            "inverse_factor": inverse_factor(module, columns),
            "pre_activation": z.transpose(0, 1),
            "activation": a.transpose(0, 1),
            "output_grad": by_output[name],
            **squares[name],
            "fisher": dense(module, squares[name]["fisher"]),
            "sample_fisher": dense(module, single[name]),
            "outgoing_sample_fisher": by_reader(single[following[name]], name),
            "hessian_grad": dense(module, curved[name]),
            "synflow_grad": dense(module, flow[name]),
            "outgoing": by_reader(reader.detach(), name),
            "outgoing_grad": by_reader(slope[id(reader)], name),
            "outgoing_fisher": by_reader(squares[following[name]]["fisher"], name),
            "map_rank": map_ranks(raw),
            "map_nuclear": map_nuclear_norms(raw),
            "nuclear_loss": nuclear_losses(a),
            **class_statistics(a.transpose(0, 1), y),
        }
        for field in ("class_count", "rest_count"):
            found[name][field] = found[name][field].reshape(CLASSES)
    return found


def squares_by_batch(model: Any, x: Tensor, y: Tensor) -> dict[str, dict[str, Tensor]]:
    """Squares and products of the gradients of mini-batches, mean by their samples."""
    found: dict[str, dict[str, Any]] = {name: {} for name in LAYERS}
    for images, labels in zip(x.split(MINI_BATCH), y.split(MINI_BATCH), strict=True):  # type: ignore[no-untyped-call]
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        for name in LAYERS:
            layer = model.get_submodule(name)
            by_filter = (dense(layer, layer.weight) * dense(layer, layer.weight.grad)).sum((1, 2))
            norm = model.norm if name == "conv" else None
            by_gamma = by_filter if norm is None else norm.weight.grad
            by_beta = (layer if norm is None else norm).bias.grad
            squares = {
                "fisher": layer.weight.grad**2,
                "filter_square": by_filter**2,
                "gamma_square": by_gamma**2,
                "beta_square": by_beta**2,
                "gamma_beta_product": by_gamma * by_beta,
            }
            for field, value in squares.items():
                part = value.detach() * len(images) / len(x)
                found[name][field] = found[name].get(field, 0) + part
    return found


def squares_by_sample(model: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Mean over the samples of the squared gradient of a sample's loss."""
    weights = [model.get_submodule(name).weight for name in LAYERS]
    total = dict.fromkeys(LAYERS, torch.zeros(()))
    for image, label in zip(x, y, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        slopes = torch.autograd.grad(loss, weights)
        for name, slope in zip(LAYERS, slopes, strict=True):
            total[name] = total[name] + slope.square() / len(x)
    return total


def sample_gradients(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """(o, n, s): gradient of each sample's own loss by its Z."""
    rows: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    for image, label in zip(x, y, strict=True):
        output, seen = run(model, image[None])
        loss = functional.cross_entropy(output, label[None])
        slopes = torch.autograd.grad(loss, [seen[name]["Z"] for name in LAYERS])
        for name, slope in zip(LAYERS, slopes, strict=True):
            rows[name].append(slope[0].reshape(slope.shape[1], -1))
    return {name: torch.stack(some, 1) for name, some in rows.items()}


def random_layer(seed: int = 3) -> LayerRecord:
    """A layer of other sizes than the synthetic one, with some weights alike and some zero."""
    generator = torch.Generator().manual_seed(seed)
    o, i, k, n, s, c, j = 7, 5, 9, 6, 4, 3, 8

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight, z = normal(o, i, k), normal(o, n, s)
    weight[1, 2] = weight[3, 2]
    weight[4, 0] = 0
    return LayerRecord(
        name="random", weight=weight, bias=normal(o), has_batch_norm=True, gamma=normal(o),
        beta=normal(o), mu=normal(o), var=normal(o).square(), weight_grad=normal(o, i, k),
        gamma_grad=normal(o), beta_grad=normal(o), inputs=normal(i, n, s),
        input_norm=normal(i, k).abs(), pre_activation=z, activation=z.clamp(min=0),
        class_mean=normal(o, c), class_var=normal(o, c).square(),
        class_count=torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64),
        rest_mean=normal(o, c), rest_var=normal(o, c).square(),
        rest_count=torch.tensor([4.0, 4.0, 4.0], dtype=torch.float64),
        noise=torch.rand((o, i, k), generator=generator, dtype=torch.float64),
        outgoing=normal(o, j), outgoing_grad=normal(o, j), synflow_grad=normal(o, i, k).abs(),
        fisher=normal(o, i, k).square(), hessian_grad=normal(o, i, k), output_grad=normal(o, n, s),
        inverse_factor=normal(i, k).abs() + 0.1,
        class_map=normal(o, c, s), rest_map=normal(o, c, s),
        mean_map=normal(o, s), kernel_class=normal(o, c).abs(), kernel_rest=normal(o, c).abs(),
        kernel_between=normal(o, c).abs(), map_rank=normal(o, n).abs().floor(),
        nuclear_loss=normal(o, n).abs(), outgoing_fisher=normal(o, j).square(),
        filter_square=normal(o).square(), gamma_square=normal(o).square(),
        beta_square=normal(o).square(), gamma_beta_product=normal(o),
        sample_fisher=normal(o, i, k).square(), outgoing_sample_fisher=normal(o, j).square(),
        map_nuclear=normal(o, n).abs(),
    )  # fmt: skip


def as_arrays(fields: dict[str, Any]) -> Tensors:
    arrays = {name: v.detach().numpy() for name, v in fields.items() if isinstance(v, Tensor)}
    return {"groups": np.array(fields["groups"], dtype=np.float64), **arrays}


@pytest.fixture(scope="session")
def layers() -> list[tuple[LayerRecord, Tensors]]:
    """Records, and the same quantities as they should be: two made-up layers, five measured."""
    model, (x, y) = network(), data()
    batches = [
        Batch(images, labels, labels)
        for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True)  # type: ignore[no-untyped-call]
    ]
    records = collect(
        model, None, batches, needs=frozenset(NEEDS) - {"network"}, loss=functional.cross_entropy,
        outgoing=consumers(trace(model, x)),
    )  # fmt: skip
    plain = measure(model, x, y)
    assert set(records) == set(plain) == set(LAYERS)
    groups = {name: getattr(model.get_submodule(name), "groups", 1) for name in LAYERS}
    made = [(layer, as_arrays(vars(layer))) for layer in (synthetic_layer(), random_layer())]
    return made + [
        (
            records[name],
            as_arrays({**plain[name], "noise": records[name].noise, "groups": groups[name]}),
        )
        for name in LAYERS
    ]


@pytest.fixture(scope="session")
def check(
    layers: list[tuple[LayerRecord, Tensors]],
) -> Callable[[str, Callable[[Tensors], Any]], None]:
    """`check(name, formula)`: the metric's scores are those of the formula on every layer."""

    def check(name: str, formula: Callable[[Tensors], Any]) -> None:
        metric = Metric.load(name)
        for record, plain in layers:
            scores = metric.scores(record)
            assert scores.dtype == torch.float64
            assert tuple(scores.shape) == record.weight.shape[: len(metric.expression.axes)]
            expected = np.asarray(formula(plain))
            smallest = 1e-12 * float(np.abs(expected).max())
            np.testing.assert_allclose(
                scores.numpy(), expected, rtol=1e-5, atol=smallest, err_msg=record.name
            )

    return check


_FAMILIES = {
    "classes": {"labels", "centroids", "kernels"},
    "gradients": {"gradients", "fisher", "sample_fisher", "hessian", "synflow", "output_gradients"},
    "maps": {"inputs", "outputs", "second_moments", "map_ranks", "map_spectra", "map_norms"},
}


@pytest.fixture(scope="session")
def family() -> Callable[[str], set[str]]:
    """`family("maps")`: the bundled reference metrics whose most specific need is of that kind.

    The families are classes, gradients, maps and weights; each reference metric is in one.
    """

    def family_of(metric: Metric) -> str:
        return next((name for name, needs in _FAMILIES.items() if metric.needs & needs), "weights")

    def family(wanted: str) -> set[str]:
        names = [
            name for name, file in bundled_metrics().items() if file.parent.name == "reference"
        ]
        return {name for name in names if family_of(Metric.load(name)) == wanted}

    return family
