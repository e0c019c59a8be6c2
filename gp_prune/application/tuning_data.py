"""The samples that a pruned network is tuned and judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gp_prune.application.batches import as_batch, given_batches
from gp_prune.application.data import (
    Calibration,
    Images,
    check_labels,
    check_samples,
    cross_entropy,
    fitting_images,
)
from gp_prune.application.evaluation import Measure, SplitName
from gp_prune.application.models import LoadedModel
from gp_prune.application.wording import several
from gp_prune.errors import UserError
from gp_prune.pruning.modules import tensors_of
from gp_prune.statistics import Batch, Loss
from gp_prune.statistics.batches import batch_size
from gp_prune.tasks import Split, Task
from gp_prune.tasks.data import stratified_split
from gp_prune.tuning import Samples
from gp_prune.tuning.distillation import main_output
from gp_prune.tuning.samples import Data

LEAST_SAMPLES = 10
"""Fewest samples to train on, and to judge on: an error of fewer says nothing."""
VALIDATION_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class TuningData:
    """What a pruned network is tuned and judged on.

    Attributes:
        name: what it is, for a person to read.
        train: samples for recalibration and fine-tuning.
        validation: samples that decide which epoch is kept and when training ends.
        read_report: gives the samples that the final report is about.
        split: which these are: ``"test"``, or ``"validation"`` where there are no others.
        kind: what is measured.
        loss: ``loss(output, target)``, a mean over the batch.
        train_images: (images,) numbers of the images of ``train`` in their source, from which
            calibration samples may come; None where the data are no images of a source.
    """

    name: str
    train: Data
    validation: Data
    read_report: Callable[[], Data]
    split: SplitName
    kind: Measure
    loss: Loss
    train_images: Tensor | None = None


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
    """Samples to tune a network on: those of its task, or images that are split by ``seed``.

    A task has its own training, validation and test samples, and its test samples are read when
    the final report asks for them. Images are split into training and validation samples with every
    class in its share, and the report is about the validation samples; images are read as they are
    needed.

    Args:
        loaded: the network.
        source: a data set or a folder of images, as of
            :func:`gp_prune.application.data.calibration`; None stands for the data of the task.
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
    images = fitting_images(loaded, source, data_root=data_root, download=download)
    repeats = loaded.task is not None and loaded.task.kind == "reconstruction"
    parts = split_indices(len(images.labels), share, seed, images.labels, most=samples)
    train, validation = (_ImageSource(images, part, repeats) for part in parts)
    loss: Loss = loaded.task.loss if loaded.task else cross_entropy
    check_labels(loaded, Calibration(images.name, (Batch((), labels=images.labels),), loss))
    kind: Measure = "mse" if repeats else "error"
    return TuningData(
        images.name, train, validation, lambda: validation, "validation", kind, loss, parts[0]
    )


def own_data(
    data: Any,
    *,
    loss: Loss | None = None,
    kind: Measure = "error",
    share: float = VALIDATION_SHARE,
    seed: int = 0,
    name: str = "own data",
) -> TuningData:
    """A person's own samples, gathered in memory and split by ``seed``.

    Args:
        data: a pair (inputs, target) of tensors, or batches as of
            :func:`gp_prune.application.batches.as_batch`.
        loss: by default cross entropy, or the mean squared error where that is measured.
        kind: what is measured.
        share: share of the samples for validation.
        seed: decides which samples are for what.
        name: what it is.

    Raises:
        UserError: an item is no batch, or there are too few samples.
    """
    whole = gathered(data)
    labels = whole.labels
    parts = split_indices(len(whole), share, seed, labels)
    train, validation = (Samples(*whole.take(part)) for part in parts)
    default: Loss = cross_entropy if kind == "error" else mean_squared_error
    return TuningData(
        name, train, validation, lambda: validation, "validation", kind, loss or default
    )


def mean_squared_error(output: Any, target: Tensor) -> Tensor:
    """Mean squared error of the main output of a network."""
    return functional.mse_loss(main_output(output), target)


def split_indices(
    count: int, share: float, seed: int, labels: Tensor | None = None, *, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Which samples are for training and which for validation.

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


def gathered(data: Any) -> Samples:
    """All samples of a data loader in memory.

    Raises:
        UserError: an item is no batch, or there is none.
    """
    batches = [as_batch(item) for item in given_batches(data)]
    if not batches:
        raise UserError("the data has no batch; give labelled samples")
    for number, batch in enumerate(batches, start=1):
        _check_lengths(batch, number)
    try:
        return Samples(*(_joined([batch[field] for batch in batches]) for field in range(3)))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the batches of the data cannot be put together ({reason}); all need the same parts, "
            "with samples of the same shape"
        ) from error


def _check_lengths(batch: Batch, number: int) -> None:
    """Raise UserError unless every tensor of the batch has as many samples as the inputs."""
    size = batch_size(batch.inputs)
    for part in tensors_of((batch.inputs, batch.target, batch.labels)):
        if part.dim() and len(part) != size:
            raise UserError(
                f"batch {number} of the data has {several(size, 'sample')}, but one of its tensors "
                f"has {len(part)}; the first axis of every tensor counts the samples"
            )


def _joined(values: list[Any]) -> Any:
    """One value whose tensors are those of ``values`` behind one another."""
    first = values[0]
    if first is None or any(value is None for value in values):
        return None
    if isinstance(first, Tensor):
        return torch.cat(values) if first.dim() else first
    if isinstance(first, Mapping):
        return {key: _joined([value[key] for value in values]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(_joined(list(part)) for part in zip(*values, strict=True))
    return first


def _of_task(task: Task, samples: int | None, seed: int) -> TuningData:
    train = Samples(*task.train)
    if samples is not None and samples < len(train):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        train = Samples(*train.take(order[:samples]))
    kind: Measure = "mse" if task.kind == "reconstruction" else "error"
    return TuningData(
        task.name,
        train,
        Samples(*task.validation),
        lambda: _samples(task.test()),
        "test",
        kind,
        task.loss,
    )


def _samples(split: Split) -> Samples:
    return Samples(*split)


class _ImageSource:
    """Some of the images, read as they are taken."""

    def __init__(self, images: Images, indices: Tensor, repeats: bool) -> None:
        self._images, self._indices, self._repeats = images, indices, repeats

    def __len__(self) -> int:
        return len(self._indices)

    def take(self, indices: Tensor) -> Batch:
        """Read the images with these numbers; where outputs repeat inputs they are the target."""
        chosen = self._indices[indices]
        inputs = torch.stack([self._images.read(index) for index in chosen.tolist()])
        labels = self._images.labels[chosen]
        return Batch(inputs, inputs if self._repeats else labels, labels)
