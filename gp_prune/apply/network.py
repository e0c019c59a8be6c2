"""Check that a network can be pruned at all: a plain module with its weights, which runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gp_prune.errors import UserError, brief, first_line
from gp_prune.pruning import Cost, measure
from gp_prune.statistics.running import (
    Forward,
    call_model,
    evaluation_mode,
    is_scripted,
    map_tensors,
    random_like,
    seed_generators,
    tensors_of,
)

_WHOLE = frozenset({"tolist", "numpy", "__array__"})
"""Methods of tensors that give their values to Python."""


class _WholeReads(TorchFunctionMode):
    """Notes whether Python reads a whole tensor, by methods that call no operator."""

    def __init__(self) -> None:
        super().__init__()
        self.any = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function."""
        if getattr(func, "__name__", "") in _WHOLE:
            self.any = True
        return func(*args, **(kwargs or {}))


class ValueReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether Python reads the value of a tensor, as a branch on data does.

    Attributes:
        sizes: whether the size of a tensor followed from values, as those of ``nonzero`` do.
        looked_up: ids of the tensors whose rows are looked up, as those of embeddings are.
    """

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes = False
        self.looked_up: set[int] = set()
        self._one = False
        self._whole = _WholeReads()

    @property
    def any(self) -> bool:
        """Return whether Python read a value."""
        return self._one or self._whole.any

    def __enter__(self) -> Any:
        """Begin to watch."""
        self._whole.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """End to watch."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._whole.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator."""
        if torch.Tag.data_dependent_output in func.tags:
            self._one = True
        elif torch.Tag.dynamic_output_shape in func.tags:
            self.sizes = True
        elif func is torch.ops.aten.embedding.default:
            self.looked_up.add(id(args[0]))
        return func(*args, **(kwargs or {}))


def count_network(
    model: nn.Module, inputs: Any, forward_fn: Forward | None
) -> tuple[Cost, frozenset[int]]:
    """Return what a network costs as it is given, and the ids of tensors whose rows it looks up.

    Args:
        model: the network.
        inputs: a batch that it can be called with.
        forward_fn: runs the network on the batch.

    Raises:
        UserError: it does not run on the inputs, or branches on them.
    """
    reads = ValueReads()

    def watched(network: nn.Module, batch: Any) -> Any:
        with reads:
            return call_model(network, batch, forward_fn)

    try:
        cost = measure(model, inputs, forward_fn=watched)
        if reads.any or reads.sizes:
            check_branches(model, inputs, forward_fn)
        return cost, frozenset(reads.looked_up)
    except UserError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs))
        on = f"inputs of shape {shapes}" if shapes else f"inputs {brief(inputs)}"
        reason = first_line(error)
        remedy = "give the shape of its inputs with --input-shape (example_inputs)"
        if forward_fn is not None:
            remedy = "give example_inputs that forward_fn can run it on"
        elif not isinstance(inputs, Tensor):
            remedy = (
                "give example_inputs that it can be called with, or forward_fn, which runs it "
                "on them, to gp_prune.prune()"
            )
        raise UserError(f"the network does not run on {on} ({reason}); {remedy}") from error


def check_branches(model: nn.Module, inputs: Any, forward_fn: Forward | None) -> None:
    """Raise UserError where other inputs take another way through the layers of a network.

    What is cut is followed on the example inputs alone, so a layer that only other inputs reach
    would not fit any more.

    Args:
        model: the network.
        inputs: a batch that it can be called with; its negative, zeros and random numbers are
            tried, too.
        forward_fn: runs the network on the batch.
    """
    usual = _called(model, inputs, forward_fn)
    for others in other_inputs(inputs):
        called = _called(model, others, forward_fn)
        for name in sorted(called ^ usual) if called else ():
            raise UserError(
                f"the network branches on its data: it calls {name!r} for some inputs and not for "
                "others, so no cut holds for all of them; give a network of one branch, or "
                "forward_fn that always takes the same"
            )


def other_inputs(inputs: Any) -> Iterator[Any]:
    """Yield inputs of the same shapes with other floats: negative, zero and random ones."""
    changes: tuple[Callable[[Tensor], Tensor], ...] = (torch.neg, torch.zeros_like, random_like)
    for change in changes:
        yield map_tensors(partial(_change_floats, change), inputs)


def _change_floats(change: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    return change(tensor) if tensor.is_floating_point() else tensor


def _called(model: nn.Module, inputs: Any, forward_fn: Forward | None) -> set[str]:
    """Return the names of the modules with weights that run; none where the network fails."""
    called: set[str] = set()
    with ExitStack() as stack, evaluation_mode(model), torch.no_grad():
        for name, module in model.named_modules():
            if module._parameters and not is_scripted(module):
                hook = module.register_forward_hook(lambda *_, name=name: called.add(name))
                stack.callback(hook.remove)
        seed_generators(0)
        try:
            call_model(model, inputs, forward_fn)
        except Exception:  # numbers that the network was not made for
            return set()
    return called
