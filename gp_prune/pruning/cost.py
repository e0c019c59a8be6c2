"""Count what a network costs (MACs, parameters), or predict it from the widths of its layers.

One MAC is one multiplication with its addition in a convolution, a transposed convolution or a
matrix product: half of what :class:`torch.utils.flop_counter.FlopCounterMode` counts. Biases,
normalisations and activation functions have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from gp_prune.errors import UserError
from gp_prune.pruning.modules import masked_parameters, sample_count
from gp_prune.statistics.running import Forward, call_model, evaluation_mode

if TYPE_CHECKING:
    from gp_prune.pruning.graph.architecture import Architecture

DENSE = "dense"
DEPTHWISE = "depthwise"
NORM = "norm"
ATTENTION = "attention"
LAYER_KINDS = (DENSE, DEPTHWISE, NORM, ATTENTION)
"""Kinds of layers, see :class:`LayerCost`."""


@contextmanager
def flop_counter(model: nn.Module | None = None) -> Iterator[FlopCounter]:
    """Count floating-point operations inside, those of attention on a CPU included.

    torch knows no count for its fused attention layers, nor for the kernel that works out
    attention on a CPU; the former compute step by step inside, the latter is counted as elsewhere.

    Args:
        model: what runs inside where there is ``torch.no_grad()``; None where autograd follows.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # A view of a parameter asks for gradients without having any history where there is
    # torch.no_grad(), and the counter fails when a module takes such a view.
    parameters = () if model is None else model.parameters()
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with FlopCounter() as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for parameter in trained:
            parameter.requires_grad_()


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """torch's counter, with a short way for the operators that make up most networks.

    The counter of torch looks at every operator for parts that it might be made of. Measured in
    turns on one core, with it a pass takes 1.10 times as long for ResNet-18 and 1.17 times for
    ResNet-50 on 224 x 224 pixels, and 1.46 times for ResNet-18 on 32 x 32.

    Attributes:
        total: floating-point operations so far.
        uncounted: names of operators whose operations are not known.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep PyTorch from importing its compiler, which takes a second."""
        return False

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.uncounted: set[str] = set()
        self._slow = FlopCounterMode(display=False, custom_mapping=_FURTHER_OPERATORS)
        self._slow.mod_tracker = _Untracked()  # type: ignore[assignment]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and count it."""
        kwargs = kwargs or {}
        if func in _FREE:
            return func(*args, **kwargs)
        if func in _COUNTED:
            output = func(*args, **kwargs)
            self.total += _COUNTED[func](*args, **kwargs, out_val=output)
            return output
        if _cannot_be_counted(func):
            self.uncounted.add(str(func._schema.name))
        with self._slow:
            output = func(*args, **kwargs)
        self.total += int(self._slow.get_total_flops())
        return output


def _cannot_be_counted(func: Any) -> bool:
    """Return whether an operator may well multiply matrices, and nothing is known of it."""
    packet = getattr(func, "_overloadpacket", func)
    if packet in flop_registry or packet in _FURTHER_OPERATORS or not hasattr(func, "_schema"):
        return False
    namespace, _, name = func._schema.name.partition("::")
    if namespace in ("aten", "prim", "prims", "profiler", "inductor"):
        return name.startswith(_PRODUCTS) and not name.endswith("check_errors")
    return func._schema.name not in _FREE_CUSTOM


_PRODUCTS = (
    "_fft_", "fft_", "linalg_", "_linalg_", "cholesky", "_cholesky", "_int_mm", "_scaled_mm",
    "_sparse_mm", "_sparse_addmm", "sparse_sampled", "_weight_int", "_cdist_forward",
    "_pdist_forward", "triangular_solve", "ormqr", "lu_solve", "mkldnn_linear", "miopen_",
    "quantized_", "_native_multi_head", "_transformer", "fbgemm_",
)  # fmt: skip
"""How the names of torch's operators begin that multiply and have no count."""
_FREE_CUSTOM = frozenset({
    "torchvision::nms", "torchvision::roi_align", "torchvision::roi_pool",
    "torchvision::ps_roi_align", "torchvision::ps_roi_pool",
})  # fmt: skip
"""Operators outside torch that multiply nothing with weights."""


