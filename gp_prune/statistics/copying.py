"""Copy networks as ``copy.deepcopy`` does, several times faster where their modules are plain.

``copy.deepcopy`` takes every attribute of every module through the protocol of pickle. A module
that changes nothing in that protocol is its dictionary: numbers and texts stay, tensors are cloned,
and everything that is not as plain is left to ``copy.deepcopy``, with the same memo.
"""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

_UNCHANGED = frozenset(
    {int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size}
)
_CONTAINERS = frozenset({dict, OrderedDict, set, list})
_PROTOCOL = frozenset({"__new__", "__reduce_ex__", "__reduce__", "__getstate__"})
_STORES = ("_parameters", "_buffers", "_modules")


def copy_modules(model: nn.Module, memo: dict[Any, Any]) -> Any:
    """Return what ``copy.deepcopy(model, memo)`` returns.

    Args:
        model: the network.
        memo: as of ``copy.deepcopy``.
    """
    return _copy(model, memo)


def _copy(value: Any, memo: dict[Any, Any]) -> Any:
    kind: type = type(value)
    if kind in _UNCHANGED or (kind is tuple and all(type(part) in _UNCHANGED for part in value)):
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if isinstance(value, nn.Module) and _is_plain(kind) and "__deepcopy__" not in vars(value):
        return _copy_module(value, memo)
    if kind in _CONTAINERS and not value:
        memo[id(value)] = kind()
        return memo[id(value)]
    if kind is Tensor and _is_whole(value, memo):
        memo[id(value)] = cloned = value.clone()
        # Where deepcopy looks for the memory of tensors that share it.
        memo.setdefault("torch", {})[value.untyped_storage()._cdata] = cloned.untyped_storage()
        return cloned
    return copy.deepcopy(value, memo)


def _copy_module(module: nn.Module, memo: dict[Any, Any]) -> nn.Module:
    copied = object.__new__(type(module))
    memo[id(module)] = copied
    state = vars(copied)
    for name, value in vars(module).items():
        if name == "_compiled_call_impl":  # torch leaves it out, too
            continue
        if type(value) in _UNCHANGED:  # a module has dozens of these
            state[name] = value
        elif name in _STORES and type(value) is dict and id(value) not in memo:
            memo[id(value)] = state[name] = copied_store = {}
            for key, part in value.items():
                copied_store[key] = _copy(part, memo)
        else:
            state[name] = _copy(value, memo)
    return copied


@cache
def _is_plain(kind: type[nn.Module]) -> bool:
    """Return whether the instances of a class of modules are copied by their dictionaries alone."""
    restore = getattr(kind, "__setstate__", None)
    own = [base for base in kind.__mro__ if base not in (object, nn.Module)]
    return (
        not hasattr(kind, "__deepcopy__")
        and kind not in copyreg.dispatch_table
        and not any(vars(base).keys() & _PROTOCOL or vars(base).get("__slots__") for base in own)
        # Those of torch fill in what modules of its older versions lack.
        and str(getattr(restore, "__module__", "")).startswith("torch.nn.modules.")
    )


def _is_whole(value: Tensor, memo: dict[Any, Any]) -> bool:
    """Return whether a tensor is plain and is all that its memory holds, not yet copied."""
    if (
        value.requires_grad
        or not value.is_leaf
        or value.layout is not torch.strided
        or value.is_quantized
        or vars(value)
        or not value.is_contiguous()
    ):
        return False
    storage = value.untyped_storage()
    return storage.nbytes() == value.nbytes and storage._cdata not in memo.get("torch", {})
