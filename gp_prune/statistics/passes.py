"""Read the calibration data, as often as it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from operator import length_hint

import torch
from torch import Tensor

from gp_prune.errors import UserError
from gp_prune.statistics.batches import Batch, Progress, batch_size, check_batches, select_samples
from gp_prune.statistics.running import seed_generators
from gp_prune.statistics.sampling import Census


class DataPasses:
    """Passes over the same batches.

    Args:
        batches: the data.
        device: where it goes.
        progress: is told of every batch that was dealt with.
        labelled: whether the labels are wanted.
        seed: every pass but an only one starts with this state of the random generators, so that
            data and models that draw random numbers are the same in all of them.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        device: torch.device,
        progress: Progress | None,
        *,
        labelled: bool,
        seed: int,
    ) -> None:
        self._batches = batches
        self._device = device
        self._progress = progress
        self._labelled = labelled
        self._seed = seed
        self._ahead: Iterator[Batch] | None = None
        self._passes = 1
        self._done = 0
        self._chosen: Tensor | None = None
        self._samples: int | None = None

    @property
    def samples(self) -> tuple[int, int]:
        """Return how many samples are seen and how many there are, as far as that is known yet."""
        all_of_them = self._samples or 0
        return (all_of_them if self._chosen is None else len(self._chosen)), all_of_them

    def keep(self) -> None:
        """Keep batches that can be iterated only once in memory."""
        if isinstance(self._batches, Iterator):
            self._batches = list(self._batches)

    def peek(self) -> Batch:
        """Return the first batch.

        Raises:
            UserError: there is none.
        """
        stream = self._pass()
        first = next(stream, None)
        if first is None:
            raise UserError("the calibration data has no samples; pass at least one batch")
        self._ahead = chain([first], stream)
        return first

    def census(self) -> Census:
        """Count samples and classes, without running the model."""
        samples = classes = 0
        for batch in check_batches(self._batches, torch.device("cpu"), labelled=self._labelled):
            samples += batch_size(batch.inputs)
            if batch.labels is not None:
                classes = max(classes, int(batch.labels.max()) + 1)
        self._samples = samples
        return Census(samples, classes)

    def choose(self, samples: Tensor | None) -> None:
        """See these samples alone, given by their sorted numbers; None for all of them."""
        self._chosen = samples

    def expect(self, passes: int) -> None:
        """Tell how many passes there will be."""
        self._passes = passes
        if passes > 1:
            self._ahead = None

    def read(self) -> Iterator[Batch]:
        """Pass over the data.

        Raises:
            UserError: it has another number of samples than before.
        """
        if self._ahead is not None:
            stream, self._ahead = self._ahead, None
        else:
            seed_generators(self._seed)
            stream = self._pass()
        samples = 0
        for batch in stream:
            start, samples = samples, samples + batch_size(batch.inputs)
            some = batch if self._chosen is None else self._some(batch, start, samples)
            if some is not None:
                yield some
        if self._samples not in (None, samples):
            raise UserError(
                f"the calibration data had {self._samples} samples at first and {samples} when it "
                "was read again; give a list of batches, or a loader that yields all of them again"
            )
        self._samples = samples

    def _some(self, batch: Batch, start: int, stop: int) -> Batch | None:
        """Return those samples of a batch that are seen; its numbers are from ``start``."""
        assert self._chosen is not None
        rows = self._chosen[(self._chosen >= start) & (self._chosen < stop)] - start
        return select_samples(batch, rows) if len(rows) else None

    def _pass(self) -> Iterator[Batch]:
        return check_batches(self._told(), self._device, labelled=self._labelled)

    def _told(self) -> Iterator[Batch]:
        """Yield the batches of a pass; the progress is told when each has been dealt with."""
        size = 0 if self._progress is None else length_hint(self._batches, 0)
        number = size * self._done
        for batch in self._batches:
            yield batch
            number += 1
            if self._progress is not None:
                self._progress(number, size * self._passes or None)
        self._done += 1
