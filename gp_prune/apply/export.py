"""Pruned networks as files that other programs run: ONNX, torch.export and TorchScript.

What is written was run beside the network first; a file that gives anything else is not kept.
"""

from __future__ import annotations

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

from gp_prune._compat import import_optional
from gp_prune.apply.network import ValueReads
from gp_prune.apply.result import PrunedModel
from gp_prune.base.files import write_bytes
from gp_prune.errors import UserError, root_cause
from gp_prune.pruning import unmask
from gp_prune.pruning.graph.cut_check import randomise_weights
from gp_prune.pruning.modules import largest_difference, sample_count, tell_nothing
from gp_prune.statistics.running import (
    CalledModel,
    Forward,
    copy_model,
    evaluation_mode,
    map_tensors,
    random_like,
    random_state,
    seed_generators,
    tensors_of,
)

TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
TOLERANCE = 1e-4
"""Largest difference from torch's outputs, as a share of their largest value; that of the types
in :data:`TOLERANCES` is about ten times their precision."""
_EXTRA = ("onnx", "onnxscript", "onnxruntime")
_CONTROL = re.compile(r"\x1b\[[0-9;]*m")
_SEED = 0

Runner = Callable[[list[Tensor]], list[Tensor]]
"""Runs an exported network on the tensors of its inputs, in order."""


class ExportWarning(UserWarning):
    """An exported file can do less than was hoped for."""


def export_onnx(
    network: PrunedModel | nn.Module,
    path: str | Path,
    example_inputs: Any,
    *,
    forward_fn: Forward | None = None,
    free_batch: bool | None = None,
) -> float:
    """Write a network as an ONNX file, after onnxruntime gave what torch gives.

    The network is exported in evaluation mode, on the CPU, for inputs of the shapes of
    ``example_inputs`` and, where the network allows it, for any number of samples; masks become
    permanent zeros. The network itself is not changed.

    Args:
        network: what :func:`gp_prune.prune` returned, or a module.
        path: the file; one that is there is replaced once the new one is complete.
        example_inputs: a batch that the network can be called with.
        forward_fn: runs the network on the batch where calling it with it is not the way.
        free_batch: whether the file takes any number of samples; None takes that of the example
            inputs alone, with a warning, where the network cannot do otherwise.

    Returns:
        The largest difference between the outputs of onnxruntime and torch on the example inputs,
        on others of their shape and, where it is free, of another number of samples, as a share of
        the largest output.

    Raises:
        UserError: the extra ``onnx`` is not installed, the network cannot be exported, the
            outputs differ by more than :data:`TOLERANCE`, or the file cannot be written.

    Warns:
        ExportWarning: the file holds the number of samples of the example inputs.
    """
    runtime = onnx_modules()[-1]
    model, inputs = _plain(network, forward_fn), _on_cpu(example_inputs)
    if free_batch is not False:
        try:
            content, difference = _onnx(runtime, model, inputs, free=True)
            if difference <= _tolerance(model, inputs):
                return _keep(Path(path), content, difference, "onnxruntime", model, inputs)
            reason = f"its outputs differ by {difference:.2g} for other numbers of samples"
        except UserError as error:
            if free_batch:
                raise
            reason = str(error).partition(";")[0]
    content, difference = _onnx(runtime, model, inputs, free=False)
    difference = _keep(Path(path), content, difference, "onnxruntime", model, inputs)
    if free_batch is None:
        warnings.warn(
            f"{str(path)!r} takes batches of {sample_count(inputs)} samples alone, as the example "
            f"inputs have ({reason})",
            ExportWarning,
            stacklevel=2,
        )
    return difference


def _onnx(runtime: Any, model: nn.Module, inputs: Any, *, free: bool) -> tuple[bytes, float]:
    """Return an ONNX file and how much its outputs differ; UserError where it cannot be run."""
    # Torch takes a size of 1 for a constant.
    traced = _resize(inputs, max(2, sample_count(inputs))) if free else inputs
    with _exporting("ONNX with a free number of samples" if free else "ONNX"):
        args, kwargs = _arguments(model, traced)
        shapes = None
        if free:
            batch, axis = sample_count(traced), torch.export.Dim("batch")
            shapes = _batch_axes(kwargs or args, batch, axis)
        program = torch.onnx.export(
            model, args, kwargs=kwargs, dynamo=True, verbose=False, dynamic_shapes=shapes
        )
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]

        def runner(tensors: list[Tensor]) -> list[Tensor]:
            feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
            return [torch.from_numpy(values) for values in session.run(None, feed)]

        difference = _difference(model, inputs, runner)
        if free:
            more = _resize(inputs, sample_count(inputs) + 2)
            difference = max(difference, _difference(model, more, runner))
    if (other := _other_weights(model, inputs)) is not None:
        difference = max(difference, _onnx(runtime, other, inputs, free=free)[1])
    return content, difference


def _batch_axes(value: Any, samples: int, axis: Any) -> Any:
    """Return the form of arguments with the free axis in place of every tensor of a batch."""
    if isinstance(value, Tensor):
        return {0: axis} if value.dim() and len(value) == samples else {}
    if isinstance(value, Mapping):
        return {key: _batch_axes(item, samples, axis) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_batch_axes(item, samples, axis) for item in value)
    return None


