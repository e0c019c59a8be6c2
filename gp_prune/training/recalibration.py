"""Measure the running statistics of batch norms again after a network was cut."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gp_prune.errors import UserError
from gp_prune.statistics import Forward, Inputs
from gp_prune.statistics.batches import batch_size as sample_count
from gp_prune.statistics.running import call_model, device_of, to_device, training_mode
from gp_prune.training.samples import Data, as_data, in_order


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]


def recalibrate(
    model: nn.Module,
    inputs: Tensor | Data,
    *,
    batch_size: int = 1024,
    forward_fn: Forward | None = None,
) -> None:
    """Measure the running statistics of every batch norm again, in one pass over ``inputs``.

    The statistics become the plain averages of the batch means and (unbiased) batch variances.
    Pruning shifts what a batch norm sees, so its old statistics are wrong (Li et al. 2020,
    "EagleEye"). A model without batch norm is left as it is, and its inputs are not read.

    Args:
        model: the network, changed in place; training flags and momenta come back as they were,
            and after an exception the statistics do, too.
        inputs: (n, ...) samples to measure on; or a data set of torch, or batches such as a data
            loader yields (see :func:`gp_prune.training.samples.as_data`; batches that can be read
            once will do).
        batch_size: most samples per batch of a tensor or a data set. Batches of a tensor are made
            as equal as possible, because each counts the same; others count by their samples.
        forward_fn: runs the network where ``model(inputs)`` is not the way.

    Raises:
        UserError: there is not a single sample, a batch has one where batch norm needs two, or an
            item is no batch.
    """
    norms = batch_norms(model)
    if not norms:
        return
    batches: Iterable[Inputs]
    if isinstance(inputs, Tensor):
        batches = inputs.tensor_split(math.ceil(len(inputs) / batch_size)) if len(inputs) else ()
    else:
        data = inputs if isinstance(inputs, Iterator) else as_data(inputs)
        batches = (batch.inputs for batch in in_order(data, batch_size))
    run, device, seen = forward_fn or call_model, device_of(model), 0
    with _measuring(model, norms), advise_on_small_batches():
        for batch in batches:
            size = sample_count(batch)
            if not size:
                continue
            seen += size
            if not isinstance(inputs, Tensor):
                for norm in norms:
                    norm.momentum = size / seen  # makes it the average over samples
            run(model, to_device(batch, device))
        if not seen:
            raise UserError("there is no sample to recalibrate batch norm on; give at least one")


@contextmanager
def _measuring(model: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """Cumulative averages meanwhile, from nothing; after an exception the old statistics."""
    momenta = [norm.momentum for norm in norms]
    statistics = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    try:
        with training_mode(model, False), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's way to say: cumulative average
                norm.training = True
            yield
    except BaseException:
        for norm, old in zip(norms, statistics, strict=True):
            for name, value in norm.named_buffers():
                value.copy_(old[name])
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def advise_on_small_batches() -> Iterator[None]:
    """Raise UserError where torch says that a batch is too small for batch norm."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "a batch of one sample is too small for batch norm to learn from; use a batch size of "
            "at least 2, or leave out the last batch of a data loader (drop_last)"
        ) from error
