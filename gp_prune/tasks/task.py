"""Bundle a trained network with its data and protocol: what a candidate metric is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.statistics.running import device_of, to_device
from gp_prune.tasks.data import Split
from gp_prune.tasks.models import Kind
from gp_prune.tasks.training import Descent, optimise, optimise_stacked
from gp_prune.training import recalibrate
from gp_prune.training.loss import evaluate, squared_errors, wrong_classes
from gp_prune.training.samples import as_data, gather, in_order

_RECALIBRATION_SAMPLES = 2048
_LEARNING_RATE = 5e-3
_BATCH_SIZE = 64
_EVALUATION_BATCH = 1000
_EVALUATION_ELEMENTS = 250_000
"""Numbers in a batch, at most: with larger ones the allocator gives the memory of every layer back
to the system and fetches it again, which takes more than half of the time of a small network."""


def as_split(data: Any, kind: Kind, device: torch.device) -> Split:
    """Return labelled images in any form as a split, with the target that a kind of task has.

    Args:
        data: (inputs, labels) as tensors, or a data set or data loader of torch.
        kind: ``"classification"`` or ``"reconstruction"``.
        device: where the split is put.

    Raises:
        UserError: there are no labels, or no images.
    """
    samples = gather(data)
    inputs, labels = samples.inputs, samples.target if samples.labels is None else samples.labels
    fits = isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point()
    if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor) or not fits:
        raise UserError(
            "a task needs images with one whole number each as label; give (images, labels)"
        )
    inputs, labels = to_device((inputs, labels), device)
    return Split(inputs, labels if kind == "classification" else inputs, labels)


@dataclass(frozen=True, eq=False)
class Task:
    """A trained network with the data and the protocol by which pruned copies of it are judged.

    Attributes:
        name: the name by which it is loaded, for instance ``"lenet-digits"``.
        kind: ``"classification"`` or ``"reconstruction"``.
        model: the trained dense network in evaluation mode; prune copies of it, not itself.
        train: samples for statistics, fine-tuning and recalibration; see :func:`as_split` for the
            forms in which they can be given.
        validation: samples that candidates are judged on.
        interface: layers that are never pruned, besides the network's output.
        dense_error: validation error of ``model``.
        trivial_error: validation error of the best prediction that looks at no input.
        read_test: reads the test split; call :meth:`test` instead.
    """

    name: str
    kind: Kind
    model: nn.Module
    train: Split
    validation: Split
    interface: tuple[str, ...]
    dense_error: float
    trivial_error: float
    read_test: Callable[[], Split]

    def __post_init__(self) -> None:
        """Bring data of another form into memory, on the device of the model."""
        for part in ("train", "validation"):
            if not isinstance(getattr(self, part), Split):
                split = as_split(getattr(self, part), self.kind, device_of(self.model))
                object.__setattr__(self, part, split)

    def test(self) -> Split:
        """Read the test split; for final reports alone.

        Raises:
            UserError: the files of the data set are gone or damaged.
        """
        return self.read_test()

    @property
    def example_inputs(self) -> Tensor:
        """Return one sample with the shape (1, channels, height, width), for tracing."""
        return self.train.inputs[:1]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy (in nats) or mean squared error of a batch."""
        if self.kind == "classification":
            return functional.cross_entropy(output, target)
        return functional.mse_loss(output, target)

    def error(self, model: nn.Module, data: Any) -> float:
        """Return the share of wrong classes in [0, 1], or the mean squared error per pixel.

        The model runs in evaluation mode without gradients, and its training flags come back as
        they were. Outputs that are not finite make a reconstruction error that is not finite.

        Args:
            model: a network of this task's inputs and outputs.
            data: a split, tensors, or a data set or data loader of torch.
        """
        data, size = as_data(data), _EVALUATION_BATCH
        if isinstance(data, Split):
            size = max(1, min(size, _EVALUATION_ELEMENTS // data.inputs[:1].numel()))
        measure = wrong_classes if self.kind == "classification" else squared_errors
        return evaluate(model, in_order(data, size), measure).error

    def relative_error(self, error: float) -> float:
        """Return an error scaled so that 0 is the dense network and 1 the trivial guess."""
        return (error - self.dense_error) / (self.trivial_error - self.dense_error)

    def trivial_error_on(self, split: Split) -> float:
        """Return the error on ``split`` of the best prediction that looks at no input.

        That is the most frequent class of the training labels, or the mean training image.
        """
        if self.kind == "classification":
            frequent = self.train.labels.bincount().argmax()
            return float(split.labels.ne(frequent).double().mean())
        mean = self.train.target.double().mean(0)
        return float((split.target.double() - mean).square().mean())

    def batches(self, split: Split, size: int) -> Iterator[Batch]:
        """Yield the samples of a split in order, ``size`` at a time; the last batch may be smaller.

        Raises:
            ValueError: ``size`` is not positive.
        """
        if size < 1:
            raise ValueError(f"the batch size is {size}; it must be at least 1")
        yield from in_order(split, size)

    def fine_tune(
        self,
        model: nn.Module,
        *,
        steps: int,
        learning_rate: float = _LEARNING_RATE,
        batch_size: int = _BATCH_SIZE,
        seed: int = 0,
    ) -> None:
        """Train ``model`` on the training split, in place, with Adam and a falling learning rate.

        Batch norm is in training mode meanwhile. Training flags and stored gradients come back as
        they were; the same seed gives the same weights, bit for bit on a CPU with the same number
        of threads.

        Args:
            model: a pruned copy of this task's network.
            steps: number of mini-batches; 0 changes nothing.
            learning_rate: the learning rate at the start; it falls to 0 as a cosine.
            batch_size: samples per mini-batch.
            seed: decides the order of the samples.

        Raises:
            ValueError: ``steps`` is negative or ``batch_size`` is not positive.
        """
        descent = Descent(steps, learning_rate, batch_size, seed)
        optimise(model, self.train.inputs, self.train.target, self.loss, descent)

    def fine_tune_stacked(self, models: Sequence[nn.Module], *, steps: int, seed: int = 0) -> None:
        """Train several pruned copies at once, in place, each as :meth:`fine_tune` does.

        The learning rate and the batch size are the defaults there. The weights differ in their
        last bits, see :func:`~gp_prune.tasks.training.optimise_stacked`.

        Args:
            models: pruned copies of this task's network.
            steps: number of mini-batches; 0 changes nothing.
            seed: decides the order of the samples.

        Raises:
            ValueError: ``steps`` is negative.
            UserError: the models are not copies of one network.
        """
        descent = Descent(steps, _LEARNING_RATE, _BATCH_SIZE, seed)
        optimise_stacked(models, self.train.inputs, self.train.target, self.loss, descent)

    def recalibrate(self, model: nn.Module, *, samples: int = _RECALIBRATION_SAMPLES) -> None:
        """Measure the batch-norm statistics of ``model`` again on training samples, in place.

        Args:
            model: a pruned copy of this task's network; without batch norm nothing changes.
            samples: how many training samples to use at most (the first ones: the order of the
                training split is random already).
        """
        recalibrate(model, self.train.inputs[:samples])
