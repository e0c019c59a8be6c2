"""Measure the layers of a model: what was asked for, and no pass over the data beyond it.

:func:`collect_each` is the way from a model to its records, top to bottom. The layers and what
follows them are found in ``layers`` and ``activation_tracer``; a forward pass is measured in
``recording``, a backward pass in ``gradients``; ``records`` puts both together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from itertools import chain
from operator import length_hint
from typing import Any, NamedTuple, ParamSpec

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.language.expression import Expression
from gp_prune.language.record import LOSS_NEEDS, NEEDS, LayerRecord
from gp_prune.statistics.activation_tracer import (
    ActivationTracer,
    Call,
    Site,
    norms_of,
    observe,
    pair_without_data,
)
from gp_prune.statistics.batches import Batch, Loss, Progress, batch_size, check_batches, in_parts
from gp_prune.statistics.gradients import (
    MINI_BATCH,
    Gradients,
    HessianGradients,
    synaptic_flow,
)
from gp_prune.statistics.layers import prunable_layers
from gp_prune.statistics.recording import LABEL_NEEDS, RECORDED_NEEDS, Recorder
from gp_prune.statistics.records import Consumer, Measured, has_running_statistics
from gp_prune.statistics.running import (
    Forward,
    Inputs,
    as_device,
    call_model,
    device_of,
    measurement,
    to_device,
)
from gp_prune.statistics.sampling import MAX_POSITIONS, MAX_SAMPLES, Sampling

_DATA_NEEDS = RECORDED_NEEDS | LOSS_NEEDS

_GRAPH_BYTES = 2**29
"""About what autograd may keep at a time: larger batches go through a backward pass in parts."""


def collect_each(
    model: nn.Module,
    layers: Sequence[str] | None,
    batches: Iterable[Batch],
    *,
    needs: AbstractSet[str] = frozenset(),
    expressions: Sequence[Expression] = (),
    max_memory: int | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    max_samples: int = MAX_SAMPLES,
    max_positions: int = MAX_POSITIONS,
    device: str | torch.device | None = None,
    example_inputs: Inputs | None = None,
    outgoing: Mapping[str, Sequence[Consumer]] | None = None,
    forward_fn: Forward | None = None,
    progress: Progress | None = None,
    norms: bool = True,
) -> Iterator[tuple[str, LayerRecord]]:
    """Measure the layers of a model in evaluation mode, in one pass over the data.

    Everything is measured when the first record is asked for. What belongs to a layer alone is let
    go with its record, so that who deals with one after the other needs half of the memory.

    The data is streamed: batches of any number and size give the same result, up to rounding, as
    all samples in one batch, and no more than one layer's maps are held at a time (where there is
    a loss, also what autograd keeps of as many samples as fit 0.5 GB). The model, torch's random
    state and gradient mode are the same afterwards, also after an exception. Two needs are
    exceptions: ``"fisher"`` squares the gradients of mini-batches, each of 32 samples in the order
    of the data, so its value depends on that order; and ``"hessian"`` takes a second pass, so
    batches that can be iterated only once are kept in memory.

    Batch norms are paired with layers by running the model, on ``example_inputs`` or on the first
    batch (see :class:`~gp_prune.statistics.activation_tracer.ActivationTracer`), and without either
    by tracing (see :func:`~gp_prune.statistics.activation_tracer.pair_without_data`).
    ``pre_activation`` is what goes into the activation (after the batch norm), ``activation``
    what comes out. Where the layer's output is first added to others, as at the end of a residual
    block, ``pre_activation`` is the layer's own part and ``activation`` that of the sum; where no
    activation follows at all, both are the same. A layer that runs
    several times per pass counts every time in norms, moments and gradients; sampled maps are
    those of its first use.

    Args:
        model: any model; it is called with the inputs of each batch, on its own device.
        layers: names of the layers; None means all that
            :func:`~gp_prune.statistics.prunable_layers` finds. With data or example inputs,
            layers that the model does not use in evaluation mode are then left out.
        batches: the calibration data; never touched if no need asks for it.
        needs: a subset of :data:`gp_prune.language.record.NEEDS`; only what they ask for is
            measured.
        expressions: formulas that will be evaluated on the records; what they need is measured.
        max_memory: bytes that may be held beside the forward and the backward pass; None means
            :data:`gp_prune.statistics.sampling.MAX_MEMORY`.
        loss: mean loss over a batch, for gradients of any kind (not for ``"synflow"``).
        seed: seed of the sampled samples and positions and of the noise.
        max_samples: greatest number of samples (n) in sampled maps; the same for all layers.
        max_positions: greatest number of positions (s) per layer in sampled maps.
        device: where the records go; None means the model's device.
        example_inputs: what the model can be called with, to pair batch norms, and for
            ``"synflow"``, without data.
        outgoing: for ``"outgoing"``: name of a layer -> the layers that read it, as
            :func:`gp_prune.pruning.consumers` finds them; a layer that is missing has none.
        forward_fn: ``forward_fn(model, inputs)`` runs the model where ``model(inputs)``,
            ``model(*inputs)`` or ``model(**inputs)`` is not the way.
        progress: ``progress(done, total)``, called after each batch of each pass; ``total`` is
            None where the data does not tell how many batches it has.
        norms: False leaves batch norms unpaired where nothing is measured, so that the model does
            not run: for those who read weights and biases alone.

    Yields:
        Name and record of each layer, in the order of ``layers``.

    Raises:
        ValueError: a need is unknown, or ``max_memory``, ``max_samples`` or ``max_positions``
            is less than 1.
        UserError: a layer is unknown or unused, data is missing (no samples, labels, targets,
            loss or consumers), a measurement would be too large, or something measured is not
            finite.
    """
    needs = frozenset(needs).union(*(expression.needs for expression in expressions))
    _check_request(needs, loss, outgoing, max_samples, max_positions)
    if max_memory is not None and max_memory < 1:
        raise ValueError(f"max_memory is {max_memory}; it must be at least 1 byte")
    chosen = _choose_layers(model, layers)
    consumers = outgoing if outgoing is not None and "outgoing" in needs else {}
    if "hessian" in needs and isinstance(batches, Iterator):
        batches = list(batches)
    home, forward = device_of(model), forward_fn or call_model

    def read_data(*, second_pass: bool) -> Iterator[Batch]:
        told = _tell_progress(batches, needs, progress, second_pass=second_pass)
        labelled = bool(needs & LABEL_NEEDS) and not second_pass
        return check_batches(told, home, labelled=labelled)

    with torch.inference_mode(False), measurement(model, seed):
        stream: Iterator[Batch] = iter(())
        if needs & _DATA_NEEDS or ("synflow" in needs and example_inputs is None):
            first, stream = _look_ahead(read_data(second_pass=False))
            example_inputs = first.inputs if example_inputs is None else example_inputs
        example_inputs = to_device(example_inputs, home)
        if needs or norms:
            named = layers is not None
            surroundings = _look_around(model, chosen, example_inputs, forward, named=named)
        else:
            surroundings = _Surroundings(chosen, dict.fromkeys(chosen), {}, None)
        modules = _with_consumers(model, surroundings.layers, consumers)
        measured = Measured(needs, modules, surroundings.norm_modules(model), consumers, seed)
        if needs & _DATA_NEEDS:
            sampling = Sampling(seed, max_samples, max_positions)
            _first_pass(model, surroundings, measured, stream, sampling, loss, forward)
        if measured.gradients is not None and "hessian" in needs:
            measured.curvature = HessianGradients(model, measured.gradients)
            parts = in_parts(read_data(second_pass=True), None, surroundings.at_once)
            _run_pass(model, parts, forward, loss, measured.curvature)
        if example_inputs is not None and "synflow" in needs:
            measured.flow = synaptic_flow(model, surroundings.layers, example_inputs, forward)
    target = home if device is None else as_device(device)
    for name in surroundings.layers:
        with torch.inference_mode(False):
            record = measured.take_record(name, target)
        yield name, record


_P = ParamSpec("_P")


def _into_dict(
    function: Callable[_P, Iterator[tuple[str, LayerRecord]]],
) -> Callable[_P, dict[str, LayerRecord]]:
    @wraps(function)
    def collect(*args: _P.args, **kwargs: _P.kwargs) -> dict[str, LayerRecord]:
        return dict(function(*args, **kwargs))

    return collect


collect = _into_dict(collect_each)
"""As :func:`collect_each`, with the records in a dictionary by layer name."""


def _first_pass(
    model: nn.Module,
    surroundings: _Surroundings,
    measured: Measured,
    stream: Iterable[Batch],
    sampling: Sampling,
    loss: Loss | None,
    forward: Forward,
) -> None:
    """Measure forward and, where a need has a loss, backward."""
    needs, tracer = measured.needs, None
    if needs & RECORDED_NEEDS:
        unknown = {n for n, norm in measured.norms.items() if not has_running_statistics(norm)}
        measured.recorder = Recorder(
            surroundings.layers, surroundings.sites, unknown, needs, sampling
        )
        tracer = ActivationTracer(model, surroundings.layers, measured.recorder)
    if needs & LOSS_NEEDS:
        layers = dict(measured.modules)
        if "hessian" in needs:  # the gradient along which it differentiates is that by all layers
            layers |= prunable_layers(model)
        measured.gradients = Gradients(model, layers, squares="fisher" in needs)
    most = MINI_BATCH if "fisher" in needs else None
    parts = in_parts(stream, most, surroundings.at_once if needs & LOSS_NEEDS else None)
    _run_pass(model, parts, forward, loss, measured.gradients, measured.recorder, tracer)


def _run_pass(
    model: nn.Module,
    parts: Iterable[tuple[Batch, bool]],
    forward: Forward,
    loss: Loss | None,
    gradients: Gradients | None,
    recorder: Recorder | None = None,
    tracer: ActivationTracer | None = None,
) -> None:
    """Run the model forward over the data, and backward where gradients are wanted."""
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(gradients is not None))
        if gradients is not None:  # before the tracer, which must see the rescaled batch norms
            stack.enter_context(gradients.attached())
        if tracer is not None:
            stack.enter_context(tracer.attached())
        for part, last in parts:
            samples = batch_size(part.inputs)
            with (
                recorder.batch(samples, part.labels) if recorder else nullcontext(),
                tracer.run() if tracer else nullcontext(),
            ):
                output = forward(model, part.inputs)
            if gradients is not None and loss is not None:
                if part.target is None:
                    raise UserError("the data has no targets; yield Batch(inputs, target)")
                gradients.add(loss(output, part.target), samples, last=last)
            del output  # and with it what autograd keeps, before the next part runs


class _Surroundings(NamedTuple):
    """What follows each layer.

    Attributes:
        layers: the layers that are measured, by name.
        norms: name of the batch norm after each, or None.
        sites: what follows each use of each layer; empty where the model did not run.
        at_once: samples that a backward pass may take at a time; None where that is not known.
    """

    layers: dict[str, nn.Module]
    norms: Mapping[str, str | None]
    sites: Mapping[Call, Site]
    at_once: int | None

    def norm_modules(self, model: nn.Module) -> dict[str, nn.Module | None]:
        """Return the batch norm after each layer that is measured, or None."""
        names = {layer: self.norms[layer] for layer in self.layers}
        return {n: None if norm is None else model.get_submodule(norm) for n, norm in names.items()}


def _look_around(
    model: nn.Module,
    chosen: dict[str, nn.Module],
    inputs: Inputs | None,
    forward: Forward,
    *,
    named: bool,
) -> _Surroundings:
    """Find what follows each layer, by running the model or, without inputs, by tracing it.

    Layers that were asked for by name (``named``) must run; others are left out if they do not.
    """
    if inputs is None:
        return _Surroundings(chosen, pair_without_data(model, chosen), {}, None)
    with _count_graph_bytes(model) as graph_bytes:
        sites = observe(model, chosen, inputs, forward)
    at_once = max(1, _GRAPH_BYTES * batch_size(inputs) // max(1, *graph_bytes))
    norms = norms_of(sites)
    for name in chosen:
        if named and name not in norms:
            raise UserError(
                f"layer {name!r} did not run when the model was evaluated; leave it out of layers"
            )
    used = {name: module for name, module in chosen.items() if name in norms}
    return _Surroundings(used, norms, sites, at_once)


@contextmanager
def _count_graph_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Add up, about, what autograd would keep of the passes inside: the outputs of all modules."""
    total = [0]

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            total[0] += output.numel() * output.element_size()

    with ExitStack() as stack:
        for module in model.modules():
            if next(module.children(), None) is None:
                stack.callback(module.register_forward_hook(note).remove)
        yield total


