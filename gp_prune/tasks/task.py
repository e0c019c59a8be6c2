"""Bundle a trained network with its data and protocol: what a candidate metric is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.base.html import facts_html
from gp_prune.errors import UserError, brief
from gp_prune.statistics import Batch
from gp_prune.statistics.batches import Loss
from gp_prune.statistics.running import device_of, one_thread, to_device
from gp_prune.tasks.checks import (
    check_arguments,
    check_layers,
    check_run,
    check_splits,
    check_values,
    first_output,
    remark_on_errors,
)
from gp_prune.tasks.data import Split
from gp_prune.tasks.image_folder import Shape
from gp_prune.tasks.measures import EVALUATION_BATCH, default_loss, default_measure, mean_error
from gp_prune.tasks.models import Kind
from gp_prune.tasks.splits import Parts, Reading, digest_of, read_parts
from gp_prune.tasks.training import Descent, can_stack, optimise, optimise_stacked
from gp_prune.tasks.trivial import class_frequencies, mean_output
from gp_prune.training import recalibrate
from gp_prune.training.loss import (
    Measure,
    main_output,
)
from gp_prune.training.network import check_model
from gp_prune.training.samples import as_data, in_order

_RECALIBRATION_SAMPLES = 256
_LEARNING_RATE = 5e-3
_BATCH_SIZE = 64
_SEQUENCES = 16

ErrorFunction = Callable[[Tensor, Tensor], Any]
"""``error(output, target)``: one number, the mean over the samples of a batch; less is better."""


class Task:
    """A trained network with the data and the protocol by which pruned copies of it are judged.

    Give the network and its training data; the rest has defaults::

        task = Task(model, (images, labels))
        task = Task(autoencoder, "faces/", kind="reconstruction",
                    example_inputs=torch.zeros(1, 3, 64, 64))
        task = Task(model, (inputs, numbers), kind="regression", name="prices")
        task = Task(model, tokens, kind="language", whole=["lm_head"])

    Data is a tuple (inputs, target) of tensors or arrays, a data set or a data loader of torch, or
    a folder with one folder of images per class (for a reconstruction also a folder of images). It
    is brought into memory, at most 4 GiB of each part. What does not fit together raises a
    UserError of one sentence; what is only odd is one of ``task.remarks``.

    Errors of pruned networks are also given on a scale on which 0 is the network itself and 1 the
    best guess that looks at no input: the most frequent class, or the mean target. An error of
    your own is measured for that guess, too: as output it gets the logarithms of the class
    frequencies, the mean target, or where the target has another shape, the mean output.

    Args:
        model: the trained network; it takes one tensor. It is not changed.
        train: training data, for measuring formulas, fine-tuning and recalibration.
        validation: samples that candidates are judged on; by default a fifth of the training
            data. Where the network was trained on these, too, its error on them is too small.
        test: samples of final reports, or a function that gives them; by default another fifth.
        name: what the task is called in results; by default the class of the network.
        kind: ``"classification"`` (labels, share of wrong classes), ``"regression"`` (numbers of
            the shape of the output, mean squared error), ``"reconstruction"`` (the network
            repeats its inputs, mean squared error) or ``"language"`` (the network gives logits
            (n, positions, tokens) of the token after each of its inputs (n, positions); the data is
            whole sequences of tokens or (inputs, target); cross-entropy in nats per token).
        loss: ``loss(output, target)``, the mean of a batch that fine-tuning lowers; by default
            cross-entropy, or the mean squared error.
        error: ``error(output, target)``, the mean of a batch by which networks are judged, less is
            better; by default that of the kind. The output is a tensor: where the network gives
            several, its ``logits`` or the first.
        example_inputs: one sample, (1, ...), for tracing; by default the first of ``train``. A
            folder needs it, to know the size of the images.
        keep: names of layers that lose no channel, besides the network's output.
        whole: names of layers that lose no single weight either, as the last layer of a language
            model, which is usually left whole.
        samples: most samples to take of each part, drawn by ``seed``; all by default. A data loader
            is read to its end.
        seed: decides which samples are drawn for which part, and their order.
        dense_error: validation error of ``model``, where it is known; it is measured otherwise.

    Attributes:
        model: the network; prune copies of it, not itself.
        train: the training split, in random order.
        validation: the validation split, in random order.
        dense_error: validation error of ``model``.
        trivial_error: validation error of the best guess that looks at no input.
        remarks: sentences on what is odd.

    Raises:
        UserError: an argument is wrong, the data is unreadable or too large, has fewer than 20
            samples, values that are not finite or one class alone, lacks labels, or does not fit
            the network, or the network fails on it.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        validation: Any = None,
        test: Any = None,
        *,
        name: str = "",
        kind: Kind = "classification",
        loss: Loss | None = None,
        error: ErrorFunction | None = None,
        example_inputs: Any = None,
        keep: Sequence[str] = (),
        whole: Sequence[str] = (),
        samples: int | None = None,
        seed: int = 0,
        dense_error: float | None = None,
    ) -> None:
        check_model(model)
        check_arguments(name, kind, loss, error, samples, seed)
        check_layers(model, "keep", keep)
        check_layers(model, "whole", whole)
        self.model = model
        self.name = name or type(model).__name__
        self.kind: Kind = kind
        self.whole = tuple(whole)
        self.keep = tuple(dict.fromkeys((*keep, *whole)))
        self.seed = seed
        self._loss, self._error = loss, error
        # A loss and an error of the user decide what form a target has.
        self.any_target = loss is not None and error is not None
        how = Reading(
            kind, device_of(model), _number_type(model), _shape(example_inputs),
            any_target=self.any_target, samples=samples, seed=seed,
        )  # fmt: skip
        parts = read_parts(how, train, validation, test)
        self.train, self.validation, self.read_test = parts
        self.example_inputs: Any = (
            self.train.inputs[:1] if example_inputs is None else example_inputs
        )
        # What is in the form of splits comes from gp-prune, and is checked where it is read.
        own = not (isinstance(train, Split) and isinstance(validation, Split))
        self.remarks: tuple[str, ...] = ()
        with one_thread():
            if own:
                check_values(parts)
                given = {"validation": validation, "test": test}
                drawn = [name for name, part in given.items() if part is None]
                self.remarks += check_splits(parts, drawn)
            self.remarks += check_run(self, parts.read_test() if own else None)
            self.trivial_error = self.trivial_error_on(self.validation)
            known = dense_error is not None
            self.dense_error: float = (
                dense_error if known else self.error(model, self.validation)  # type: ignore[assignment]
            )
            if own or not known:
                self.remarks += remark_on_errors(self)

    def __repr__(self) -> str:
        """Return name, kind and sizes in one line."""
        return (
            f"Task({self.name!r}, {self.kind}, {len(self.train):,} training and "
            f"{len(self.validation):,} validation samples)"
        )

    def to(self, device: torch.device) -> None:
        """Put the network, which is changed in place, and all the data on a device."""
        self.model.to(device)
        self.train, self.validation = self.train.to(device), self.validation.to(device)
        self.read_test = partial(_moved, self.read_test, device)
        self.example_inputs = to_device(self.example_inputs, device)

    def _repr_html_(self) -> str:
        """Return the task for a notebook; all text is escaped."""
        facts = [
            ("kind", self.kind), ("training samples", f"{len(self.train):,}"),
            ("validation samples", f"{len(self.validation):,}"),
            ("error of the dense network", f"{self.dense_error:.4g}"),
            ("error of the best constant guess", f"{self.trivial_error:.4g}"),
            ("kept whole", ", ".join(self.keep)), ("remarks", " ".join(self.remarks)),
        ]  # fmt: skip
        return facts_html(f"Task {self.name}", facts)

    def test(self) -> Split:
        """Read the test split; for final reports alone.

        Raises:
            UserError: the files of the data set are gone or damaged.
        """
        return self.read_test()

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of the samples of all parts."""
        return digest_of(Parts(self.train, self.validation, self.read_test))

    def loss(self, output: Any, target: Any) -> Tensor:
        """Return the loss of a batch: the user's, the mean cross-entropy (in nats) or mean square.

        That of a language model is a mean over all tokens.

        The loss of a user gets whatever the network gives.
        """
        return (self._loss or default_loss(self.kind))(output, target)

    @property
    def measure(self) -> Measure:
        """Return what measures the error of a batch, see :data:`gp_prune.training.loss.Measure`."""
        return default_measure(self.kind) if self._error is None else self._measure_own

    @property
    def own_error(self) -> bool:
        """Return whether networks are judged by an error of the user."""
        return self._error is not None

    def _measure_own(self, output: Any, batch: Batch) -> tuple[float, int]:
        assert self._error is not None
        tensor = main_output(output)
        size = len(batch.target)
        value = self._error(tensor, batch.target.to(tensor.device))
        try:
            return float(value) * size, size
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the error of task {self.name!r} gives {_describe(value)}; it must give one "
                "number, the mean over the samples of a batch"
            ) from error

    def error(self, model: nn.Module, data: Any) -> float:
        """Return the share of wrong classes, the mean squared error per number, or the user's.

        Of a language model it is the cross-entropy in nats per token; its exponential is the
        perplexity.

        The model runs in evaluation mode without gradients, and its training flags come back as
        they were. Outputs that are not finite make a squared error that is not finite.

        Args:
            model: a network of this task's inputs and outputs.
            data: a split, tensors, or a data set or data loader of torch.
        """
        return mean_error(model, as_data(data), self.measure, self.kind)

    def trivial_error_on(self, split: Split) -> float:
        """Return the error on ``split`` of the best prediction that looks at no input.

        That is the most frequent class of the training labels, the mean training target, or the
        frequencies of the training tokens; for an error of the user, see the class.
        """
        if self._error is None and self.kind == "language":
            tokens = (first_output(self).shape[-1],)
            guess = class_frequencies(self.train.target, tokens).log_softmax(0)
            return float(-guess.double()[split.target].mean())
        if self._error is None:
            if self.kind == "classification":
                frequent = self.train.target.bincount().argmax()
                return float(split.target.ne(frequent).double().mean())
            mean = self.train.target.double().mean(0)
            return float((split.target.double() - mean).square().mean())
        guess = self._guess
        total = 0.0
        for batch in in_order(split, EVALUATION_BATCH):
            count = len(batch.target)
            total += self._measure_own(guess.expand(count, *guess.shape), batch)[0]
        return total / len(split)

    @cached_property
    def _guess(self) -> Tensor:
        """Return the output for one sample of the best guess, for an error of the user."""
        target, shape = self.train.target, tuple(first_output(self).shape[1:])
        if self.kind == "classification" and not target.is_floating_point():
            return class_frequencies(target, shape)
        if shape == tuple(target.shape[1:]):
            return target.double().mean(0).to(target.dtype)
        return mean_output(self.model, self.train)

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
        batch_size: int | None = None,
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
            batch_size: samples per mini-batch; by default 64, and 16 sequences of tokens.
            seed: decides the order of the samples.

        Raises:
            ValueError: ``steps`` is negative or ``batch_size`` is not positive.
        """
        size = self._batch_size if batch_size is None else batch_size
        descent = Descent(steps, learning_rate, size, seed)
        optimise(model, self.train.inputs, self.train.target, self.loss, descent)

    @property
    def _batch_size(self) -> int:
        return _SEQUENCES if self.kind == "language" else _BATCH_SIZE

    def fine_tune_stacked(self, models: Sequence[nn.Module], *, steps: int, seed: int = 0) -> None:
        """Train several pruned copies at once, in place, each as :meth:`fine_tune` does.

        The learning rate and the batch size are the defaults there. The weights differ in their
        last bits, see :func:`~gp_prune.tasks.training.optimise_stacked`. Networks that cannot be
        stacked, as those with depthwise convolutions, are trained one after the other.

        Args:
            models: pruned copies of this task's network.
            steps: number of mini-batches; 0 changes nothing.
            seed: decides the order of the samples.

        Raises:
            ValueError: ``steps`` is negative.
            UserError: the models are not copies of one network.
        """
        if not all(map(can_stack, models)):
            for model in models:
                self.fine_tune(model, steps=steps, seed=seed)
            return
        descent = Descent(steps, _LEARNING_RATE, self._batch_size, seed)
        optimise_stacked(models, self.train.inputs, self.train.target, self.loss, descent)

    def recalibrate(self, model: nn.Module, *, samples: int = _RECALIBRATION_SAMPLES) -> None:
        """Measure the batch-norm statistics of ``model`` again on training samples, in place.

        Args:
            model: a pruned copy of this task's network; without batch norm nothing changes.
            samples: how many training samples to use at most (the first ones: the order of the
                training split is random already).
        """
        recalibrate(model, self.train.inputs[:samples])


def _moved(read: Callable[[], Split], device: torch.device) -> Split:
    return read().to(device)


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else brief(value)


def _number_type(model: nn.Module) -> torch.dtype:
    """Return the type of the weights, in which the network takes its inputs."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _shape(example_inputs: Any) -> Shape | None:
    """Return the shape of the images that a network takes; None where it takes no images."""
    if isinstance(example_inputs, tuple) and len(example_inputs) == 1:
        (example_inputs,) = example_inputs
    if not isinstance(example_inputs, Tensor) or example_inputs.ndim != 4:
        return None
    _, channels, height, width = example_inputs.shape
    return channels, height, width
