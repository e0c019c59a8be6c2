"""Fine-tuning of any pruned network; what was pruned stays zero."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.pruning import Architecture, ChannelPlan, WeightPlan
from gp_prune.pruning.modules import find_module, masked_parameters, renew_masked
from gp_prune.pruning.surgery import channel_masks
from gp_prune.statistics import Forward, Loss
from gp_prune.statistics.batches import batch_size
from gp_prune.statistics.running import (
    call_model,
    derive_seed,
    device_of,
    preserve_gradients,
    random_state,
    training_mode,
)
from gp_prune.training import checkpoint as disk
from gp_prune.training.checkpoint import (
    copied_tensors,
    make_optimiser,
    named_tensors,
    optimiser_tensors,
    put_optimiser_tensors,
    put_tensors,
    with_prefix,
)
from gp_prune.training.loss import Objective
from gp_prune.training.recalibration import advise_on_small_batches
from gp_prune.training.samples import Data, as_data, fingerprint, shuffled, tensor_digest
from gp_prune.training.settings import Epoch, FineTuning, History, schedule

Held = Mapping[tuple[str, str], Tensor]
"""(module, parameter) -> bool tensor of the parameter's shape: False where a zero must stay."""

Fitness = Callable[[nn.Module, Any], float]
"""``error(model, validation)``: how bad a network is; it is called in evaluation mode."""


