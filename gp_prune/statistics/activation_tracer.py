"""Follow each layer's output through batch norm to the activation while a model runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gp_prune.errors import UserError
from gp_prune.statistics.layers import is_batch_norm, out_channels
from gp_prune.statistics.running import Forward, Inputs, call_model, is_scripted

ACTIVATIONS = frozenset(
    (
        *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu"),
        *("mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "special_expit", "tanh"),
        *("logsigmoid", "log_sigmoid", "softplus", "softsign", "tanhshrink", "hardshrink"),
        *("softshrink", "threshold", "clamp", "clamp_min", "clip"),
    )
)
"""Names of torch's elementwise activation functions; ``relu_`` and ``_threshold`` count too."""

_SUMS = frozenset(("add", "iadd", "radd"))
"""Names of torch's sums, such as those of residual connections, without underscores."""


class Call(NamedTuple):
    """One use of a layer in one run of the model; a shared layer is used several times."""

    layer: str
    use: int  # 0, 1, ... within one run


class Listener:
    """Hears about each use of a layer, in the order in which things happen."""

    def ran(self, call: Call, inputs: Tensor, output: Tensor) -> None:
        """Hear that the layer has run; ``output`` is not yet changed by what follows."""

    def normalised(self, call: Call, norm: str, output: Tensor) -> None:
        """Hear that a batch norm of this name took the layer's output and returned ``output``."""

    def activating(self, call: Call, before: Tensor, *, summed: bool) -> None:
        """Hear that an activation is about to take ``before``, and may overwrite it.

        Where ``summed``, that is a sum of the layer's output and others, and not the output itself.
        """

    def activated(self, call: Call, after: Tensor, *, summed: bool) -> None:
        """Hear that the activation returned ``after``."""


class _Trail(NamedTuple):
    """A tensor that still is the output of a layer, or of the batch norm after it."""

    tensor: weakref.ref[Tensor]
    version: int  # a change in place ends the trail
    calls: tuple[Call, ...]  # several where outputs were added up
    normalised: bool
    summed: bool


class _Activated(NamedTuple):
    """What an activation takes: the outputs of these uses of layers, or a sum of them."""

    calls: tuple[Call, ...]
    summed: bool


class ActivationTracer(TorchFunctionMode):
    """Recognise batch norms and activations by the identity of the tensor they are given.

    A batch norm belongs to a layer when it is a torch batch norm module with as many features as
    the layer has output channels, called with the very tensor that the layer returned. The
    activation of a layer is the first function of :data:`ACTIVATIONS` that is called with that
    tensor, or with the batch norm's output, whether by a module, a function or a method, in place
    or not. Where there is none, it is the first one that is called with a sum of that tensor and
    others of its shape, as after a residual connection, or with a batch norm of that sum, as in
    pre-activation networks. ``nn.Identity`` and dropout (in evaluation mode) hand the tensor on;
    pooling and reshaping end the trail. Where such a function is called inside a module of
    somebody else's without submodules (a hand-written Swish), the output of that module counts,
    if it has the same shape.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, nn.Module], listener: Listener
    ) -> None:
        """Follow the outputs of ``layers`` (name -> module of ``model``) for a listener."""
        super().__init__()
        self._model = model
        self._layers = layers
        self._listener = listener
        self._uses: dict[str, int] = {}
        self._trails: dict[int, _Trail] = {}
        self._told: set[Call] = set()  # uses whose sum an activation has taken
        self._inside: list[tuple[nn.Module, _Activated]] = []  # custom modules, run on an output
        self._deferred: tuple[_Activated, Tensor] | None = None  # activation found inside of one

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep hooks on the model, after the user's own hooks."""
        with ExitStack() as stack:
            for name, module in self._model.named_modules():
                if is_scripted(module):
                    continue
                if name in self._layers:
                    hook = module.register_forward_hook(self._layer_hook(name), with_kwargs=True)
                    stack.callback(hook.remove)
                elif is_batch_norm(module):
                    stack.callback(module.register_forward_hook(self._norm_hook(name)).remove)
                elif _is_custom_leaf(module):
                    stack.callback(module.register_forward_pre_hook(self._entering).remove)
                    stack.callback(module.register_forward_hook(self._leaving).remove)
            yield

    @contextmanager
    def run(self) -> Iterator[None]:
        """Follow one run of the model, counting the uses of each layer from 0."""
        self._uses.clear()
        self._trails.clear()
        self._told.clear()
        self._inside.clear()
        self._deferred = None
        with self:
            yield
        self._trails.clear()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a torch function and report it if it activates a layer's output."""
        arguments = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name in _SUMS:
            return self._add(func, args, arguments)
        if name not in ACTIVATIONS:
            return func(*args, **arguments)
        before = args[0] if args else arguments.get("input")
        taken = self._activates(before)
        if taken is None:
            return func(*args, **arguments)
        for call in taken.calls:
            self._listener.activating(call, cast(Tensor, before), summed=taken.summed)
        after = func(*args, **arguments)
        if self._inside and self._inside[-1][1] == taken:  # its output is what counts
            self._deferred = taken, after.detach().clone()
        else:
            self._tell(taken, after)
        return after

    def _tell(self, taken: _Activated, after: Tensor) -> None:
        for call in taken.calls:
            self._listener.activated(call, after, summed=taken.summed)

    def _add(
        self, func: Callable[..., Any], args: Sequence[Any], arguments: Mapping[str, Any]
    ) -> Any:
        """Run a sum, and follow it if it has a layer's output in it."""
        parts = [value for value in (*args, *arguments.values()) if isinstance(value, Tensor)]
        trails = [trail for trail in map(self._look, parts) if trail is not None]
        total = func(*args, **arguments)
        if not trails or len(parts) != 2 or not isinstance(total, Tensor):
            return total
        if parts[0].shape == parts[1].shape == total.shape:
            calls = dict.fromkeys(call for trail in trails for call in trail.calls)
            self._trails[id(total)] = _trail(total, tuple(calls), summed=True)
        return total

    def _activates(self, before: Any) -> _Activated | None:
        """Return the outputs that an activation of a tensor activates first."""
        trail = self._look(before)
        if trail is None:
            return None
        if not trail.summed:
            del self._trails[id(before)]
            return _Activated(trail.calls, summed=False)
        calls = tuple(call for call in trail.calls if call not in self._told)
        self._told.update(calls)
        return _Activated(calls, summed=True) if calls else None

    def _look(self, tensor: Any) -> _Trail | None:
        """Return the trail of exactly this tensor object (an id alone may be used again)."""
        trail = self._trails.get(id(tensor))
        if trail is None or trail.tensor() is not tensor:
            return None
        return trail if trail.version == _version(cast(Tensor, tensor)) else None

    def _layer_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise UserError(
                    f"layer {name!r} returns {type(output).__name__} instead of a tensor; "
                    "leave it out of the layers"
                )
            call = Call(name, self._uses.get(name, 0))
            self._uses[name] = call.use + 1
            self._listener.ran(call, args[0] if args else kwargs["input"], output)
            self._trails[id(output)] = _trail(output, (call,))

        return hook

    def _norm_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            trail = self._look(args[0]) if args else None
            if trail is None or trail.normalised or not self._fits(trail, module, args[0]):
                return
            if trail.summed:  # of a pre-activation network: no layer's own, and not the end either
                self._trails[id(output)] = _trail(output, trail.calls, normalised=True, summed=True)
                return
            del self._trails[id(args[0])]
            self._listener.normalised(trail.calls[0], name, output)
            self._trails[id(output)] = _trail(output, trail.calls, normalised=True)

        return hook

    def _fits(self, trail: _Trail, norm: nn.Module, values: Tensor) -> bool:
        """Return whether the batch norm's channels are the layer's output channels.

        After a linear layer on tokens (n, t, o) a batch norm works on t, which are no channels.
        """
        layer = self._layers[trail.calls[0].layer]
        tokens = isinstance(layer, nn.Linear) and values.dim() > 2
        return not tokens and bool(norm.num_features == out_channels(layer))

    def _entering(self, module: nn.Module, args: Any) -> None:
        trail = self._look(args[0]) if args else None
        if trail is not None:
            calls = tuple(call for call in trail.calls if call not in self._told)
            self._inside.append((module, _Activated(calls, trail.summed)))

    def _leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._inside or self._inside[-1][0] is not module:
            return
        self._inside.pop()
        if self._deferred is not None:
            (taken, after), self._deferred = self._deferred, None
            same = isinstance(output, Tensor) and output.shape == after.shape
            self._tell(taken, output if same else after)


