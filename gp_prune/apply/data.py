"""The data of a network: to measure scores on, to tune with and to judge on.

It is that of a task, a known data set, a folder of images, or what a person has in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Subset

from gp_prune.apply.images import open_images
from gp_prune.apply.models import LoadedModel
from gp_prune.errors import SEED, UserError, check_value
from gp_prune.statistics import Batch, Forward, Loss
from gp_prune.statistics.batches import check_loss
from gp_prune.statistics.running import call_model, evaluation_mode
from gp_prune.tasks import Task
from gp_prune.tasks.data import stratified_split
from gp_prune.training.loss import (
    Evaluation,
    Measure,
    evaluate,
    main_output,
    sequences_at_once,
    squared_errors,
    token_losses,
    wrong_classes,
)
from gp_prune.training.samples import Data, Samples, gather, in_order, take

ErrorKind = Literal["error", "mse", "nats", "own"]
"""What is measured: the share of samples whose class is wrong, the mean squared error, or the error
of a user's task."""
SplitName = Literal["validation", "test"]
"""What it is measured on: samples that decided when training ended, or that decided nothing."""
MEASURES: dict[ErrorKind, Measure] = {
    "error": wrong_classes, "mse": squared_errors, "nats": token_losses
}  # fmt: skip

LEAST_SAMPLES = 10
"""Fewest samples to train on, and to judge on: an error of fewer says nothing."""
VALIDATION_SHARE = 0.2
_CALIBRATION_BATCH = 32
_EVALUATION_BATCH = 64


class Calibration(NamedTuple):
    """Samples to measure scores on.

    Attributes:
        name: what they are, for a person to read.
        batches: the samples; empty when there are none.
        loss: mean loss of a batch, None when there are no samples.
        classes: number of classes in the source, where that is known.
    """

    name: str
    batches: Sequence[Batch]
    loss: Loss | None
    classes: int | None = None


NO_DATA = Calibration("", (), None)
"""What a metric that only reads weights needs."""


@dataclass(frozen=True, eq=False)
class TuningData:
    """Samples to tune a pruned network with and to judge it on.

    Attributes:
        name: what it is, for a person to read.
        train: samples for recalibration and fine-tuning.
        validation: samples that decide which epoch is kept and when training ends.
        read_report: reads the samples that the final report is about.
        split: which these are: ``"test"``, or ``"validation"`` where there are no others.
        kind: what is measured.
        loss: ``loss(output, target)``, a mean over the batch.
        task: the task that the samples come from, where they come from one; an error of its own is
            what is measured.
        train_images: (images,) numbers of the images of ``train`` in their source, from which
            calibration samples may come; None where the data are no images of a source.
        note: what a person should know of the data and the network, a sentence or nothing.
    """

    name: str
    train: Data
    validation: Data
    read_report: Callable[[], Data]
    split: SplitName
    kind: ErrorKind
    loss: Loss
    task: Task | None = None
    train_images: Tensor | None = None
    note: str = ""

    @property
    def measure(self) -> Measure:
        """Return what measures the error of a batch."""
        return MEASURES[self.kind] if self.task is None else self.task.measure

    def evaluate(
        self,
        model: nn.Module,
        samples: Data,
        *,
        batch_size: int = _EVALUATION_BATCH,
        forward_fn: Forward | None = None,
        measure: Measure | None = None,
    ) -> Evaluation:
        """Return the error of a network on some of the samples, by default that of ``kind``.

        Raises:
            UserError: there is no sample, or output and labels (or target) cannot be compared.
        """
        language = self.kind == "nats" or (self.task is not None and self.task.kind == "language")
        if language and isinstance(samples, Samples):
            batch_size = sequences_at_once(samples.inputs, batch_size, model)
        batches = in_order(samples, batch_size)
        return evaluate(model, batches, measure or self.measure, forward_fn=forward_fn)


