"""Bring training, validation and test data of any form into memory, and draw missing parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from gp_prune.base.sizes import format_size
from gp_prune.errors import UserError, pluralize
from gp_prune.statistics import Batch
from gp_prune.statistics.batches import as_batch
from gp_prune.statistics.running import random_state, tensors_of
from gp_prune.tasks.data import DATA_SETS, Split, load_data, stratified_split
from gp_prune.tasks.image_folder import Shape
from gp_prune.tasks.images import images_of, open_images
from gp_prune.tasks.models import PREDICTED, Kind
from gp_prune.training.samples import (
    Samples,
    as_data,
    draw,
    gather,
    sample_count,
    take,
    tensor_digest,
)

LEAST_TRAINING = 20
"""Fewest training samples of a task, those that other parts are drawn from included."""
HELD_OUT = 0.2
"""Share of the training samples that a missing validation or test part gets."""
MOST_BYTES = 4 * 2**30
"""Most memory of one part: every worker process holds the parts that it uses."""
_READ_AT_ONCE = 64


class Parts(NamedTuple):
    """The parts of the data of a task.

    Attributes:
        train: samples for statistics, fine-tuning and recalibration, in random order.
        validation: samples that candidates are judged on, in random order.
        read_test: reads the samples of final reports.
    """

    train: Split
    validation: Split
    read_test: Callable[[], Split]


class Reading(NamedTuple):
    """How data becomes a split.

    Attributes:
        kind: kind of the task.
        device: where it is put.
        dtype: type of numbers that are not whole.
        shape: channels, height and width of the images that the network takes, if it takes any.
        any_target: whether a target of a classification may have any form, as a loss and an error
            of the user decide.
        samples: most samples of a part; None for all.
        seed: decides which samples are taken, and their order.
    """

    kind: Kind
    device: torch.device
    dtype: torch.dtype
    shape: Shape | None
    any_target: bool
    samples: int | None
    seed: int

    def read(self, data: Any, part: str) -> Split:
        """Return data in any form as a split in memory.

        Args:
            data: a split (which is taken as it is); tensors or arrays (inputs, target) or (inputs,
                target, labels); for a reconstruction also inputs alone; a data set or a data
                loader of torch; or a folder of images.
            part: what it is called in a message, for instance ``"training"``.

        Raises:
            UserError: it cannot be read, does not fit the kind or the memory, or has no samples.
        """
        if isinstance(data, Split):
            return data
        with random_state(self.seed):  # a data loader that shuffles gives the same samples again
            samples = self._gather(data, part)
        inputs, target, labels = samples.inputs, samples.target, samples.labels
        if not isinstance(inputs, Tensor) or inputs.ndim < 1:
            raise _no_tensor(inputs, part)
        if self.kind == "language":
            return self._read_tokens(inputs, target, part).to(self.device)
        if self.kind == "reconstruction":
            labels = target if labels is None and _are_labels(target) else labels
            split = Split(self._cast(inputs), self._cast(inputs), labels)
        elif self.kind == "regression":
            numbers = self._check_numbers(target, part)
            split = Split(self._cast(inputs), numbers, None if _are_labels(target) else labels)
        else:
            target = self._check_classes(target if labels is None else labels, target, part)
            known = target if _are_labels(target) else None
            split = Split(self._cast(inputs), target, known)
        for tensor in (split.target, split.labels):
            if tensor is not None and (tensor.ndim < 1 or len(tensor) != len(inputs)):
                raise UserError(
                    f"the {part} data has {pluralize(len(inputs), 'sample')}, but its target has "
                    f"shape {tuple(tensor.shape)}; the first axis of both counts the samples"
                )
        return split.to(self.device)

    def _read_tokens(self, inputs: Tensor, target: Any, part: str) -> Split:
        """Return sequences of tokens; without a target each token is predicted from those before.

        Raises:
            UserError: they are not whole numbers, or have fewer than two tokens.
        """
        if inputs.is_floating_point() or inputs.ndim != 2:
            raise UserError(
                f"the inputs of the {part} data have shape {tuple(inputs.shape)} and type "
                f"{inputs.dtype}; a language model takes tokens, whole numbers of the shape "
                "(samples, positions)"
            )
        if target is None:
            if inputs.shape[1] < 2:
                raise UserError(
                    f"the sequences of the {part} data have one token, so there is none to "
                    "predict; give longer ones"
                )
            inputs, target = inputs[:, :-1], inputs[:, 1:]
        whole = isinstance(target, Tensor) and not target.is_floating_point()
        if not whole and not self.any_target:
            raise UserError(
                f"the target of the {part} data is not whole numbers; give the token that follows "
                "each input, or sequences without a target"
            )
        return Split(inputs, target.long() if whole else self._cast(target))

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _check_numbers(self, target: Any, part: str) -> Tensor:
        if not isinstance(target, Tensor) or target.is_complex():
            raise UserError(
                f"the {part} data of a regression has no target; give (inputs, target), where the "
                "target is a tensor of numbers"
            )
        return target.to(self.dtype)

    def _check_classes(self, labels: Any, target: Any, part: str) -> Tensor:
        if _are_labels(labels):
            checked: Tensor = labels.long()
            return checked
        if self.any_target and isinstance(target, Tensor):
            return self._cast(target)
        if labels is None:
            raise UserError(
                f"the {part} data of a classification has no labels; give (inputs, labels), or "
                "kind='reconstruction' where the network repeats its inputs"
            )
        said = type(labels).__name__
        if isinstance(labels, Tensor):
            said = f"of shape {tuple(labels.shape)} and type {labels.dtype}"
        raise UserError(
            f"the labels of the {part} data are {said}; a classification needs one whole number "
            "per sample: labels.long() with the shape (samples,)"
        )

    def _gather(self, data: Any, part: str) -> Samples:
        """Return the samples in memory; see :meth:`read`."""
        if isinstance(data, str | Path):
            data = self._open_folder(data)
        if isinstance(data, tuple) and any(isinstance(item, np.ndarray) for item in data):
            data = tuple(map(_as_tensor, data))
        if isinstance(data, tuple) and len(data) in (2, 3):
            _check_pair(data, part)
        if isinstance(data, Tensor | np.ndarray):
            data = Batch(_as_tensor(data))
        if isinstance(data, TensorDataset) and len(data.tensors) == 1:
            data = Batch(*data.tensors)
        if not isinstance(data, Batch):
            data = as_data(data)
        if isinstance(data, Batch):
            data = Samples(*data)
        if not isinstance(data, Dataset):
            batches = _batches(data)
            if self.samples is None:
                return gather(self._bounded(batches, part))
            return self._drawn(batches, self.samples, part)
        count = sample_count(data)
        if count == 0:
            raise UserError(f"the {part} data has no samples; give at least {LEAST_TRAINING}")
        used = count if self.samples is None else min(count, self.samples)
        if not isinstance(data, Samples):
            size = _bytes(take(data, torch.arange(1)))
            if size * used > MOST_BYTES:
                raise self._too_large(used, size * used, part)
        if used < count:
            return draw(data, used, self.seed)
        if isinstance(data, Samples):
            return data
        starts = range(0, count, _READ_AT_ONCE)
        return gather(
            take(data, torch.arange(start, min(start + _READ_AT_ONCE, count))) for start in starts
        )

    def _bounded(self, batches: Iterable[Batch], part: str) -> Iterator[Batch]:
        """Yield batches as long as they fit into memory together."""
        total = count = 0
        for batch in batches:
            total, count = total + _bytes(batch), count + len(tensors_of(batch.inputs)[0])
            if total > MOST_BYTES:
                raise self._too_large(count, total, part)
            yield batch

    def _drawn(self, batches: Iterable[Batch], most: int, part: str) -> Samples:
        """Read all batches and keep samples of random numbers, without the others in memory."""
        generator = torch.Generator().manual_seed(self.seed)
        held: list[Batch] = []
        numbers = torch.empty(0, dtype=torch.float64)
        for batch in batches:
            held.append(batch)
            drawn = torch.rand(len(tensors_of(batch.inputs)[0]), generator=generator).double()
            numbers = torch.cat([numbers, drawn])
            if len(numbers) > 2 * most or sum(map(_bytes, held)) > MOST_BYTES:
                chosen = numbers.argsort(stable=True)[:most].sort().values
                held, numbers = [gather(iter(held))[chosen]], numbers[chosen]
                if (size := _bytes(held[0])) > MOST_BYTES:
                    raise self._too_large(len(numbers), size, part)
        return gather(iter(held)).select(numbers.argsort(stable=True)[:most].sort().values)

    def _too_large(self, count: int, size: int, part: str) -> UserError:
        return UserError(
            f"{count:,} samples of the {part} data take {format_size(size)} of memory, and a part "
            f"may take {format_size(MOST_BYTES)}, since every worker holds it; give a smaller part "
            "or the most samples to draw from it (samples)"
        )

    def _open_folder(self, source: str | Path) -> Dataset[Batch]:
        shape = self.image_shape(source)
        return open_images(source, shape, repeats=self.kind == "reconstruction")

    def image_shape(self, source: str | Path) -> Shape:
        """Return channels, height and width of the images to read; UserError if there are none."""
        if self.kind in PREDICTED:
            raise UserError(
                f"the data {str(source)!r} are images, which have no {PREDICTED[self.kind]} to "
                f"predict; give tensors (inputs, target) or a data set of torch for a task of kind "
                f"{self.kind}"
            )
        if self.shape is None:
            raise UserError(
                f"the data {str(source)!r} are images, and the size that the network takes is not "
                "known; give example_inputs, such as torch.zeros(1, 3, 32, 32)"
            )
        return self.shape


def _batches(data: Iterable[Any]) -> Iterator[Batch]:
    for item in data:
        single = isinstance(item, list | tuple) and not isinstance(item, Batch)
        yield as_batch(item[0] if single and len(item) == 1 else item)


def _check_pair(data: tuple[Any, ...], part: str) -> None:
    """Raise UserError where a pair (inputs, target) would be taken for a sequence of batches."""
    inputs, target = data[:2]
    if isinstance(inputs, Mapping) and isinstance(target, Tensor | np.ndarray | list):
        raise _no_tensor(inputs, part)
    if isinstance(inputs, list) and not (inputs and isinstance(inputs[0], Tensor | np.ndarray)):
        raise UserError(
            f"the inputs of the {part} data are a list; give a tensor or an array, such as "
            "torch.tensor(inputs)"
        )


def _no_tensor(inputs: Any, part: str) -> UserError:
    return UserError(
        f"the inputs of the {part} data are a {type(inputs).__name__}; a task takes networks of "
        "one input tensor, so wrap a network of several in a module that takes them apart"
    )


def _as_tensor(value: Any) -> Any:
    return torch.as_tensor(value) if isinstance(value, np.ndarray) else value


def _are_labels(target: Any) -> bool:
    whole = isinstance(target, Tensor) and not (target.is_floating_point() or target.is_complex())
    return whole and target.ndim == 1 and target.dtype != torch.bool


def _bytes(batch: Batch) -> int:
    return sum(tensor.nbytes for tensor in tensors_of(tuple(batch)))


def read_parts(how: Reading, train: Any, validation: Any, test: Any) -> Parts:
    """Read the parts of the data of a task; draw the missing ones from the training data.

    Parts that are drawn are disjoint, and classes have their shares of each. Training and
    validation samples are put into a random order, of which searches take the first ones.

    Args:
        how: how data becomes a split.
        train: the training data, see :meth:`Reading.read`.
        validation: the validation data; None to draw it.
        test: the test data, or a function that reads it when it is asked for; None to draw it.

    Raises:
        UserError: as of :meth:`Reading.read`, or there are too few samples.
    """
    if isinstance(train, str) and train in DATA_SETS and validation is None and test is None:
        return read_data_set(how, train)
    whole = how.read(train, "training")
    if len(whole) < LEAST_TRAINING:
        raise UserError(
            f"the training data has {pluralize(len(whole), 'sample')}; a task needs at least "
            f"{LEAST_TRAINING}, of which missing validation and test data are drawn"
        )
    held = round(HELD_OUT * len(whole))
    sizes = [held if part is None else 0 for part in (validation, test)]
    if any(sizes) or not isinstance(train, Split):  # a split stands in a random order already
        for_validation, for_test, rest = _draw(whole, (*sizes, len(whole) - sum(sizes)), how.seed)
    else:
        rest = whole
    if validation is None:
        judged = for_validation
    else:
        judged = how.read(validation, "validation")
        if not isinstance(validation, Split):
            (judged,) = _draw(judged, (len(judged),), how.seed)
    if test is None:
        return Parts(rest, judged, _Held(for_test))
    return Parts(
        rest, judged, _Read(how, test) if callable(test) else _Held(how.read(test, "test"))
    )


def read_data_set(
    how: Reading,
    name: str,
    *,
    imagenet: bool = False,
    data_root: str | Path | None = None,
    download: bool = False,
) -> Parts:
    """Read the parts of a known data set, each image brought to what the network takes.

    Raises:
        UserError: the data set is missing or damaged, or its images do not fit the network.
    """
    shape, repeats = how.image_shape(name), how.kind == "reconstruction"
    known = load_data(name, data_root, download=download)

    def fit(part: Split, title: str) -> Split:
        images = images_of(name, part, shape, imagenet=imagenet, repeats=repeats)
        return how.read(images, title)

    return Parts(
        fit(known.train, "training"),
        fit(known.validation, "validation"),
        _Held(fit(known.read_test(), "test")),
    )


class _Held:
    """Returns a split that is in memory."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __call__(self) -> Split:
        return self._split


class _Read:
    """Reads the test data with a function of the user when it is asked for."""

    def __init__(self, how: Reading, read: Callable[[], Any]) -> None:
        self._how, self._read = how, read

    def __call__(self) -> Split:
        return self._how.read(self._read(), "test")


def _draw(split: Split, sizes: tuple[int, ...], seed: int) -> list[Split]:
    """Cut a split into parts of these sizes, each in random order."""
    if split.labels is not None and split.labels.ndim == 1:
        parts = stratified_split(split.labels.cpu(), sizes, seed % 2**32)
        return [split.select(torch.from_numpy(part)) for part in parts]
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
    ends = list(accumulate(sizes, initial=0))
    return [split.select(order[start:end]) for start, end in pairwise(ends)]


def digest_of(parts: Parts) -> str:
    """Return the SHA-256 of the samples of all parts."""
    splits = (parts.train, parts.validation, parts.read_test())
    tensors = (tensor for split in splits for tensor in (split.inputs, split.target, split.labels))
    return f"sha256:{tensor_digest(tensor for tensor in tensors if tensor is not None)}"