def _trail(
    tensor: Tensor, calls: tuple[Call, ...], *, normalised: bool = False, summed: bool = False
) -> _Trail:
    return _Trail(weakref.ref(tensor), _version(tensor), calls, normalised, summed)


def _version(tensor: Tensor) -> int:
    """Count how often the tensor was changed in place; inference tensors do not tell."""
    return 0 if tensor.is_inference() else tensor._version


def _is_custom_leaf(module: nn.Module) -> bool:
    """Return whether the module has no submodules and is not one of torch's own."""
    has_children = next(module.children(), None) is not None
    return not has_children and not type(module).__module__.startswith("torch.nn.")


@dataclass(frozen=True)
class Site:
    """What follows one use of a layer.

    Attributes:
        norm: name of the batch norm module that takes the layer's output, or None.
        activated: whether an activation function takes what comes out, itself or in a sum.
        summed: whether that is a sum of what comes out and others.
    """

    norm: str | None = None
    activated: bool = False
    summed: bool = False


class _SiteFinder(Listener):
    """Writes down what follows each use of each layer."""

    def __init__(self) -> None:
        self.sites: dict[Call, Site] = {}

    def ran(self, call: Call, inputs: Tensor, output: Tensor) -> None:
        self.sites[call] = Site()

    def normalised(self, call: Call, norm: str, output: Tensor) -> None:
        self.sites[call] = replace(self.sites[call], norm=norm)

    def activating(self, call: Call, before: Tensor, *, summed: bool) -> None:
        site = self.sites[call]
        if not summed or not site.activated:
            self.sites[call] = replace(site, activated=True, summed=summed)


def observe(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    inputs: Inputs,
    forward: Forward = call_model,
) -> dict[Call, Site]:
    """Run the model once and return what follows each use of each layer: the exact way.

    The model must be in evaluation mode. Layers that do not run are absent.
    """
    finder = _SiteFinder()
    tracer = ActivationTracer(model, layers, finder)
    with torch.no_grad(), tracer.attached(), tracer.run():
        forward(model, inputs)
    return finder.sites


def norms_of(sites: Mapping[Call, Site]) -> dict[str, str | None]:
    """Return the batch norm after the first use of each layer."""
    return {call.layer: site.norm for call, site in sites.items() if call.use == 0}