def calibration(
    loaded: LoadedModel,
    source: str | None,
    *,
    samples: int = 512,
    seed: int = 0,
    data_root: str | Path | None = None,
    download: bool = False,
    among: Tensor | None = None,
) -> Calibration:
    """Return calibration samples that fit a network, chosen by seed.

    Images are scaled to cover the network's input and cut to its centre; grey images get the
    network's channels, colour images become grey where it has one channel. For torchvision's
    networks they are normalised as ImageNet is. A task's loss is used for its network, cross
    entropy for every other.

    Args:
        loaded: the network.
        source: a data set (one of :data:`gp_prune.tasks.data.DATA_SETS`) or a folder that has one
            folder of images per class, in alphabetical order of the classes. None means the
            training samples of a task, and for no data where there is no task.
        samples: largest number of samples.
        seed: decides which samples are taken.
        data_root: folder with torchvision's data sets; by default one in the user's cache folder.
        download: whether torchvision may fetch a missing data set.
        among: (images,) numbers of the images that may be taken; all by default. Who judges the
            pruned network on other images of the source gives those that are not judged on.

    Raises:
        UserError: the source is unknown, empty or unreadable, or does not fit the network.
    """
    check_samples(samples)
    if source is not None:
        images = open_images(loaded, source, data_root=data_root, download=download)
        allowed = torch.arange(len(images)) if among is None else among
        chosen = allowed[_choose(len(allowed), samples, seed)]
        batches = tuple(in_order(Samples(*take(images, chosen)), _CALIBRATION_BATCH))
        return Calibration(images.name, batches, _loss(loaded), images.classes)
    task = loaded.task
    if task is None:
        return NO_DATA
    train = task.train.select(_choose(len(task.train), samples, seed))
    size = _CALIBRATION_BATCH
    if task.kind == "language":
        size = sequences_at_once(train.inputs, size, loaded.model)
    return Calibration(f"{task.name}, training split", tuple(in_order(train, size)), task.loss)