class _Untracked:
    """Replaces the hooks of the counter on every module: only the total is wanted."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Attach nothing."""

    def __exit__(self, *_: object) -> None:
        """Remove nothing."""


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Count attention for shapes (n, heads, positions, entries): scores, then values."""
    samples, heads, rows, entries = query
    return 2 * samples * heads * rows * key[2] * (entries + value[3])


def _rnn_layer_flops(
    inputs: Sequence[int], weight: Sequence[int], recurrent: Sequence[int], *_: Any, **__: Any
) -> int:
    """Count one layer and direction of an LSTM: every weight once per position."""
    return 2 * math.prod(inputs[:-1]) * (math.prod(weight) + math.prod(recurrent))


def _cudnn_rnn_flops(
    inputs: Sequence[int], weights: Sequence[Sequence[int]], *_: Any, **__: Any
) -> int:
    """Count all layers of a recurrent network: every weight once per position."""
    return 2 * math.prod(inputs[:-1]) * sum(math.prod(w) for w in weights if len(w) > 1)


def _trilinear_flops(
    first: Sequence[int], second: Sequence[int], third: Sequence[int], *spread: Any, **_: Any
) -> int:
    """Count a sum over products of three tensors, such as that of ``nn.Bilinear``, once."""
    shapes = []
    for shape, dims in zip((first, second, third), spread, strict=False):
        sizes = list(shape)
        for dim in sorted(dims):
            sizes.insert(dim, 1)
        shapes.append(sizes)
    return 2 * int(math.prod(max(sizes) for sizes in zip(*shapes, strict=True)))


def _mv_flops(matrix: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _addmv_flops(_: Any, matrix: Sequence[int], *__: Any, **___: Any) -> int:
    return 2 * math.prod(matrix)


def _addbmm_flops(_: Any, first: Sequence[int], second: Sequence[int], *__: Any, **___: Any) -> int:
    return 2 * math.prod(first) * second[-1]


def _conv_tbc_flops(inputs: Any, weight: Sequence[int], *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * int(math.prod(out_shape[:-1])) * math.prod(weight)


_FURTHER_OPERATORS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.mkldnn_rnn_layer: _rnn_layer_flops,
    torch.ops.aten._cudnn_rnn: _cudnn_rnn_flops,
    torch.ops.aten.miopen_rnn: _cudnn_rnn_flops,
    torch.ops.aten._trilinear: _trilinear_flops,
    torch.ops.aten.mv: _mv_flops,
    torch.ops.aten.dot: _mv_flops,
    torch.ops.aten.vdot: _mv_flops,
    torch.ops.aten.addmv: _addmv_flops,
    torch.ops.aten.addbmm: _addbmm_flops,
    torch.ops.aten.conv_tbc: _conv_tbc_flops,
}
"""Operators that torch's counter does not know."""

_aten = torch.ops.aten
_COUNTED: dict[Any, Callable[..., int]] = {
    _aten.convolution.default: flop_registry[_aten.convolution],
    _aten.addmm.default: flop_registry[_aten.addmm],
    _aten.mm.default: flop_registry[_aten.mm],
    _aten.bmm.default: flop_registry[_aten.bmm],
}
"""Operators that are made of no others, with their counts."""
_FREE = frozenset({
    _aten.native_batch_norm.default, _aten._native_batch_norm_legit_no_training.default,
    _aten.native_layer_norm.default, _aten.relu.default, _aten.relu_.default, _aten.gelu.default,
    _aten.silu.default, _aten.silu_.default, _aten.sigmoid.default, _aten.hardtanh.default,
    _aten.hardtanh_.default, _aten.hardswish_.default, _aten.add.Tensor, _aten.add_.Tensor,
    _aten.mul.Tensor, _aten.cat.default, _aten.detach.default, _aten.view.default,
    _aten._unsafe_view.default, _aten.t.default, _aten.transpose.int, _aten.permute.default,
    _aten.expand.default, _aten.slice.Tensor, _aten.clone.default, _aten.mean.dim,
    _aten.max_pool2d_with_indices.default, _aten.avg_pool2d.default, _aten.empty.memory_format,
})  # fmt: skip
"""Operators without any count, and with no parts that have one."""


class Cost(NamedTuple):
    """Cost of a network.

    Attributes:
        macs: multiply-accumulates per sample.
        params: number of parameters, zeros included.
        nonzero: number of parameters that are not zero, masks applied.
    """

    macs: int
    params: int
    nonzero: int


@dataclass(frozen=True)
class Side:
    """The width of one side of a layer: ``constant + sum(entries * kept channels of the group)``.

    Attributes:
        constant: entries that no plan removes.
        terms: pairs of a group's name and the number of entries that each of its channels has on
            this side (1, or the number of positions where a map was flattened).
    """

    constant: int
    terms: tuple[tuple[str, int], ...] = ()

    def width(self, kept: Mapping[str, int]) -> int:
        """Return the number of entries when group ``g`` keeps ``kept[g]`` channels."""
        return self.constant + sum(entries * kept[group] for group, entries in self.terms)


@dataclass(frozen=True)
class LayerCost:
    """The numbers from which the MACs and the parameters of one module follow.

    Attributes:
        name: dotted name of the module.
        kind: ``"dense"`` (convolution, transposed convolution, linear), ``"depthwise"`` or
            ``"norm"`` (a module with a few numbers per channel and no MACs) or ``"attention"``
            (what the heads do between the linear layers).
        positions: how often each weight is used in a pass over the whole example batch; for
            ``"attention"`` the MACs of one head.
        taps: kernel taps; for ``"norm"`` the parameters per channel, for ``"attention"`` those
            per head.
        groups: groups of a grouped convolution whose groups become narrower, otherwise 1.
        bias: whether a dense or depthwise layer has a bias.
        inputs: width of the input side; what one output reads where whole groups of a grouped
            convolution go, 1 for ``"depthwise"`` and ``"norm"``.
        outputs: width of the output side.
        type: name of the module's class; empty where it is not known.
        owner: the layer whose weight it is, too, and with which it is counted; empty where the
            weight is its own.
    """

    name: str
    kind: str
    positions: int
    taps: int
    groups: int
    bias: bool
    inputs: Side
    outputs: Side
    type: str = ""
    owner: str = ""


