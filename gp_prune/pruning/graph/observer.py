"""Run a network once, and note what the dependency graph does not see of it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gp_prune.errors import UserError
from gp_prune.pruning.attention.heads import AttentionEnds, cut_graph_at_attention
from gp_prune.pruning.attention.modules import HeadAttention
from gp_prune.pruning.cost import flop_counter
from gp_prune.pruning.modules import Prunable, is_transposed
from gp_prune.pruning.surgery import side_width
from gp_prune.statistics.running import Forward, call_model, tensors_of

MIXED = "a channel shuffle mixes its channels"
ATTENDED = "an attention layer works on its channels"
_VIEWS = (torch.Tensor.view, torch.Tensor.reshape, torch.reshape)
_SWAPS = (
    torch.transpose, torch.permute, torch.swapaxes, torch.swapdims, torch.Tensor.transpose,
    torch.Tensor.permute, torch.Tensor.swapaxes, torch.Tensor.swapdims,
)  # fmt: skip


class GraphObserver:
    """Runs a network as Torch-Pruning wants it and takes notes.

    Attributes:
        positions: how often each weight of each layer was used.
        macs: MACs of the whole batch.
        failure: what the network itself raised, if it did not run.
        unflattened: autograd node -> name of the ``nn.Unflatten`` that made it.
        ends: autograd node of an artificial output -> why the channels that reach it stay.
        has_attention: whether the network has opened attention layers.
    """

    def __init__(
        self,
        model: nn.Module,
        forward_fn: Forward | None = None,
        *,
        branches: bool = False,
        cut_more: bool = False,
    ) -> None:
        """Prepare a run.

        Args:
            model: a private copy.
            forward_fn: how to run it; by default with the inputs as arguments.
            branches: run what training mode adds, such as auxiliary heads.
            cut_more: end the graph around attention layers that are not opened and begin it again
                after them, as it always does where the channels of maps are shuffled; and do so
                for maps of three dimensions, too, whose second might be that of a sequence.
        """
        self.positions: Counter[str] = Counter()
        self.macs = 0
        self.failure: Exception | None = None
        self.unflattened: dict[Any, str] = {}
        self.ends: dict[Any, str] = {}
        self._cut_more = cut_more
        self._shuffles = _Shuffles(3 if cut_more else 4)
        self._branches = branches
        self._forward_fn = forward_fn
        self._attention = AttentionEnds([], [])
        self._names = {module: name for name, module in model.named_modules()}
        self.has_attention = any(isinstance(module, HeadAttention) for module in self._names)

    def __call__(self, model: nn.Module, inputs: Any) -> Any:
        """Run the network."""
        with ExitStack() as stack:
            for module in self._names:
                if isinstance(module, (*Prunable, nn.Unflatten)):
                    stack.callback(module.register_forward_hook(self._note).remove)
            try:
                if self.has_attention or self._cut_more:
                    self._attention = stack.enter_context(
                        cut_graph_at_attention(model, closed=self._cut_more)
                    )
                counter = stack.enter_context(flop_counter())
                if self._branches:
                    stack.enter_context(training_branches(model))
                stack.enter_context(self._shuffles)
                output = call_model(model, inputs, self._forward_fn)
            except Exception as error:
                self.failure = error
                raise
            self.macs = counter.total // 2
            return output

    def outputs(self, output: Any) -> list[Tensor]:
        """Return every tensor at which the graph ends.

        Raises:
            UserError: no output depends on a parameter.
        """
        # A product with one gives every output an own node, so that outputs need no name.
        marked = [tensor * 1 for tensor in tensors_of(output) if tensor.requires_grad]
        if not marked:
            raise UserError(
                "the output of the model does not depend on its parameters through autograd; "
                "give a model whose forward pass is differentiable"
            )
        marked += [tensor * 1 for tensor in self._attention.sources if tensor.requires_grad]
        attended = [tensor * 1 for tensor in self._attention.closed if tensor.requires_grad]
        self.ends.update({tensor.grad_fn: ATTENDED for tensor in attended})
        marked += attended
        mixed = [tensor * 1 for tensor in self._shuffles.mixed]
        self.ends.update({tensor.grad_fn: MIXED for tensor in mixed})
        return marked + mixed

    @property
    def cut(self) -> bool:
        """Return whether the graph was cut at a shuffle or around an attention layer."""
        return bool(self._attention.closed or self._shuffles.mixed)

    def _note(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        name = self._names[module]
        if isinstance(module, nn.Unflatten):
            self.unflattened[output.grad_fn] = name
        elif is_transposed(module):
            self.positions[name] += inputs[0].numel() // side_width(module, "in")
        else:
            self.positions[name] += output.numel() // side_width(module, "out")


class _Shuffles(TorchFunctionMode):
    """Cuts the autograd graph where maps (n, g * m, ...) become (n, m, g, ...)."""

    def __init__(self, least_dims: int) -> None:
        super().__init__()
        self.mixed: list[Tensor] = []
        self._least_dims = least_dims
        self._views: dict[int, tuple[Tensor, Tensor]] = {}  # id of a view -> view, what is viewed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not args:
            return result
        if func in _VIEWS:
            if args[0].ndim >= self._least_dims and _splits_channels(args[0], result):
                self._views[id(result)] = (result, args[0])
        elif func in _SWAPS and id(args[0]) in self._views:
            view, before = self._views[id(args[0])]
            if result.shape[1:3] == (view.shape[2], view.shape[1]) and before.requires_grad:
                self.mixed.append(before)
                return result.detach()
        return result


def _splits_channels(before: Tensor, after: Tensor) -> bool:
    old, new = tuple(before.shape), tuple(after.shape)
    return (
        len(new) == len(old) + 1
        and new[0] == old[0]
        and new[1] * new[2] == old[1]
        and min(new[1:3]) > 1
        and new[3:] == old[2:]
    )


@contextmanager
def training_branches(model: nn.Module) -> Iterator[None]:
    """Run what is for training mode only, such as auxiliary heads, without its randomness.

    Modules with children are in training mode inside, all others (dropout, normalisations) in
    evaluation mode. The model must be in evaluation mode, and is so again afterwards.
    """
    containers = [module for module in model.modules() if next(module.children(), None)]
    try:
        for module in containers:
            module.training = True
        with _NoDropout():
            yield
    finally:
        for module in containers:
            module.training = False


class _NoDropout(TorchFunctionMode):
    """Evaluation mode for functions that drop values at random."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if kwargs.get("training") and ("dropout" in name or "attention" in name):
            kwargs["training"] = False
        return func(*args, **kwargs)


class TraceWarning(UserWarning):
    """Something of a network could not be followed."""


def adds_branches(model: nn.Module, inputs: Any, forward_fn: Forward | None, ran: Any) -> bool:
    """Return whether layers that are idle in evaluation mode run in training mode.

    Args:
        model: a private copy in evaluation mode.
        inputs: the example batch.
        forward_fn: how to run the model.
        ran: names of the layers that run in evaluation mode.

    Warns:
        TraceWarning: layers are idle, and the model does not run in training mode.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, Prunable)]
    idle = {name for name in layers if not ran[name]}
    if not idle:
        return False
    observer = GraphObserver(model, forward_fn, branches=True)
    try:
        with torch.no_grad():
            observer(model, inputs)
    except Exception as error:  # in training mode it may want targets, larger maps, or anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"layers that are idle in evaluation mode ({', '.join(sorted(idle))}) are not "
            f"followed, because the network does not run in training mode on these inputs "
            f"({reason}); if they read channels that are cut, it cannot be trained afterwards",
            TraceWarning,
            stacklevel=2,
        )
        return False
    return any(observer.positions[name] for name in idle)
