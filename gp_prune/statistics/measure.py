"""Measure the layers of a model: what was asked for, and no pass over the data beyond it.

:func:`collect_each` is the way from a model to its records, top to bottom. The layers and what
follows them are found in ``layers`` and ``surroundings``; ``request`` decides how much is kept, by
``sampling``, and passes over the data; a forward pass is measured in ``recording``, a backward pass
in ``gradients``, and formulas are evaluated in ``formulas``; ``records`` puts all of it together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import wraps
from typing import ParamSpec

import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.language.expression import Expression
from gp_prune.language.record import LOSS_NEEDS, NEEDS, LayerRecord
from gp_prune.statistics.batches import Batch, Loss, Progress, check_loss
from gp_prune.statistics.formulas import Formulas
from gp_prune.statistics.layers import prunable_layers
from gp_prune.statistics.passes import DataPasses
from gp_prune.statistics.recording import LABEL_NEEDS
from gp_prune.statistics.records import Consumer, LayerPlace
from gp_prune.statistics.request import Request
from gp_prune.statistics.running import (
    Forward,
    Inputs,
    as_device,
    call_model,
    device_of,
    measurement,
)
from gp_prune.statistics.sampling import MAX_MEMORY


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
    device: str | torch.device | None = None,
    example_inputs: Inputs | None = None,
    outgoing: Mapping[str, Sequence[Consumer]] | None = None,
    places: Mapping[str, LayerPlace] | None = None,
    forward_fn: Forward | None = None,
    progress: Progress | None = None,
    norms: bool = True,
) -> Iterator[tuple[str, LayerRecord]]:
    """Measure the layers of a model in evaluation mode, on all samples and all positions.

    Formulas (``expressions``) are evaluated while the data streams by: their values are in
    ``values`` of the records, which then hold no maps. The data is passed over once for what can be
    merged from parts of the samples, once more for each reduction inside another one, and once for
    every group of layers whose maps have to be held for all samples at once (for ``ridge_form``,
    kernels, and normalisers and reductions of other kinds over the samples). With ``needs``, the
    records hold the maps themselves.

    What belongs to a layer alone is let go with its record, so that who deals with one after the
    other needs less memory. Where a single layer does not fit ``max_memory`` (with ``needs``: where
    all layers together do not), its maps are those of a sample of positions and, where one position
    is too much, everything is measured on a sample of the samples: ``coverage`` of the records says
    so (:func:`gp_prune.statistics.coverage.describe_limit` puts it into a sentence), and sums are
    scaled to the whole.

    Batches of any number and size give the same result, up to rounding, as all samples in one
    batch (where there is a loss, they run in parts of which autograd keeps about 0.5 GB). The
    model, torch's random state and gradient mode are the same afterwards, also after an exception.
    ``"fisher"`` squares the gradients of mini-batches, each of 32 samples in the order of the data,
    so its value depends on that order. Batches that can be iterated only once are kept in memory
    where they are needed several times; those that can be iterated again must yield the same
    samples every time.

    Batch norms are paired with layers by running the model, on the first batch where data is read
    and on ``example_inputs`` elsewhere (see
    :class:`~gp_prune.statistics.activation_tracer.ActivationTracer`), and without either by tracing
    (see :func:`~gp_prune.statistics.pairing.pair_without_data`).
    ``pre_activation`` is what goes into the activation (after the batch norm), ``activation``
    what comes out. Where the layer's output is first added to others, as at the end of a residual
    block, ``pre_activation`` is the layer's own part and ``activation`` that of the sum; where no
    activation follows at all, both are the same. A layer that runs several times per pass counts
    every time in norms, moments and gradients; maps are those of its first use.

    Args:
        model: any model; it is called with the inputs of each batch, on its own device.
        layers: names of the layers; None means all that
            :func:`~gp_prune.statistics.prunable_layers` finds. With data or example inputs,
            layers that the model does not use in evaluation mode are then left out.
        batches: the calibration data; never touched if nothing asks for it.
        needs: a subset of :data:`gp_prune.language.record.NEEDS`; only what they ask for is
            measured.
        expressions: formulas that will be evaluated on the records; what they need is measured.
        max_memory: bytes that may be held beside the forward and the backward pass; None means
            :data:`gp_prune.statistics.sampling.MAX_MEMORY`.
        loss: mean loss over a batch, for gradients of any kind (not for ``"synflow"``).
        seed: seed of the noise and, where the limit of memory is met, of the samples.
        device: where the records go; None means the model's device.
        example_inputs: what the model can be called with, to pair batch norms without data, and
            for ``"synflow"``.
        outgoing: for ``"outgoing"``: name of a layer -> the layers that read it, as
            :func:`gp_prune.pruning.consumers` finds them; a layer that is missing has none.
        places: for ``"network"``: name of a layer -> its place, as
            :func:`gp_prune.pruning.layer_places` finds it.
        forward_fn: ``forward_fn(model, inputs)`` runs the model where ``model(inputs)``,
            ``model(*inputs)`` or ``model(**inputs)`` is not the way.
        progress: ``progress(done, total)``, called after each batch of each pass; ``total`` is
            None where the data does not tell how many batches it has.
        norms: False leaves batch norms unpaired where nothing is measured, so that the model does
            not run: for those who read weights and biases alone.

    Yields:
        Name and record of each layer, in the order of ``layers``.

    Raises:
        ValueError: a need is unknown, or ``max_memory`` is less than 1.
        UserError: a layer is unknown or unused, data is missing (no samples, labels, targets,
            loss or consumers), a measurement would be too large, or something measured is not
            finite.
    """
    formulas = Formulas(expressions)
    needs = frozenset(needs)
    run, data = prepare_request(
        model, layers, batches,
        needs=needs, formulas=formulas, max_memory=max_memory, loss=loss, seed=seed,
        example_inputs=example_inputs, outgoing=outgoing, places=places, forward_fn=forward_fn,
        progress=progress, norms=norms,
    )  # fmt: skip
    target = run.home if device is None else as_device(device)
    for group in run.sampling.groups:
        with torch.inference_mode(False), measurement(model, seed):
            measured = run.measure(data, group)
        for name in group:
            with torch.inference_mode(False):
                record = measured.record(name, target)
                measured.forget(name)
                if expressions:
                    record = formulas.finish(record, needs)
            yield name, record


def prepare_request(
    model: nn.Module,
    layers: Sequence[str] | None,
    batches: Iterable[Batch],
    *,
    needs: frozenset[str],
    formulas: Formulas | None = None,
    max_memory: int | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    example_inputs: Inputs | None = None,
    outgoing: Mapping[str, Sequence[Consumer]] | None = None,
    places: Mapping[str, LayerPlace] | None = None,
    forward_fn: Forward | None = None,
    progress: Progress | None = None,
    norms: bool = True,
) -> tuple[Request, DataPasses]:
    """Check what is asked for, and decide how it is measured; arguments as :func:`collect_each`.

    Returns:
        What is measured, and the passes over the data.

    Raises:
        ValueError: a need is unknown, or ``max_memory`` is less than 1.
        UserError: a layer is unknown or unused, or data is missing.
    """
    formulas = Formulas(()) if formulas is None else formulas
    _check_request(needs | _needs_of(formulas), loss, outgoing, places, max_memory)
    home = device_of(model)
    run = Request(
        model=model,
        forward=forward_fn or call_model,
        loss=loss,
        seed=seed,
        asked=needs,
        needs=needs | formulas.plan.needs,
        formulas=formulas,
        memory=MAX_MEMORY if max_memory is None else max_memory,
        consumers={},
        places=places or {},
        home=home,
    )
    if outgoing is not None and "outgoing" in run.needs:
        run.consumers = outgoing
    data = DataPasses(batches, home, progress, labelled=bool(run.needs & LABEL_NEEDS), seed=seed)
    with torch.inference_mode(False), measurement(model, seed):
        run.prepare(data, _choose_layers(model, layers), example_inputs, layers is not None, norms)
    return run, data


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


def _needs_of(formulas: Formulas) -> frozenset[str]:
    return frozenset().union(*(tree.needs for tree in formulas.expressions))


def _check_request(
    needs: AbstractSet[str],
    loss: Loss | None,
    outgoing: object,
    places: object,
    max_memory: int | None,
) -> None:
    unknown = sorted(set(needs) - set(NEEDS))
    if unknown:
        raise ValueError(f"unknown need {unknown[0]!r}; the needs are {', '.join(NEEDS)}")
    if max_memory is not None and max_memory < 1:
        raise ValueError(f"max_memory is {max_memory}; it must be at least 1 byte")
    check_loss(loss)
    if needs & LOSS_NEEDS and loss is None:
        raise UserError("gradients need a loss; pass loss=..., a mean over the batch")
    if "outgoing" in needs and outgoing is None:
        raise UserError(
            "the weights that read a channel need the network's graph; "
            "pass outgoing=consumers(trace(model, example_inputs))"
        )
    if "network" in needs and places is None:
        raise UserError(
            "the place of a layer needs the network's graph; "
            "pass places=layer_places(trace(model, example_inputs))"
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
