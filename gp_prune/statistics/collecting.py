"""One pass over the data that fills the records of all layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from itertools import chain

import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.layer import NEEDS, LayerRecord
from gp_prune.statistics.batches import (
    Batch,
    Inputs,
    Loss,
    batch_size,
    call_model,
    checked,
    to_device,
)
from gp_prune.statistics.following import Call, Follower
from gp_prune.statistics.gradients import Gradients
from gp_prune.statistics.layers import prunable_layers
from gp_prune.statistics.pairing import Site, norms_of, observe, pair_without_data
from gp_prune.statistics.recording import Recorder, Sample
from gp_prune.statistics.records import build_record, measures_outputs
from gp_prune.statistics.state import device_of, measuring

_FORWARD_NEEDS = frozenset({"inputs", "outputs", "labels"})
_DATA_NEEDS = _FORWARD_NEEDS | {"gradients"}


def collect(
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
) -> dict[str, LayerRecord]:
    """Measure the layers of a model in evaluation mode, in one pass over the data.

    The data is streamed: batches of any number and size give the same result, up to rounding, as
    all samples in one batch, and no more than one layer's maps are held at a time (with
    ``"gradients"`` also what autograd keeps of one batch). The model, torch's random state and
    gradient mode are the same afterwards, also after an exception.

    Batch norms are paired with layers by running the model, on ``example_inputs`` or on the first
    batch (see :class:`~gp_prune.statistics.following.Follower`), and without either
    by tracing (see :func:`~gp_prune.statistics.pairing.pair_without_data`). ``pre_activation`` is
    what goes into the activation (behind the batch norm), ``activation`` what comes out; where no
    activation directly follows, both are the same. A layer that runs several times per pass counts
    every time in norms, moments and gradients; sampled maps are those of its first use.

    Args:
        model: any model; it is called with the inputs of each batch, on its own device.
        layers: names of the layers; None stands for all that
            :func:`~gp_prune.statistics.prunable_layers` finds. With data or example inputs,
            layers that the model does not use in evaluation mode are then left out.
        batches: the calibration data; never touched if no need asks for it.
        needs: a subset of :data:`gp_prune.layer.NEEDS`; only what they ask for is measured.
        loss: mean loss over a batch, for ``"gradients"``.
        seed: seed of the sampled samples and positions and of the noise.
        max_samples: greatest number of samples (n) in sampled maps; the same for all layers.
        max_positions: greatest number of positions (s) per layer in sampled maps.
        device: where the records go; None stands for the model's device.
        example_inputs: what the model can be called with, to pair batch norms without data.

    Returns:
        Layer name -> record, in the order of ``layers``.

    Raises:
        ValueError: a need is unknown, or ``max_samples`` or ``max_positions`` is less than 1.
        UserError: a layer is unknown or unused, data is missing (no samples, labels, targets or
            loss), or something measured is not finite.
    """
    _check_request(needs, loss, max_samples, max_positions)
    chosen = _choose(model, layers)
    home = device_of(model)
    recorder: Recorder | None = None
    gradients: Gradients | None = None
    with torch.inference_mode(False), measuring(model, seed):
        stream = _opened(batches, home) if needs & _DATA_NEEDS else None
        if stream is not None and example_inputs is None:
            first = next(stream)
            example_inputs, stream = first.inputs, chain([first], stream)
        sites: dict[Call, Site] = {}
        if example_inputs is None:
            norms = pair_without_data(model, chosen)
        else:
            sites = observe(model, chosen, to_device(example_inputs, home))
            norms = norms_of(sites)
            chosen = _used(chosen, norms, explicit=layers is not None)
        paired = {name: _module(model, norms[name]) for name in chosen}
        if stream is not None:
            if needs & _FORWARD_NEEDS:
                measured = {name for name, norm in paired.items() if measures_outputs(norm)}
                sample = Sample(seed, max_samples, max_positions)
                recorder = Recorder(chosen, sites, measured, needs, sample)
            if "gradients" in needs:
                gradients = Gradients(model, chosen)
            _run(model, chosen, stream, recorder, gradients, loss)
        return {
            name: build_record(
                name,
                module,
                paired[name],
                recorder=recorder,
                gradients=gradients,
                noise_seed=seed if "noise" in needs else None,
                device=home if device is None else torch.device(device),
            )
            for name, module in chosen.items()
        }


def _check_request(
    needs: AbstractSet[str], loss: Loss | None, max_samples: int, max_positions: int
) -> None:
    unknown = sorted(set(needs) - set(NEEDS))
    if unknown:
        raise ValueError(f"unknown need {unknown[0]!r}; the needs are {', '.join(NEEDS)}")
    if max_samples < 1 or max_positions < 1:
        raise ValueError(
            f"max_samples is {max_samples} and max_positions {max_positions}; "
            "both must be at least 1"
        )
    if "gradients" in needs and loss is None:
        raise UserError("gradients need a loss; pass loss=..., a mean over the batch")


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


def _opened(batches: Iterable[Batch], home: torch.device) -> Iterator[Batch]:
    """The batches on the model's device, at least one of them."""
    stream = checked(batches, home)
    first = next(stream, None)
    if first is None:
        raise UserError("the calibration data has no samples; pass at least one batch")
    return chain([first], stream)


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


def _run(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    stream: Iterable[Batch],
    recorder: Recorder | None,
    gradients: Gradients | None,
    loss: Loss | None,
) -> None:
    """Run the model over the data with everything attached that measures."""
    follower = None if recorder is None else Follower(model, layers, recorder)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(gradients is not None))
        if gradients is not None:  # before the follower, which must see the rescaled batch norms
            stack.enter_context(gradients.attached())
        if follower is not None:
            stack.enter_context(follower.attached())
        for batch in stream:
            samples = batch_size(batch.inputs)
            if recorder is None or follower is None:
                output = call_model(model, batch.inputs)
            else:
                recorder.start(samples, batch.labels)
                with follower.run():
                    output = call_model(model, batch.inputs)
                recorder.finish()
            if gradients is not None and loss is not None:
                if batch.target is None:
                    raise UserError("the data has no targets; yield Batch(inputs, target)")
                gradients.add(loss(output, batch.target), samples)
