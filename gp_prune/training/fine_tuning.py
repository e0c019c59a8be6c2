"""Fine-tune any pruned network; what was pruned stays zero."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.pruning.modules import masked_parameters, renew_masked
from gp_prune.statistics import Forward, Loss
from gp_prune.statistics.batches import Progress, batch_size, check_loss
from gp_prune.statistics.running import (
    call_model,
    derive_seed,
    device_of,
    preserve_gradients,
    random_state,
    training_mode,
)
from gp_prune.training import checkpoint as disk
from gp_prune.training.averaging import WeightAverage
from gp_prune.training.checkpoint import (
    copy_tensors,
    make_optimiser,
    named_tensors,
    optimiser_tensors,
    put_optimiser_tensors,
    put_tensors,
    with_prefix,
)
from gp_prune.training.gradual import GradualRemoval, Remover
from gp_prune.training.held import Held, find_zeros, set_zeros
from gp_prune.training.loss import Objective
from gp_prune.training.recalibration import advise_on_small_batches
from gp_prune.training.samples import (
    Data,
    as_data,
    count_batches,
    fingerprint,
    shuffled,
    tensor_digest,
)
from gp_prune.training.settings import Epoch, FineTuning, History, schedule
from gp_prune.training.shares import report_share

ErrorFunction = Callable[[nn.Module, Any], float]
"""``error(model, validation)``: the error of a network, which is in evaluation mode."""


def fine_tune(
    model: nn.Module,
    train: Any,
    loss: Loss,
    settings: FineTuning,
    *,
    validation: Any = None,
    error: ErrorFunction | None = None,
    teacher: nn.Module | None = None,
    held: Held | None = None,
    removal: GradualRemoval | None = None,
    forward_fn: Forward | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[Epoch], None] | None = None,
    batch_progress: Progress | None = None,
) -> History:
    """Train a pruned network in place; what is masked or held stays exactly zero.

    With validation samples the network ends in the state with the least validation error, which may
    be its first one. Training flags and stored gradients come back as they were, and torch's random
    state is left alone. The same arguments give the same weights, bit for bit on a CPU with the
    same number of threads, also when the training was stopped between two epochs and resumed from
    its checkpoint.

    Args:
        model: the network; frozen parameters stay frozen. Masks of :mod:`torch.nn.utils.prune` are
            kept. After an exception it is as it was before.
        train: a tuple (inputs, target) of tensors (n, ...), a data set of torch, or batches that
            can be iterated once per epoch, such as a data loader (see
            :func:`gp_prune.training.samples.as_data`).
        loss: ``loss(output, target)``, a mean over the batch.
        settings: how to train.
        validation: samples to judge on, as ``train``; never trained on.
        error: ``error(model, validation)``; by default the mean loss.
        teacher: the dense network, for ``settings.distill``; it is not changed.
        held: (module, parameter) -> mask of what must stay zero in a network whose masks were made
            permanent (see :func:`gp_prune.training.held_by`).
        removal: weights that are removed step by step while the network trains; states from before
            the last of them has gone do not count as best.
        forward_fn: runs a network where ``model(inputs)`` is not the way.
        checkpoint: folder to resume from, and to write to after each epoch.
        progress: called after each epoch.
        batch_progress: ``batch_progress(done, total)``, called after each step of an epoch; the
            total is None where the number of batches is not known.

    Raises:
        UserError: the loss or the validation error is not a finite number, there is nothing to
            train (on), the settings need something that is missing, or the checkpoint is of another
            fine-tuning or cannot be written.
    """
    check_loss(loss)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    _check(parameters, settings, validation, teacher)
    objective = Objective(
        loss,
        settings,
        teacher if settings.distill else None,
        forward_fn or call_model,
        device_of(model),
    )
    measure = error or objective.mean_loss
    if removal is not None and checkpoint is not None:
        raise UserError("a gradual removal cannot be resumed; leave out the checkpoint")
    run = _Run(model, parameters, objective, as_data(train), validation, measure, held or {})
    if removal is not None:
        run.remover = Remover(removal, model, run.optimiser, run.zeros)
        run.zeros = run.remover.zeros
    run.tell = batch_progress or run.tell
    folder = None if checkpoint is None else Path(checkpoint).expanduser()
    identity = run.identity() if folder else {}
    with run.restoring():
        run.start(disk.read(folder, identity, run) if folder else None)
        while not run.finished:
            run.epoch()
            if folder:
                disk.write(folder, identity, run.snapshot())
            if progress:
                progress(run.history.epochs[-1])
    return run.history


def _check(
    parameters: list[nn.Parameter], settings: FineTuning, validation: Any, teacher: Any
) -> None:
    if not parameters:
        raise UserError(
            "every parameter of the network is frozen (requires_grad is False), so there is "
            "nothing to fine-tune; unfreeze some, or recalibrate only"
        )
    if settings.distill and teacher is None:
        raise UserError(
            f"distill is {settings.distill}, but there is no teacher; give the dense network"
        )
    if settings.patience and validation is None:
        raise UserError(
            f"patience is {settings.patience}, but nothing is judged without validation samples; "
            "give some, or patience 0"
        )


class _Run:
    """A fine-tuning between two epochs."""

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        objective: Objective,
        data: Data,
        validation: Any,
        error: ErrorFunction,
        held: Held,
    ) -> None:
        self.model, self.parameters, self.objective = model, parameters, objective
        self.data, self.validation, self.error, self.held = data, validation, error, held
        self.settings = objective.settings
        self.optimiser = make_optimiser(parameters, self.settings)
        self.zeros = find_zeros(model, held)
        self.remover: Remover | None = None
        decay = self.settings.averaging
        self.average = WeightAverage(model, decay) if decay else None
        self.history = History()
        self.tell: Progress = lambda done, total: None
        self.best: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        return self.history.stopped_early or len(self.history.epochs) >= self.settings.epochs

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Leave the network in its best state, or in its first one after an exception."""
        first = self.best = copy_tensors(self.model)
        teacher = self.objective.teacher
        taught = training_mode(teacher, False) if teacher else nullcontext()
        try:
            with preserve_gradients(self.parameters), taught, torch.enable_grad():
                yield
            if self.validation is not None or self.average:
                put_tensors(self.model, self.best)
        except BaseException:
            put_tensors(self.model, first)
            raise
        finally:
            renew_masked(self.model)

    def start(self, snapshot: disk.Snapshot | None) -> None:
        """Judge the first state, or resume from a checkpoint."""
        if snapshot is None:
            self.history = History(start_error=self._validate(0))
            return
        self.history = snapshot.history
        put_tensors(self.model, with_prefix(snapshot.tensors, "now."))
        average = with_prefix(snapshot.tensors, "average.")
        if self.average:
            self.average.put(average)
        self.best = with_prefix(snapshot.tensors, "best.") or average or copy_tensors(self.model)
        put_optimiser_tensors(self.optimiser, with_prefix(snapshot.tensors, "optimiser."))

    def epoch(self) -> None:
        """Train for one epoch, judge, and keep the state if it is the best."""
        number = len(self.history.epochs) + 1
        seed = self._seed(number)
        removing = self.remover is not None and not self.remover.done
        with random_state(seed), training_mode(self.model), advise_on_small_batches():
            rate, mean = self._pass(number, seed)
        if self.average and number == 1:  # the first steps are far from the last ones
            self.average.put(copy_tensors(self.model))
        with self.average.in_place() if self.average else nullcontext():
            error = self._validate(number)
            best = self.history.best_error
            better = removing or error is None or best is None or error < best
            if better and (error is not None or self.average):
                self.best = copy_tensors(self.model)
        epochs = (*self.history.epochs, Epoch(number, rate, mean, error))
        self.history = replace(
            self.history, epochs=epochs, best=number if better else self.history.best
        )
        patience = self.settings.patience
        if patience and number - self.history.best >= patience and number < self.settings.epochs:
            self.history = replace(self.history, stopped_early=True)

    def _pass(self, number: int, seed: int) -> tuple[float, float]:
        """Train on all samples once; return the first learning rate and the mean loss."""
        settings, group = self.settings, self.optimiser.param_groups[0]
        rates, total, count = [], 0.0, 0
        batches = count_batches(self.data, settings.batch_size)
        for share, batch in shuffled(self.data, settings.batch_size, seed):
            size = batch_size(batch.inputs)
            if not size:
                continue
            progress = (number - 1 + share) / settings.epochs
            group["lr"] = settings.rate * schedule(progress, settings.warm_up, settings.decay)
            rates.append(group["lr"])
            self.optimiser.zero_grad()
            loss = self.objective.of_batch(self.model, batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._divergence(f"the training loss is {value} in epoch {number}")
            if self.history.start_loss is None:
                self.history = replace(self.history, start_loss=value)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            set_zeros(self.zeros)
            if self.remover is not None:
                self.remover.step(progress)
            if self.average:
                self.average.step(self.zeros)
            total, count = total + value * size, count + size
            self.tell(len(rates), batches)
            report_share(progress)
        if not count:
            raise UserError(
                f"the training data has no sample in epoch {number}; give data that can be read "
                "once per epoch"
            )
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            raise self._divergence(f"some weights are not finite after epoch {number}")
        return rates[0], total / count

    def _seed(self, epoch: int) -> int:
        """Return a seed per epoch, so that no epoch depends on the random numbers before it."""
        return derive_seed(f"{self.settings.seed} {epoch}", bits=32)  # torch's generator uses 32

    def _validate(self, number: int) -> float | None:
        """Return the validation error after ``number`` epochs."""
        if self.validation is None:
            return None
        with (
            random_state(self._seed(number)),
            training_mode(self.model, False),
            torch.no_grad(),
        ):
            error = float(self.error(self.model, self.validation))
        if not math.isfinite(error):
            when = f"after epoch {number}" if number else "before fine-tuning"
            raise self._divergence(f"the validation error is {error} {when}")
        return error

    def _divergence(self, what: str) -> UserError:
        return UserError(
            f"{what}; lower the learning rate, which is {self.settings.rate:g} at its highest, or "
            "look for numbers that are not finite in the weights and the data"
        )

    def identity(self) -> dict[str, Any]:
        """Return what decides the result, as JSON objects.

        The statistics of batch norms are left out: their last bits depend on the machine where
        they were measured.
        """
        trained = {id(parameter) for parameter in self.parameters}
        named = list(named_tensors(self.model))
        names = [f"{name} {tuple(t.shape)} {t.dtype} {id(t) in trained}" for name, t in named]
        names += [f"{module} {name} held" for module, name in self.held]
        masks = [
            getattr(module, f"{name}_mask") for _, module, name in masked_parameters(self.model)
        ]
        teacher = self.objective.teacher
        validation = None if self.validation is None else as_data(self.validation)
        return {
            "settings": self.settings.to_json(),
            "network": hashlib.sha256("\n".join(names).encode()).hexdigest(),
            "masks": tensor_digest([*masks, *(keep.bool() for keep in self.held.values())]),
            "weights": tensor_digest(self.model.parameters()),
            "dense network": tensor_digest(teacher.parameters()) if teacher else None,
            "training data": fingerprint(self.data),
            "validation data": fingerprint(validation),
            "loss": _name(self.objective.loss),
            "measure": _name(self.error),
            "way to run": _name(self.objective.forward),
        }

    def snapshot(self) -> disk.Snapshot:
        """Return all that is needed to resume from here."""
        now, optimiser = copy_tensors(self.model), optimiser_tensors(self.optimiser)
        parts = {"now.": now, "optimiser.": optimiser}
        if self.average:
            parts["average."] = self.average.tensors
        if self.validation is not None and self.history.best != len(self.history.epochs):
            parts["best."] = self.best
        tensors = {
            prefix + name: tensor.detach().cpu().contiguous()
            for prefix, part in parts.items()
            for name, tensor in part.items()
        }
        return disk.Snapshot(self.history, tensors)


def _name(function: Any) -> str:
    """Return the module and the name of a function, or of the class of another object."""
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__}.{owner.__qualname__}"