def _resize(inputs: Any, samples: int) -> Any:
    """Return inputs with another number of samples, the first ones repeated."""
    now = sample_count(inputs)

    def resize(tensor: Tensor) -> Tensor:
        if not tensor.dim() or len(tensor) != now:
            return tensor
        return tensor[torch.arange(samples) % now]

    return map_tensors(resize, inputs)


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
    content, difference = _torch(makers[target.suffix], target.suffix, model, inputs)
    return _keep(target, content, difference, "the file read again", model, inputs)


def _torch(make: Any, suffix: str, model: nn.Module, inputs: Any) -> tuple[bytes, float]:
    """Return a file of torch and how much its outputs differ."""
    with _exporting("torch.export" if suffix == ".pt2" else "TorchScript"):
        content, again = make(model, inputs)

    def runner(tensors: list[Tensor]) -> list[Tensor]:
        left = iter(tensors)
        args, kwargs = _arguments(model, map_tensors(lambda _: next(left), inputs))
        return tensors_of(again(*args, **kwargs))

    difference = _difference(model, inputs, runner)
    if (other := _other_weights(model, inputs)) is not None:
        difference = max(difference, _torch(make, suffix, other, inputs)[1])
    return content, difference


def _other_weights(model: nn.Module, inputs: Any) -> nn.Module | None:
    """Return the network with random weights where its outputs tell nothing, to compare it, too.

    A last layer that starts at zero gives zeros whatever the rest computes. None where the outputs
    can tell networks apart, or random weights do not help.
    """
    if not _tells_nothing(model, inputs):
        return None
    other = copy_model(model)
    with random_state():
        randomise_weights(other)
    return None if _tells_nothing(other, inputs) else other


def _tells_nothing(model: nn.Module, inputs: Any) -> bool:
    with evaluation_mode(model), torch.no_grad():
        return tell_nothing(tensors_of(_run(model, inputs)))


def onnx_modules() -> list[Any]:
    """Return the packages of the extra ``onnx``; UserError says how to install them."""
    return [import_optional(name, "export to ONNX", "gp-prune[onnx]") for name in _EXTRA]


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
    reads = ValueReads()
    with reads:
        model(*args, **kwargs)
    with warnings.catch_warnings(record=True) as caught:
        # Reading a shape warns as well, but shapes are those of the example inputs.
        warnings.simplefilter("always", TracerWarning)
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            model, args or None, example_kwarg_inputs=kwargs or None, strict=False,
            check_trace=False,
        )  # fmt: skip
    frozen = [w for w in caught if issubclass(w.category, TracerWarning)]
    if reads.any and frozen:
        raise UserError(
            "the network branches on the values of its data (line "
            f"{frozen[0].lineno} of {frozen[0].filename!r}), of which TorchScript would freeze "
            "those of the example inputs; export it without the branch, or use save_pruned"
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
            # One name is enough for the samples of all inputs.
            warnings.filterwarnings("ignore", r"# The axis name: batch will not be used")
            yield
    except UserError:
        raise
    except Exception as error:  # exporters raise whatever the network's code meets on the way
        cause = root_cause(error)
        lines = _CONTROL.sub("", str(cause)).strip().splitlines() or [""]
        raise UserError(
            f"the network cannot be exported to {what} ({type(cause).__name__}: {lines[0]}); "
            "use save_pruned, which works for every network"
        ) from error


def _difference(model: nn.Module, inputs: Any, runner: Runner) -> float:
    """Return the largest difference of the outputs on the inputs and on others of their shapes."""
    largest = 0.0
    with evaluation_mode(model), torch.no_grad():
        seed_generators(_SEED)
        negative = map_tensors(lambda x: -x if x.is_floating_point() else x, inputs)
        for given in (inputs, map_tensors(random_like, inputs), negative):
            expected = tensors_of(_run(model, given))
            largest = max(largest, largest_difference(expected, runner(tensors_of(given))))
    return largest


def _run(model: nn.Module, inputs: Any) -> Any:
    args, kwargs = _arguments(model, inputs)
    return model(*args, **kwargs)


def _tolerance(model: nn.Module, inputs: Any) -> float:
    """Return the largest difference that the coarsest type of a network explains."""
    types = {tensor.dtype for tensor in (*model.parameters(), *model.buffers())}
    types |= {tensor.dtype for tensor in tensors_of(inputs)}
    return max(TOLERANCES.get(dtype, TOLERANCE) for dtype in (*types, torch.float32))


def _keep(
    path: Path, content: bytes, difference: float, what: str, model: nn.Module, inputs: Any
) -> float:
    """Write the file if its network computes the same."""
    tolerance = _tolerance(model, inputs)
    if not difference <= tolerance:
        raise UserError(
            f"{str(path)!r} is not written: the outputs of {what} differ from the network's by "
            f"{difference:.2g} of their largest value, more than {tolerance:g}; use save_pruned"
        )
    try:
        write_bytes(path.expanduser(), content)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{str(path)!r} cannot be written ({reason}); name another") from error
    return difference
