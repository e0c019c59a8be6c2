"""Run any model: on nested inputs, in evaluation mode, from a seed, leaving nothing changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics.copying import copy_modules
from gp_prune.statistics.time_limit import forward_limit

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]
"""One tensor, or several for models with several positional or keyword arguments. With a
:data:`Forward`, tuples, lists and dictionaries may be nested and hold other things."""

ModelT = TypeVar("ModelT", bound=nn.Module)

Forward = Callable[[nn.Module, Any], Any]
"""``forward_fn(model, inputs)`` runs a model on the inputs of a batch and returns its output."""


def call_model(model: nn.Module, inputs: Any, forward_fn: Forward | None = None) -> Any:
    """Return the output of a model.

    Args:
        model: any model.
        inputs: a tensor is one argument, a list or tuple several, a mapping named ones.
        forward_fn: runs the model on the inputs, in place of that rule.

    Raises:
        TimeLimitError: the model is a user's and takes longer than its limit.
    """
    with forward_limit(model):
        if forward_fn is not None:
            return forward_fn(model, inputs)
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, list | tuple):
            return model(*inputs)
        return model(inputs)


def is_scripted(module: nn.Module) -> bool:
    """Return whether a module is of TorchScript: its layers cannot be seen, hooked or changed."""
    return isinstance(module, torch.jit.ScriptModule)


def masked_values(model: nn.Module) -> list[Tensor]:
    """Return the plain tensors that ``torch.nn.utils.prune`` makes of weights and their masks."""
    return [
        value
        for module in model.modules()
        if isinstance(module._buffers, dict)  # not those of TorchScript, which has no masks
        for name in module._buffers
        if name.endswith("_mask")
        and isinstance(value := vars(module).get(name.removesuffix("_mask")), Tensor)
    ]


def copy_model(model: ModelT, memo: dict[int, Any] | None = None) -> ModelT:
    """Return a deep copy of a network, with its own parameters as leaves of autograd.

    The copies that TorchScript makes of its parameters are results of an operation otherwise, and
    so are the tensors that masks of ``torch.nn.utils.prune`` make.

    Args:
        model: the network.
        memo: as of ``copy.deepcopy``: what is not copied.
    """
    memo = {} if memo is None else memo
    for value in masked_values(model):
        if not value.is_leaf:
            memo.setdefault(id(value), value.detach().clone())
    copied: ModelT = copy_modules(model, memo)
    for parameter in copied.parameters():
        if not parameter.is_leaf:
            parameter.detach_().requires_grad_()
    return copied


class CalledModel(nn.Module):
    """A model whose forward pass is a function of the model and its inputs."""

    def __init__(self, model: nn.Module, forward_fn: Forward) -> None:
        super().__init__()
        self.model = model
        self._function = forward_fn

    def forward(self, inputs: Any) -> Any:
        """Return what the function returns on one argument, the inputs."""
        return self._function(self.model, inputs)


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return ``value`` with ``function(tensor)`` in place of every tensor inside it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        # Not the class itself, whose __new__ may take other arguments (PackedSequence has checks).
        return cast("Any", type(value))._make(map_tensors(function, item) for item in value)
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(function, item) for item in value)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Return every tensor inside tuples, lists and mappings, in order."""
    tensors: list[Tensor] = []
    map_tensors(tensors.append, value)
    return tensors


def random_like(tensor: Tensor) -> Tensor:
    """Return normal random numbers in place of floats, and other tensors as they are."""
    return torch.randn_like(tensor) if tensor.is_floating_point() else tensor


def as_device(device: str | torch.device) -> torch.device:
    """Return a device of torch.

    Raises:
        UserError: this machine (or torch) has no such device.
    """
    try:
        target = torch.device(device)
        usable = target.type != "meta"
        torch.empty(0, device=target)
    except (RuntimeError, TypeError, AssertionError):  # an AssertionError: torch without CUDA
        usable = False
    if not usable:
        raise UserError(f"device {str(device)!r} is not available here; use 'cpu'")
    return target


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU if it has neither."""
    for tensor in chain(model.parameters(), model.buffers()):
        return tensor.device
    return torch.device("cpu")


def to_device(value: Any, device: torch.device) -> Any:
    """Return inputs or targets on a device, contiguous, usable by autograd from inference mode.

    Every batch enters through here. Images that were permuted to (n, c, h, w) have the strides of
    torch's ``channels_last``, with which torch computes gradients of some convolutions of odd
    widths beyond the end of their memory.
    """

    def move(tensor: Tensor) -> Tensor:
        moved = tensor.to(device)
        if moved.layout is torch.strided:
            moved = moved.contiguous()
        return moved.clone() if moved.is_inference() else moved

    return map_tensors(move, value)


def derive_seed(*parts: object, bits: int = 31) -> int:
    """Return a seed of ``bits`` bits that depends on all parts, in order, and on nothing else."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)


def seed_generators(seed: int) -> None:
    """Seed the generators that are in use; call it inside :func:`random_state` only.

    ``torch.manual_seed`` would also seed devices that start later, beyond what can be restored.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


@contextmanager
def random_state(seed: int | None = None) -> Iterator[None]:
    """Restore torch's random numbers afterwards; inside, they follow from ``seed`` if given."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if in_use else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            seed_generators(seed)
        yield


@contextmanager
def training_mode(model: nn.Module, mode: bool = True) -> Iterator[None]:
    """Put a model in training or evaluation mode, and every module's flag back afterwards.

    For evaluation the flags are cleared without calling ``eval()``, which some models override to
    do more than the flags can bring back.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        if mode:
            model.train()
        else:
            for module, flag in flags:
                if flag:
                    module.training = False
        yield
    finally:
        for module, flag in flags:
            if module.training is not flag:  # modules are slow to set an attribute
                module.training = flag


@contextmanager
def evaluation_mode(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Put a model in evaluation mode; restore flags and torch's random numbers afterwards.

    Inside, random numbers follow from ``seed`` if given, so that a model that draws some gives
    the same output every time.
    """
    with training_mode(model, False), random_state(seed):
        yield


@contextmanager
def measurement(model: nn.Module, seed: int) -> Iterator[None]:
    """Put a model in evaluation mode, and restore also what measuring it changes.

    That is ``requires_grad`` of every parameter, and the plain tensors that
    ``torch.nn.utils.prune`` renews in each forward pass.
    """
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    plain = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    with evaluation_mode(model, seed):
        try:
            yield
        finally:
            for parameter, requires_grad in grads:
                parameter.requires_grad_(requires_grad)
            for module, name, value in plain:
                setattr(module, name, value)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one torch thread: the last bits of a sum depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def preserve_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Clear the ``grad`` of every parameter, and put it back afterwards."""
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient
