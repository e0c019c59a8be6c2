"""Measuring the layers of a model: what was asked for, and no pass over the data beyond it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import chain
from operator import length_hint
from typing import Any, NamedTuple, ParamSpec

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.language.record import LOSS_NEEDS, NEEDS, LayerRecord
from gp_prune.statistics.activation_tracer import (
    ActivationTracer,
    Call,
    Site,
    norms_of,
    observe,
    pair_without_data,
)
from gp_prune.statistics.batches import (
    Batch,
    Loss,
    Progress,
    batch_size,
    checked,
    counted,
    in_parts,
)
from gp_prune.statistics.gradients import Gradients, hessian_gradients, synaptic_flow
from gp_prune.statistics.layers import prunable_layers
from gp_prune.statistics.recording import LABEL_NEEDS, RECORDED_NEEDS, Recorder, Sample
from gp_prune.statistics.records import Consumer, Measured, build_record, measures_outputs
from gp_prune.statistics.running import (
    Forward,
    Inputs,
    call_model,
    device_of,
    measurement,
    to_device,
)


def run_model(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    stream: Iterable[Batch],
    recorder: Recorder | None,
    gradients: Gradients | None,
    loss: Loss | None,
    forward: Forward = call_model,
    most: int | None = None,
    at_once: int | None = None,
) -> None:
    """Run the model forward over the data, and backward where gradients are wanted.

    Args:
        model: the model, in evaluation mode.
        layers: the layers that the recorder measures.
        stream: the data.
        recorder: measures in forward passes, if given.
        gradients: measures in backward passes, if given.
        loss: mean loss over a batch, for gradients.
        forward: runs the model on the inputs of a batch.
        most: largest number of samples in a batch; larger ones are cut into several.
        at_once: largest number of samples that run together; the rest of a batch follows.

    Raises:
        UserError: gradients are wanted and the data has no targets, or a measurement fails.
    """
    follower = None if recorder is None else ActivationTracer(model, layers, recorder)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(gradients is not None))
        if gradients is not None:  # before the follower, which must see the rescaled batch norms
            stack.enter_context(gradients.attached())
        if follower is not None:
            stack.enter_context(follower.attached())
        for batch, last in in_parts(stream, most, at_once):
            samples = batch_size(batch.inputs)
            if recorder is None or follower is None:
                output = forward(model, batch.inputs)
            else:
                recorder.start(samples, batch.labels)
                with follower.run():
                    output = forward(model, batch.inputs)
                recorder.finish()
            if gradients is not None and loss is not None:
                if batch.target is None:
                    raise UserError("the data has no targets; yield Batch(inputs, target)")
                gradients.add(loss(output, batch.target), samples, last=last)
            del output  # and with it what autograd keeps, before the next part runs


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Adds up, about, what autograd would keep of the passes inside: the outputs of all modules."""
    total = [0]

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            total[0] += output.numel() * output.element_size()

    with ExitStack() as stack:
        for module in model.modules():
            if next(module.children(), None) is None:
                stack.callback(module.register_forward_hook(note).remove)
        yield total


_P = ParamSpec("_P")
_DATA_NEEDS = RECORDED_NEEDS | LOSS_NEEDS

_GRAPH_BYTES = 2**29
"""About what autograd may keep at a time: larger batches go through a backward pass in parts."""

_FISHER_BATCH = 32
"""Largest number of samples over which a gradient is averaged before it is squared."""


def collect_each(
    model: nn.Module,
    layers: Sequence[str] | None,
    batches: Iterable[Batch],
    *,
    needs: AbstractSet[str] = frozenset(),
    loss: Loss | None = None,
    seed: int = 0,
    max_samples: int = 64,
    max_positions: int = 64,
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
    exceptions: ``"fisher"`` is the mean over batches, which it cuts into equal parts of at most 32
    samples, so its value depends on the batches; and ``"hessian"`` takes a second pass, so batches
    that can be iterated only once are kept in memory.

    Batch norms are paired with layers by running the model, on ``example_inputs`` or on the first
    batch (see :class:`~gp_prune.statistics.activation_tracer.ActivationTracer`), and without either
    by tracing (see :func:`~gp_prune.statistics.activation_tracer.pair_without_data`).
    ``pre_activation`` is what goes into the activation (behind the batch norm), ``activation``
    what comes out; where no activation directly follows, both are the same. A layer that runs
    several times per pass counts every time in norms, moments and gradients; sampled maps are
    those of its first use.  Args: model: any model; it is called with the inputs of each batch,
    on its own device. layers: names of the layers; None stands for all that
    :func:`~gp_prune.statistics.prunable_layers` finds. With data or example inputs, layers that
    the model does not use in evaluation mode are then left out. batches: the calibration data;
    never touched if no need asks for it. needs: a subset of
    :data:`gp_prune.language.record.NEEDS`; only what they ask for is measured. loss: mean loss
    over a batch, for gradients of any kind (not for ``"synflow"``). seed: seed of the sampled
    samples and positions and of the noise. max_samples: greatest number of samples (n) in
    sampled maps; the same for all layers. max_positions: greatest number of positions (s) per
    layer in sampled maps. device: where the records go; None stands for the model's device.
    example_inputs: what the model can be called with, to pair batch norms, and for
    ``"synflow"``, without data. outgoing: for ``"outgoing"``: name of a layer -> the layers
    that read it, as :func:`gp_prune.pruning.graph.consumers` finds them; a layer that is
    missing has no readers. forward_fn: ``forward_fn(model, inputs)`` runs the model where
    ``model(inputs)``, ``model(*inputs)`` or ``model(**inputs)`` is not the way. progress:
    ``progress(done, total)``, called after each batch of each pass; ``total`` is None where the
    data does not tell how many batches it has. norms: False leaves batch norms unpaired where
    nothing is measured, so that the model does not run: for those who read weights and biases
    alone.

    Yields:
        Name and record of each layer, in the order of ``layers``.

    Raises:
        ValueError: a need is unknown, or ``max_samples`` or ``max_positions`` is less than 1.
        UserError: a layer is unknown or unused, data is missing (no samples, labels, targets,
            loss or readers), a measurement would be too large, or something measured is not finite.
    """
    _check_request(needs, loss, outgoing, max_samples, max_positions)
    chosen = _choose(model, layers)
    readers = outgoing if outgoing is not None and "outgoing" in needs else {}
    if "hessian" in needs and isinstance(batches, Iterator):
        batches = list(batches)
    home, forward = device_of(model), forward_fn or call_model
    with torch.inference_mode(False), measurement(model, seed):
        stream = _stream(_told(batches, needs, progress), home, needs, example_inputs)
        if stream is not None and example_inputs is None:
            first = next(stream)
            example_inputs, stream = first.inputs, chain([first], stream)
        example_inputs = to_device(example_inputs, home)
        if not needs and not norms:
            followed = _Followed(chosen, dict.fromkeys(chosen), {}, None)
        else:
            followed = _followed(model, chosen, example_inputs, forward, named=layers is not None)
        chosen = followed.layers
        paired = {name: _module(model, followed.norms[name]) for name in chosen}
        measured = Measured(needs, _with_readers(model, chosen, readers), readers, seed)
        if needs & RECORDED_NEEDS:
            unknown = {name for name, norm in paired.items() if measures_outputs(norm)}
            sample = Sample(seed, max_samples, max_positions)
            measured.recorder = Recorder(chosen, followed.sites, unknown, needs, sample)
        if stream is not None and needs & _DATA_NEEDS:
            _run(model, chosen, measured, stream, loss, forward, followed.at_once)
        if measured.gradients is not None and loss is not None and "hessian" in needs:
            again = checked(_told(batches, needs, progress, first=False), home, labelled=False)
            measured.curvature = hessian_gradients(
                model, measured.gradients, again, loss, forward, followed.at_once
            )
        if example_inputs is not None and "synflow" in needs:
            measured.flow = synaptic_flow(model, chosen, example_inputs, forward)
    target = home if device is None else torch.device(device)
    for name in chosen:
        with torch.inference_mode(False):
            record = build_record(name, paired[name], measured, target)
        measured.release(name)
        yield name, record


class _Followed(NamedTuple):
    """What follows each layer.

    Attributes:
        layers: the layers that are measured, by name.
        norms: name of the batch norm behind each, or None.
        sites: what follows each use of each layer; empty where the model did not run.
        at_once: samples that a backward pass may take at a time; None where that is not known.
    """

    layers: dict[str, nn.Module]
    norms: Mapping[str, str | None]
    sites: Mapping[Call, Site]
    at_once: int | None


def _followed(
    model: nn.Module,
    chosen: dict[str, nn.Module],
    inputs: Inputs | None,
    forward: Forward,
    *,
    named: bool,
) -> _Followed:
    """What follows each layer, by running the model or, without inputs, by tracing it.

    Args:
        model: the model, in evaluation mode.
        chosen: the layers.
        inputs: what it runs on, or None.
        forward: runs it.
        named: whether the layers were asked for by name, so that each must run.
    """
    if inputs is None:
        return _Followed(chosen, pair_without_data(model, chosen), {}, None)
    with kept_bytes(model) as kept:
        sites = observe(model, chosen, inputs, forward)
    at_once = max(1, _GRAPH_BYTES * batch_size(inputs) // max(1, *kept))
    norms = norms_of(sites)
    return _Followed(_used(chosen, norms, explicit=named), norms, sites, at_once)


def _together(
    function: Callable[_P, Iterator[tuple[str, LayerRecord]]],
) -> Callable[_P, dict[str, LayerRecord]]:
    @wraps(function)
    def collect(*args: _P.args, **kwargs: _P.kwargs) -> dict[str, LayerRecord]:
        return dict(function(*args, **kwargs))

    return collect


collect = _together(collect_each)
"""As :func:`collect_each`, with the records in a dictionary by layer name."""


def _run(
    model: nn.Module,
    chosen: Mapping[str, nn.Module],
    measured: Measured,
    stream: Iterable[Batch],
    loss: Loss | None,
    forward: Forward,
    at_once: int | None,
) -> None:
    """The first pass over the data, forward and, where a need has a loss, backward."""
    needs, most = measured.needs, None
    if needs & LOSS_NEEDS:
        wanted = dict(measured.modules)
        if "hessian" in needs:  # the gradient along which it differentiates is that by all layers
            wanted |= prunable_layers(model)
        measured.gradients = Gradients(model, wanted, squares="fisher" in needs)
    else:
        at_once = None
    if "fisher" in needs:
        most = _FISHER_BATCH
    recorder, gradients = measured.recorder, measured.gradients
    run_model(model, chosen, stream, recorder, gradients, loss, forward, most, at_once)


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


def _choose(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    """The layers with these names; UserError names one that is not there."""
    known = prunable_layers(model)
    if layers is None:
        return known
    for name in layers:
        if name not in known:
            raise UserError(
                f"the model has no prunable layer {name!r}; its layers are {', '.join(known)}"
            )
    return {name: known[name] for name in layers}


def _stream(
    batches: Iterable[Batch],
    home: torch.device,
    needs: AbstractSet[str],
    example_inputs: Inputs | None,
) -> Iterator[Batch] | None:
    """The batches on the model's device, at least one of them; None if nothing asks for them."""
    if not needs & _DATA_NEEDS and not ("synflow" in needs and example_inputs is None):
        return None
    stream = checked(batches, home, labelled=bool(needs & LABEL_NEEDS))
    first = next(stream, None)
    if first is None:
        raise UserError("the calibration data has no samples; pass at least one batch")
    return chain([first], stream)


def _told(
    batches: Iterable[Batch],
    needs: AbstractSet[str],
    progress: Progress | None,
    *,
    first: bool = True,
) -> Iterable[Batch]:
    """The batches of the first or of the second pass, with ``progress`` told of each."""
    if progress is None:
        return batches
    size = length_hint(batches, 0) or None
    passes = 2 if "hessian" in needs else 1
    total = None if size is None else passes * size
    return counted(batches, progress, total, 0 if first or size is None else size)


def _with_readers(
    model: nn.Module, chosen: Mapping[str, nn.Module], readers: Mapping[str, Sequence[Consumer]]
) -> dict[str, nn.Module]:
    """The layers, and those that read them; UserError if a reader is not in the model."""
    known, found = dict(model.named_modules()), dict(chosen)
    for name in chosen:
        for reader in readers.get(name, ()):
            if reader.module not in known:
                raise UserError(
                    f"layer {name!r} is said to be read by {reader.module!r}, which the model does "
                    "not have; trace this model for its readers"
                )
            found[reader.module] = known[reader.module]
    return found


def _used(
    chosen: Mapping[str, nn.Module], norms: Mapping[str, str | None], *, explicit: bool
) -> dict[str, nn.Module]:
    """The layers that ran; UserError if one that was asked for by name did not."""
    for name in chosen:
        if explicit and name not in norms:
            raise UserError(
                f"layer {name!r} did not run when the model was evaluated; leave it out of layers"
            )
    return {name: module for name, module in chosen.items() if name in norms}


def _module(model: nn.Module, name: str | None) -> nn.Module | None:
    return None if name is None else model.get_submodule(name)