def _check_request(
    needs: AbstractSet[str],
    loss: Loss | None,
    outgoing: object,
    max_samples: int,
    max_positions: int,
) -> None:
    unknown = sorted(set(needs) - set(NEEDS))
    if unknown:
        raise ValueError(f"unknown need {unknown[0]!r}; the needs are {', '.join(NEEDS)}")
    if max_samples < 1 or max_positions < 1:
        raise ValueError(
            f"max_samples is {max_samples} and max_positions {max_positions}; "
            "both must be at least 1"
        )
    if needs & LOSS_NEEDS and loss is None:
        raise UserError("gradients need a loss; pass loss=..., a mean over the batch")
    if "outgoing" in needs and outgoing is None:
        raise UserError(
            "the weights that read a channel need the network's graph; "
            "pass outgoing=consumers(trace(model, example_inputs))"
        )


def _choose_layers(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    """Return the layers with these names; UserError names one that is not there."""
    known = prunable_layers(model)
    if names is None:
        return known
    for name in names:
        if name not in known:
            raise UserError(
                f"the model has no prunable layer {name!r}; its layers are {', '.join(known)}"
            )
    return {name: known[name] for name in names}


def _look_ahead(stream: Iterator[Batch]) -> tuple[Batch, Iterator[Batch]]:
    """Return the first batch, and all of them."""
    first = next(stream, None)
    if first is None:
        raise UserError("the calibration data has no samples; pass at least one batch")
    return first, chain([first], stream)


def _tell_progress(
    batches: Iterable[Batch],
    needs: AbstractSet[str],
    progress: Progress | None,
    *,
    second_pass: bool,
) -> Iterator[Batch]:
    """Yield the batches of a pass; ``progress`` is called when each has been dealt with."""
    size = 0 if progress is None else length_hint(batches, 0)
    total = size * (2 if "hessian" in needs else 1) or None
    for done, batch in enumerate(batches, start=(size if second_pass else 0) + 1):
        yield batch
        if progress is not None:
            progress(done, total)


def _with_consumers(
    model: nn.Module, chosen: Mapping[str, nn.Module], consumers: Mapping[str, Sequence[Consumer]]
) -> dict[str, nn.Module]:
    """Return the layers and those that read them; UserError if one is not in the model."""
    known, modules = dict(model.named_modules()), dict(chosen)
    for name in chosen:
        for consumer in consumers.get(name, ()):
            if consumer.module not in known:
                raise UserError(
                    f"layer {name!r} is said to be read by {consumer.module!r}, which the model "
                    "does not have; trace this model for its consumers"
                )
            modules[consumer.module] = known[consumer.module]
    return modules