def _choose(count: int, samples: int, seed: int) -> Tensor:
    """Return the numbers of at most ``samples`` of ``count`` samples, in random order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:samples]


def _loss(loaded: LoadedModel) -> Loss:
    if loaded.task is not None:
        return loaded.task.loss
    return mean_squared_error if loaded.reconstructs else cross_entropy


def check_samples(samples: int) -> None:
    """Raise UserError unless that number of samples can be taken."""
    if samples < 1:
        raise UserError(f"the number of samples is {samples}; it must be at least 1")


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    """Return the mean cross entropy, in nats, of the main output of a network."""
    return functional.cross_entropy(main_output(output), target)


def check_labels(loaded: LoadedModel, data: Calibration) -> str:
    """Raise UserError unless cross entropy can compare the network's outputs with the labels.

    The network's output must have the shape (samples, classes) with a class for every label.

    Returns:
        What to say where the network has more outputs than there are classes; else nothing.
    """
    if data.loss is None or loaded.reconstructs or loaded.predicts_tokens:
        return ""
    with evaluation_mode(loaded.model), torch.no_grad():
        shape = tuple(main_output(call_model(loaded.model, loaded.example_inputs)).shape)
    if len(shape) != 2:
        raise UserError(
            f"the output of {loaded.name!r} has shape {shape}, but labels are compared with an "
            "output (samples, classes); use prune() and tune_pruned() with a loss of your own"
        )
    largest = max(int(batch.labels.max()) for batch in data.batches if batch.labels is not None)
    if largest >= shape[1]:
        raise UserError(
            f"data {data.name!r} has labels up to {largest}, but {loaded.name!r} has "
            f"{shape[1]} outputs; labels must be less than the number of outputs, use other data"
        )
    if data.classes is None or data.classes >= shape[1]:
        return ""
    return (
        f"The network has {shape[1]} outputs and {data.name!r} has {data.classes} classes, so the "
        f"classes, in alphabetical order, are compared with the first {data.classes} outputs, "
        "which may mean something else; give a network with a head for these classes."
    )


def tuning_data(
    loaded: LoadedModel,
    source: str | None = None,
    *,
    share: float = VALIDATION_SHARE,
    samples: int | None = None,
    seed: int = 0,
    data_root: str | Path | None = None,
    download: bool = False,
) -> TuningData:
    """Return samples to tune a network on: those of its task, or images that are split by ``seed``.

    A task has its own training, validation and test samples, and its test samples are read when
    the final report asks for them. Images are split into training and validation samples with every
    class in its share, and the report is about the validation samples; images are read as they are
    needed.

    Args:
        loaded: the network.
        source: a data set or a folder of images, as of
            :func:`gp_prune.apply.data.calibration`; None means the data of the task.
        share: share of the images for validation.
        samples: largest number of images, or of training samples of a task; all by default.
        seed: decides which images are taken, and for what.
        data_root: folder with torchvision's data sets.
        download: whether torchvision may fetch a missing data set.

    Raises:
        UserError: there is no data, it does not fit, or there are too few samples.
    """
    if samples is not None:
        check_samples(samples)
    if source is None:
        if loaded.task is None:
            raise UserError(
                f"fine-tuning and judging {loaded.name!r} need data; name a data set or a folder "
                "of images with --data"
            )
        return _of_task(loaded.task, samples, seed)
    images = open_images(loaded, source, data_root=data_root, download=download)
    train, validation = split_indices(len(images), share, seed, images.labels, most=samples)
    loss = _loss(loaded)
    labels = Calibration(images.name, (Batch((), labels=images.labels),), loss, images.classes)
    note = check_labels(loaded, labels)
    held_out = Subset(images, validation.tolist())
    return TuningData(
        name=images.name,
        train=Subset(images, train.tolist()),
        validation=held_out,
        read_report=lambda: held_out,
        split="validation",
        kind="mse" if loaded.reconstructs else "error",
        loss=loss,
        train_images=train,
        note=note,
    )


def _of_task(task: Task, samples: int | None, seed: int) -> TuningData:
    train = task.train
    if samples is not None and samples < len(train):
        train = train.select(_choose(len(train), samples, seed))
    kinds: dict[str, ErrorKind] = {"classification": "error", "language": "nats"}
    kind = "own" if task.own_error else kinds.get(task.kind, "mse")
    return TuningData(task.name, train, task.validation, task.test, "test", kind, task.loss, task)


def own_data(
    data: Any,
    *,
    loss: Loss | None = None,
    kind: ErrorKind = "error",
    share: float = VALIDATION_SHARE,
    seed: int = 0,
    name: str = "own data",
) -> TuningData:
    """Gather a person's own samples in memory and split them by ``seed``.

    Args:
        data: a pair (inputs, target) of tensors, or batches as of
            :func:`gp_prune.statistics.batches.as_batch`.
        loss: by default cross entropy, or the mean squared error where that is measured.
        kind: what is measured.
        share: share of the samples for validation.
        seed: decides which samples are for what.
        name: what it is.

    Raises:
        UserError: an item is no batch, or there are too few samples.
    """
    check_loss(loss)
    check_value("seed", seed, SEED)
    if kind not in MEASURES:
        raise UserError(f"the kind of error is {kind!r}; it must be one of {', '.join(MEASURES)}")
    whole = gather(data)
    parts = split_indices(len(whole), share, seed, whole.labels)
    train, validation = (whole.select(part) for part in parts)
    default: Loss = cross_entropy if kind == "error" else mean_squared_error
    return TuningData(
        name, train, validation, lambda: validation, "validation", kind, loss or default
    )


def mean_squared_error(output: Any, target: Tensor) -> Tensor:
    """Return the mean squared error of the main output of a network."""
    return functional.mse_loss(main_output(output), target)


def split_indices(
    count: int, share: float, seed: int, labels: Tensor | None = None, *, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the numbers of the samples for training, and of those for validation.

    Args:
        count: number of samples.
        share: share for validation, greater than 0 and less than 1.
        seed: decides it.
        labels: (n,) class numbers; with them every class has its share of both parts.
        most: number of samples to use in all; all by default.

    Raises:
        UserError: the share is out of range, or a part would have too few samples.
    """
    if not 0 < share < 1:
        raise UserError(f"the validation share is {share}; it must be between 0 and 1")
    used = count if most is None else min(most, count)
    held = round(used * share)
    if held < LEAST_SAMPLES or used - held < LEAST_SAMPLES:
        raise UserError(
            f"{used} samples with a validation share of {share:g} leave {used - held} to train on "
            f"and {held} to judge on; each needs at least {LEAST_SAMPLES}, give more samples or "
            "another share"
        )
    if labels is None:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        return order[held:used], order[:held]
    validation, train = stratified_split(labels, (held, used - held), seed % 2**32)
    return torch.from_numpy(train), torch.from_numpy(validation)
