"""The samples that a pruned network is tuned and judged on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from gp_prune.apply.data import (
    Calibration,
    Images,
    check_labels,
    check_samples,
    cross_entropy,
    fitting_images,
)
from gp_prune.apply.evaluation import Judged, Measure, Quality, SplitName, judged
from gp_prune.apply.models import LoadedModel
from gp_prune.apply.result import PrunedModel
from gp_prune.errors import UserError, pluralize
from gp_prune.pruning import measure
from gp_prune.pruning.modules import masked_parameters
from gp_prune.statistics import Batch, Forward, Loss
from gp_prune.statistics.batches import batch_size
from gp_prune.statistics.running import device_of, random_state, to_device
from gp_prune.tasks import Task
from gp_prune.tasks.data import stratified_split
from gp_prune.training import (
    Epoch,
    FineTuning,
    Held,
    History,
    batch_norms,
    fine_tune,
    held_by,
    recalibrate,
)
from gp_prune.training.loss import main_output
from gp_prune.training.samples import (
    Data,
    equal_parts,
    gather,
    in_order,
    sample_count,
    take,
)

RECALIBRATION_SAMPLES = 2048
"""Most samples on which batch norms are measured anew."""
_BATCH = 64


def tune_pruned(
    pruned: PrunedModel,
    dense: nn.Module,
    data: TuningData,
    settings: FineTuning | None = None,
    *,
    recalibration: bool = True,
    forward_fn: Forward | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[PrunedModel, Quality]:
    """Recalibrate and fine-tune a pruned network, and judge every state of it.

    The samples of the report are read when everything else is done. Neither network that is given
    is changed.

    Args:
        pruned: what :func:`gp_prune.prune` returned.
        dense: the network that was pruned; judged, and the teacher for distillation.
        data: what to tune and judge on.
        settings: how to fine-tune; None leaves it out.
        recalibration: whether to measure batch norms anew; nothing is done where there are none.
        forward_fn: runs the networks where ``model(inputs)`` is not the way.
        checkpoint: folder in which the fine-tuning is kept after each epoch, to go on from.
        progress: called with a line for a person before each step and after each epoch.

    Returns:
        The pruned network in its last state, its ``quality`` set, and that quality.

    Raises:
        UserError: data, networks and settings do not fit together, or fine-tuning goes astray (see
            :func:`gp_prune.training.fine_tune`).
    """
    tell = progress or _say_nothing
    states: dict[str, nn.Module] = {"dense": dense, "pruned": pruned.model}
    model = copy.deepcopy(pruned.model)
    if recalibration and batch_norms(model):
        _recalibrate(model, data, forward_fn, tell)
        states["recalibrated"] = model
    history: History | None = None
    if settings is not None:
        model = copy.deepcopy(model)
        tell(f"fine-tuning for up to {pluralize(settings.epochs, 'epoch')} on {data.name}")
        held = _held(pruned, model)
        history = _tuned(model, dense, data, settings, held, forward_fn, checkpoint, tell)
        states["tuned"] = model
    tell(f"judging on the {data.split} samples of {data.name}")
    report = data.read_report()
    found = {name: _judged(state, report, data, forward_fn) for name, state in states.items()}
    quality = _quality(found, data, settings, history)
    (example,) = _first(report, 1)
    inputs = to_device(example.inputs, device_of(model))
    counted = measure(model, inputs, forward_fn=forward_fn).nonzero
    after = pruned.after._replace(nonzero=counted)
    return replace(pruned, model=model, after=after, quality=quality), quality


def _recalibrate(
    model: nn.Module,
    data: TuningData,
    forward_fn: Forward | None,
    tell: Callable[[str], None],
) -> None:
    """Measure the batch norms anew, in place."""
    tell(f"measuring batch norms anew on {data.name}")
    with random_state(0):  # a data loader may shuffle
        batches = _first(data.train, RECALIBRATION_SAMPLES)
        recalibrate(model, batches, forward_fn=forward_fn)


def _quality(
    found: dict[str, Judged],
    data: TuningData,
    settings: FineTuning | None,
    history: History | None,
) -> Quality:
    return Quality(
        kind=data.kind,
        split=data.split,
        data=data.name,
        samples=found["dense"].samples,
        settings=settings,
        history=history,
        **{name: result.error for name, result in found.items()},
    )


def _say_nothing(line: str) -> None:
    """Swallow a line of progress."""


def _held(pruned: PrunedModel, model: nn.Module) -> Held | None:
    """What must stay zero where a person has made the masks permanent."""
    if pruned.mode != "mask" or any(True for _ in masked_parameters(model)):
        return None
    return held_by(model, pruned.plan, pruned.architecture)


def _tuned(
    model: nn.Module,
    dense: nn.Module,
    data: TuningData,
    settings: FineTuning,
    held: Held | None,
    forward_fn: Forward | None,
    checkpoint: str | Path | None,
    tell: Callable[[str], None],
) -> History:
    """Fine-tune ``model`` in place."""
    teacher = dense
    if settings.distill and device_of(dense) != device_of(model):
        teacher = copy.deepcopy(dense).to(device_of(model))

    def error(network: nn.Module, validation: Any) -> float:
        return _judged(network, validation, data, forward_fn).error

    def epoch(done: Epoch) -> None:
        tell(
            f"epoch {done.number}/{settings.epochs}: training loss {done.loss:.4f}, "
            f"validation {data.kind} {done.error:.4f}"
        )

    return fine_tune(
        model,
        data.train,
        data.loss,
        settings,
        validation=data.validation,
        error=error,
        teacher=teacher,
        held=held,
        forward_fn=forward_fn,
        checkpoint=checkpoint,
        progress=epoch,
    )


def _judged(
    model: nn.Module, samples: Data, data: TuningData, forward_fn: Forward | None
) -> Judged:
    return judged(model, in_order(samples, _BATCH), data.kind, forward_fn=forward_fn)


def _first(data: Data, most: int) -> Iterator[Batch]:
    """At most so many samples, in batches of about equal size; of given batches one at least."""
    if isinstance(data, Dataset):
        # A seeded choice: the samples may be in the order of their classes.
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(sample_count(data), generator=generator)[:most]
        for chosen in order.tensor_split(equal_parts(len(order), _BATCH)):
            yield take(data, chosen)
        return
    taken = 0
    for batch in in_order(data, _BATCH):
        if taken >= most:
            return
        taken += batch_size(batch.inputs)
        yield batch
    if not taken:
        raise UserError("there is no sample to measure batch norms on; give training data")


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
            :func:`gp_prune.apply.data.calibration`; None stands for the data of the task.
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
            :func:`gp_prune.statistics.batches.as_batch`.
        loss: by default cross entropy, or the mean squared error where that is measured.
        kind: what is measured.
        share: share of the samples for validation.
        seed: decides which samples are for what.
        name: what it is.

    Raises:
        UserError: an item is no batch, or there are too few samples.
    """
    whole = gather(data)
    labels = whole.labels
    parts = split_indices(len(whole), share, seed, labels)
    train, validation = (whole.select(part) for part in parts)
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


def _of_task(task: Task, samples: int | None, seed: int) -> TuningData:
    train = task.train
    if samples is not None and samples < len(train):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        train = train.select(order[:samples])
    kind: Measure = "mse" if task.kind == "reconstruction" else "error"
    return TuningData(task.name, train, task.validation, task.test, "test", kind, task.loss)


class _ImageSource(Dataset[Batch]):
    """Some of the images, read as they are taken."""

    def __init__(self, images: Images, indices: Tensor, repeats: bool) -> None:
        self._images, self._indices, self._repeats = images, indices, repeats

    def __len__(self) -> int:
        return len(self._indices)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Read the images with these numbers; where outputs repeat inputs they are the target."""
        chosen = self._indices[indices]
        inputs = torch.stack([self._images.read(index) for index in chosen.tolist()])
        labels = self._images.labels[chosen]
        return Batch(inputs, inputs if self._repeats else labels, labels)