def fine_tune(
    model: nn.Module,
    train: Any,
    loss: Loss,
    settings: FineTuning,
    *,
    validation: Any = None,
    error: Fitness | None = None,
    teacher: nn.Module | None = None,
    held: Held | None = None,
    forward_fn: Forward | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> History:
    """Train a pruned network in place; what is masked or held stays exactly zero.

    With validation samples the network ends in the state with the least validation error, which may
    be the one that it came in. Training flags and stored gradients come back as they were, and
    torch's random state is left alone. The same arguments give the same weights, bit for bit on a
    CPU with the same number of threads, also when the training was stopped between two epochs and
    went on from its checkpoint.

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
        forward_fn: runs a network where ``model(inputs)`` is not the way.
        checkpoint: folder to go on from, and to write to after each epoch.
        progress: called after each epoch.

    Raises:
        UserError: the loss or the validation error is not a finite number, there is nothing to
            train (on), the settings need something that is missing, or the checkpoint is of another
            fine-tuning or cannot be written.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    _check(parameters, settings, validation, teacher)
    objective = Objective(
        loss,
        settings,
        teacher if settings.distill else None,
        forward_fn or call_model,
        device_of(model),
    )
    judge = error or objective.mean_loss
    run = _Run(model, parameters, objective, as_data(train), validation, judge, held or {})
    folder = None if checkpoint is None else Path(checkpoint).expanduser()
    identity = run.identity() if folder else {}
    with run.guarded():
        run.start(disk.read(folder, identity) if folder else None)
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
        error: Fitness,
        held: Held,
    ) -> None:
        self.model, self.parameters, self.objective = model, parameters, objective
        self.data, self.validation, self.error, self.held = data, validation, error, held
        self.settings = objective.settings
        self.optimiser = make_optimiser(parameters, self.settings)
        self.holder = Holder(model, held)
        self.history = History()
        self.best: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        return self.history.stopped_early or len(self.history.epochs) >= self.settings.epochs

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """The best state in the end, the first after an exception; what was borrowed, as it was."""
        first = self.best = copied_tensors(self.model)
        taught = self.objective.teacher
        teacher = training_mode(taught, False) if taught else nullcontext()
        try:
            with preserve_gradients(self.parameters), teacher, torch.enable_grad():
                yield
            if self.validation is not None:
                put_tensors(self.model, self.best)
        except BaseException:
            put_tensors(self.model, first)
            raise
        finally:
            renew_masked(self.model)

    def start(self, snapshot: disk.Snapshot | None) -> None:
        """Begin, or take up what a checkpoint holds."""
        if snapshot is None:
            self.history = History(start_error=self._judged(0))
            return
        self.history = snapshot.history
        put_tensors(self.model, with_prefix(snapshot.tensors, "now."))
        self.best = with_prefix(snapshot.tensors, "best.") or copied_tensors(self.model)
        put_optimiser_tensors(self.optimiser, with_prefix(snapshot.tensors, "optimiser."))

    def epoch(self) -> None:
        """Train for one epoch, judge, and keep the state if it is the best."""
        number = len(self.history.epochs) + 1
        seed = self._seed(number)
        with random_state(seed), training_mode(self.model), advise_on_small_batches():
            rate, mean = self._pass(number, seed)
        error = self._judged(number)
        best = self.history.best_error
        better = error is None or best is None or error < best
        epochs = (*self.history.epochs, Epoch(number, rate, mean, error))
        self.history = replace(
            self.history, epochs=epochs, best=number if better else self.history.best
        )
        if better and error is not None:
            self.best = copied_tensors(self.model)
        patience = self.settings.patience
        if patience and number - self.history.best >= patience and number < self.settings.epochs:
            self.history = replace(self.history, stopped_early=True)

    def _pass(self, number: int, seed: int) -> tuple[float, float]:
        """One pass over the samples; gives the first learning rate and the mean loss."""
        settings, group = self.settings, self.optimiser.param_groups[0]
        rates, total, count = [], 0.0, 0
        for share, batch in shuffled(self.data, settings.batch_size, seed):
            size = batch_size(batch.inputs)
            if not size:
                continue
            progress = (number - 1 + share) / settings.epochs
            group["lr"] = settings.rate * schedule(progress, settings.warm_up)
            rates.append(group["lr"])
            self.optimiser.zero_grad()
            loss = self.objective.of_batch(self.model, batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._astray(f"the training loss is {value} in epoch {number}")
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.holder.apply()
            total, count = total + value * size, count + size
        if not count:
            raise UserError(
                f"the training data has no sample in epoch {number}; give data that can be read "
                "once per epoch"
            )
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            raise self._astray(f"some weights are not finite after epoch {number}")
        return rates[0], total / count

    def _seed(self, epoch: int) -> int:
        """Return a seed per epoch, so that no epoch depends on the random numbers before it."""
        return derive_seed(f"{self.settings.seed} {epoch}", bits=32)  # torch's generator uses 32

    def _judged(self, number: int) -> float | None:
        """Validation error after so many epochs."""
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
            raise self._astray(f"the validation error is {error} {when}")
        return error

    def _astray(self, what: str) -> UserError:
        return UserError(
            f"{what}; lower the learning rate, which is {self.settings.rate:g} at its highest, or "
            "look for numbers that are not finite in the weights and the data"
        )

    def identity(self) -> dict[str, Any]:
        """What decides the result, as far as a checkpoint can tell it.

        Not the statistics of batch norms: measured anew, their last bits depend on the machine.
        """
        trained = {id(parameter) for parameter in self.parameters}
        named = list(named_tensors(self.model))
        names = [f"{name} {tuple(t.shape)} {t.dtype} {id(t) in trained}" for name, t in named]
        names += [f"{module} {name} held" for module, name in self.held]
        masks = [
            getattr(module, f"{name}_mask") for _, module, name in masked_parameters(self.model)
        ]
        teacher = self.objective.teacher
        checked = None if self.validation is None else as_data(self.validation)
        return {
            "settings": self.settings.to_json(),
            "network": hashlib.sha256("\n".join(names).encode()).hexdigest(),
            "masks": tensor_digest([*masks, *(keep.bool() for keep in self.held.values())]),
            "weights": tensor_digest(self.model.parameters()),
            "dense network": tensor_digest(teacher.parameters()) if teacher else None,
            "training data": fingerprint(self.data),
            "validation data": fingerprint(checked),
            "loss": _name(self.objective.loss),
            "measure": _name(self.error),
            "way to run": _name(self.objective.forward),
        }

    def snapshot(self) -> disk.Snapshot:
        """All that is needed to go on from here."""
        now, optimiser = copied_tensors(self.model), optimiser_tensors(self.optimiser)
        parts = {"now.": now, "optimiser.": optimiser}
        if self.validation is not None and self.history.best != len(self.history.epochs):
            parts["best."] = self.best
        tensors = {
            prefix + name: tensor.detach().cpu().contiguous()
            for prefix, part in parts.items()
            for name, tensor in part.items()
        }
        return disk.Snapshot(self.history, tensors)


def held_by(
    model: nn.Module, plan: ChannelPlan | WeightPlan, architecture: Architecture | None = None
) -> dict[tuple[str, str], Tensor]:
    """What ``plan`` holds at zero in a network whose masks were made permanent.

    :func:`gp_prune.pruning.unmask` keeps the zeros but takes away what would keep them in
    training; give this as ``held`` to :func:`gp_prune.training.fine_tune`.

    Args:
        model: the network, of its original widths.
        plan: what was masked.
        architecture: where the channels are; needed for a channel plan only.

    Raises:
        UserError: plan and model do not belong together.
    """
    if isinstance(plan, WeightPlan):
        return plan.masks(model)
    if architecture is None:
        raise UserError("holding channels needs the architecture; give what trace() returned")
    plan.check(architecture)
    return channel_masks(model, architecture.entries(plan.removed))


class Holder:
    """Puts zeros back into the parameters of a network.

    Args:
        model: the network.
        held: what stays.

    Raises:
        UserError: the network lacks a parameter, it has another shape, or it is not zero where it
            should be.
    """

    def __init__(self, model: nn.Module, held: Held) -> None:
        self._gone: list[tuple[nn.Parameter, Tensor]] = []
        for (module, name), keep in held.items():
            parameter = find_module(model, module)._parameters.get(name)
            what = f"parameter {name!r} of layer {module!r}"
            if parameter is None:
                raise UserError(
                    f"the network has no {what}; give the network that the plan was made for, "
                    "without masks (unmask)"
                )
            if parameter.shape != keep.shape:
                raise UserError(
                    f"{what} has shape {tuple(parameter.shape)}, what is held {tuple(keep.shape)}; "
                    "give the network that the plan was made for"
                )
            gone = ~keep.to(parameter.device, torch.bool)
            if bool(parameter.detach()[gone].count_nonzero()):
                raise UserError(
                    f"{what} is not zero where it is to be held; apply the plan with mask() and "
                    "make it permanent with unmask() first"
                )
            self._gone.append((parameter, gone))

    def apply(self) -> None:
        """Make every held entry zero."""
        with torch.no_grad():
            for parameter, gone in self._gone:
                parameter.masked_fill_(gone, 0.0)


def _name(function: Any) -> str:
    """What tells a function apart: its module and name, or those of its class."""
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__}.{owner.__qualname__}"