class CostTable:
    """The costs of all layers as arrays, so that one prediction takes microseconds."""

    def __init__(
        self, layers: Sequence[LayerCost], groups: Sequence[str], sizes: Mapping[str, int]
    ) -> None:
        """Lay the costs out.

        Args:
            layers: the layers whose costs are added up.
            groups: names of the groups, in the order of the widths that :meth:`evaluate` takes.
            sizes: number of channels of each group, used where a group is not in ``groups``.
        """
        position = {name: index for index, name in enumerate(groups)}
        count = len(layers)
        self._inputs = np.zeros((count, len(groups)), dtype=np.int64)
        self._outputs = np.zeros((count, len(groups)), dtype=np.int64)
        self._input_constant = np.zeros(count, dtype=np.int64)
        self._output_constant = np.zeros(count, dtype=np.int64)
        for row, layer in enumerate(layers):
            for side, matrix, constant in (
                (layer.inputs, self._inputs, self._input_constant),
                (layer.outputs, self._outputs, self._output_constant),
            ):
                constant[row] = side.constant
                for group, entries in side.terms:
                    if group in position:
                        matrix[row, position[group]] += entries
                    else:
                        constant[row] += entries * sizes[group]
        self._taps = np.array([layer.taps for layer in layers], dtype=np.int64)
        self._groups = np.array([layer.groups for layer in layers], dtype=np.int64)
        self._positions = np.array([layer.positions for layer in layers], dtype=np.int64)
        self._attention = np.array([layer.kind == ATTENTION for layer in layers], dtype=bool)
        self._bias = np.array([layer.bias for layer in layers], dtype=np.int64)
        self._owned = np.array([not layer.owner for layer in layers], dtype=np.int64)

    def evaluate(self, kept: NDArray[np.int64]) -> tuple[int, int]:
        """Return the MACs of the example batch and the parameters for widths ``kept`` (groups,)."""
        outputs = self._outputs @ kept + self._output_constant
        inputs = self._inputs @ kept + self._input_constant
        weights = inputs * outputs * self._taps // self._groups
        macs = int(np.where(self._attention, outputs, weights) @ self._positions)
        params = int(weights @ self._owned + outputs @ self._bias)
        return macs, params


def predict(architecture: Architecture, kept: Mapping[str, int]) -> tuple[int, int]:
    """Predict MACs per sample and parameters of a pruned network, without running anything.

    Args:
        architecture: the traced network.
        kept: group name -> number of channels kept; groups left out are whole.

    Returns:
        ``(macs, params)``, exactly what :func:`measure` finds on the compact network.

    Raises:
        UserError: a group is unknown, or fixed and not whole, or a width is outside [1, size].
    """
    widths = {group.name: group.size for group in architecture.groups}
    for name, width in kept.items():
        if name not in widths:
            raise UserError(f"the network has no channel group {name!r}; it has {list(widths)}")
        group = architecture.by_name[name]
        if not 1 <= width <= group.size or (group.fixed and width != group.size):
            fixed = f" and is fixed ({group.fixed})" if group.fixed else ""
            raise UserError(
                f"group {name!r} cannot keep {width} channels; it has {group.size}{fixed}"
            )
        widths[name] = width
    free = [widths[group.name] for group in architecture.free]
    return architecture.costs(np.array(free, dtype=np.int64))


def measure(model: nn.Module, example_inputs: Any, *, forward_fn: Forward | None = None) -> Cost:
    """Measure the cost of a network on one forward pass in evaluation mode.

    Args:
        model: any network; its flags and the random state are as before afterwards.
        example_inputs: a batch: a tensor (samples, ...), a list of arguments or a mapping.
        forward_fn: runs the network, see :func:`~gp_prune.statistics.running.call_model`.

    Returns:
        MACs per sample, parameters and non-zero parameters.
    """
    samples = sample_count(example_inputs)
    with evaluation_mode(model):
        macs = count_macs(model, example_inputs, forward_fn)
    params = sum(parameter.numel() for parameter in model.parameters())
    return Cost(macs // samples, params, _count_nonzero(model))


def count_macs(model: nn.Module, example_inputs: Any, forward_fn: Forward | None = None) -> int:
    """Count the MACs of one pass over the whole batch, in the mode in which the model is."""
    with torch.no_grad(), flop_counter(model) as counter:
        call_model(model, example_inputs, forward_fn)
    return counter.total // 2


def _count_nonzero(model: nn.Module) -> int:
    masks = {
        id(getattr(module, f"{name}_orig")): getattr(module, f"{name}_mask")
        for _, module, name in masked_parameters(model)
    }
    total = 0
    for parameter in model.parameters():
        values = parameter.detach()
        if id(parameter) in masks:
            values = values * masks[id(parameter)]
        total += int(torch.count_nonzero(values))
    return total
