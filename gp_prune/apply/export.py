"""Pruned networks as files that other programs run: ONNX, torch.export and TorchScript.

What is written was run beside the network first; a file that gives anything else is not kept.
"""

from __future__ import annotations

import importlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from gp_prune._io import write_bytes
from gp_prune.apply.result import PrunedModel
from gp_prune.errors import UserError
from gp_prune.pruning import unmask
from gp_prune.pruning.modules import largest_difference
from gp_prune.statistics.running import (
    CalledModel,
    Forward,
    copy_model,
    evaluation_mode,
    map_tensors,
    random_like,
    seed_generators,
    tensors_of,
)

TOLERANCE = 1e-4
"""Largest difference from torch's outputs, as a share of their largest value."""
_EXTRA = ("onnx", "onnxscript", "onnxruntime")
_CONTROL = re.compile(r"\x1b\[[0-9;]*m")
_SEED = 0

Runner = Callable[[list[Tensor]], list[Tensor]]
"""Runs an exported network on the tensors of its inputs, in order."""


def export_onnx(
    network: PrunedModel | nn.Module,
    path: str | Path,
    example_inputs: Any,
    *,
    forward_fn: Forward | None = None,
) -> float:
    """Write a network as an ONNX file, after onnxruntime gave what torch gives.

    The network is exported in evaluation mode, on the CPU, for inputs of the shapes of
    ``example_inputs``; masks become permanent zeros. The network itself is not changed.

    Args:
        network: what :func:`gp_prune.prune` returned, or a module.
        path: the file; one that is there is replaced once the new one is complete.
        example_inputs: a batch that the network can be called with.
        forward_fn: runs the network on the batch where calling it with it is not the way.

    Returns:
        The largest difference between the outputs of onnxruntime and torch on the example inputs
        and on random ones, as a share of the largest output.

    Raises:
        UserError: the extra ``onnx`` is not installed, the network cannot be exported, the
            outputs differ by more than :data:`TOLERANCE`, or the file cannot be written.
    """
    runtime = onnx_modules()[-1]
    model, inputs = _plain(network, forward_fn), _on_cpu(example_inputs)
    with _exporting("ONNX"):
        args, kwargs = _arguments(model, inputs)
        program = torch.onnx.export(model, args, kwargs=kwargs, dynamo=True, verbose=False)
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def runner(tensors: list[Tensor]) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(values) for values in session.run(None, feed)]

    return _keep(Path(path), content, _difference(model, inputs, runner), "onnxruntime")


def export_torch(
    network: PrunedModel | nn.Module,
    path: str | Path,
    example_inputs: Any,
    *,
    forward_fn: Forward | None = None,
) -> float:
    """Write a network as a file of ``torch.export`` (``.pt2``) or of TorchScript (``.ts``).

    As :func:`export_onnx`; the file is read again and its outputs are compared with the network's.

    Args:
        network: what :func:`gp_prune.prune` returned, or a module.
        path: the file, with the ending ``.pt2`` or ``.ts``.
        example_inputs: a batch that the network can be called with.
        forward_fn: runs the network on the batch where calling it with it is not the way.

    Returns:
        The largest difference of the outputs, as a share of the largest output.

    Raises:
        UserError: another ending, the network cannot be exported, the outputs differ by more than
            :data:`TOLERANCE`, or the file cannot be written.
    """
    makers = {".pt2": _exported, ".ts": _scripted}
    target = Path(path)
    if target.suffix not in makers:
        raise UserError(
            f"{str(path)!r} does not end in {' or '.join(makers)}; name a .pt2 file for "
            "torch.export or a .ts file for TorchScript"
        )
    model, inputs = _plain(network, forward_fn), _on_cpu(example_inputs)
    with _exporting("torch.export" if target.suffix == ".pt2" else "TorchScript"):
        content, again = makers[target.suffix](model, inputs)

    def runner(tensors: list[Tensor]) -> list[Tensor]:
        left = iter(tensors)
        args, kwargs = _arguments(model, map_tensors(lambda _: next(left), inputs))
        return tensors_of(again(*args, **kwargs))

    return _keep(target, content, _difference(model, inputs, runner), "the file read again")


def onnx_modules() -> list[Any]:
    """Return the packages of the extra ``onnx``; UserError says how to install them."""
    try:
        return [importlib.import_module(name) for name in _EXTRA]
    except ImportError as error:
        raise UserError(
            f"export to ONNX needs the package {error.name!r}; install the extra with "
            "pip install 'gp-prune[onnx]'"
        ) from error


def _plain(network: PrunedModel | nn.Module, forward_fn: Forward | None) -> nn.Module:
    """Return a copy on the CPU, in evaluation mode, its masks made permanent."""
    model = copy_model(network.model if isinstance(network, PrunedModel) else network).cpu()
    unmask(model)
    model.requires_grad_(False)
    return (model if forward_fn is None else CalledModel(model, forward_fn)).eval()


def _on_cpu(example_inputs: Any) -> Any:
    moved = map_tensors(lambda tensor: tensor.detach().cpu().contiguous(), example_inputs)
    return tuple(moved) if isinstance(moved, list) else moved


def _arguments(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(model, CalledModel):
        return (), {"inputs": inputs}  # by name, since a dictionary would count as named arguments
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _exported(model: nn.Module, inputs: Any) -> tuple[bytes, nn.Module]:
    args, kwargs = _arguments(model, inputs)
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, args, kwargs), file)
    content = file.getvalue()
    return content, torch.export.load(io.BytesIO(content)).module()


def _scripted(model: nn.Module, inputs: Any) -> tuple[bytes, nn.Module]:
    args, kwargs = _arguments(model, inputs)
    traced = torch.jit.trace(  # type: ignore[no-untyped-call]
        model, args or None, example_kwarg_inputs=kwargs or None, strict=False, check_trace=False
    )
    file = io.BytesIO()
    torch.jit.save(traced, file)
    content = file.getvalue()
    again: nn.Module = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return content, again


@contextmanager
def _exporting(what: str) -> Iterator[None]:
    """Raise errors of an exporter as one sentence; do not show its own deprecations."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            for category in (DeprecationWarning, FutureWarning, TracerWarning):
                warnings.simplefilter("ignore", category)
            yield
    except Exception as error:  # exporters raise whatever the network's code meets on the way
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = _CONTROL.sub("", str(cause)).strip().splitlines() or [""]
        raise UserError(
            f"the network cannot be exported to {what} ({type(cause).__name__}: {lines[0]}); "
            "use save_pruned, which works for every network"
        ) from error


def _difference(model: nn.Module, inputs: Any, runner: Runner) -> float:
    """Return the largest difference of the outputs on the inputs and on random ones."""
    largest = 0.0
    with evaluation_mode(model), torch.no_grad():
        seed_generators(_SEED)
        for given in (inputs, map_tensors(random_like, inputs)):
            expected = tensors_of(_run(model, given))
            largest = max(largest, largest_difference(expected, runner(tensors_of(given))))
    return largest


def _run(model: nn.Module, inputs: Any) -> Any:
    args, kwargs = _arguments(model, inputs)
    return model(*args, **kwargs)


def _keep(path: Path, content: bytes, difference: float, what: str) -> float:
    """Write the file if its network computes the same."""
    if difference > TOLERANCE:
        raise UserError(
            f"{str(path)!r} is not written: the outputs of {what} differ from the network's by "
            f"{difference:.2g} of their largest value, more than {TOLERANCE:g}; use save_pruned"
        )
    try:
        write_bytes(path.expanduser(), content)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{str(path)!r} cannot be written ({reason}); name another") from error
    return difference
