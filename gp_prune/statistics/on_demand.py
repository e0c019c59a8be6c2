"""Measure the layers of a model step by step, each step when a formula first asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from gp_prune.language.record import LayerRecord
from gp_prune.statistics.batches import Batch, Loss
from gp_prune.statistics.coverage import LayerCoverage, coverage_of
from gp_prune.statistics.measure import prepare_request
from gp_prune.statistics.records import Consumer, LayerPlace
from gp_prune.statistics.running import measurement

_WEIGHTS = frozenset({"noise", "outgoing", "network", "synflow"})
_MAPS = frozenset({"inputs", "outputs", "labels", "centroids"})
_STEPS = (
    _MAPS,
    frozenset({"second_moments", "kernels", "map_ranks", "map_spectra", "map_norms"}),
    frozenset({"gradients", "output_gradients"}),
    frozenset({"fisher", "sample_fisher", "hessian"}),
)
"""What is measured together, in one pass over the data (two with the Hessian). Each step takes the
same passes whatever was measured before, so that its numbers do not depend on the order."""


class Measurements:
    """The records of all layers of a model, with what has been asked for so far.

    The values are those of :func:`~gp_prune.statistics.collect` with all needs, up to rounding. How
    much is kept of each layer is decided for all needs together, so the limit of memory holds when
    everything has been measured.

    Args:
        model: the model, which must stay as it is.
        batches: the calibration data; it must yield the same samples every time.
        needs: what may be asked for, a subset of :data:`gp_prune.language.record.NEEDS`.
        max_memory: as for :func:`~gp_prune.statistics.collect`.
        loss: mean loss over a batch.
        seed: seed of the noise and, where the limit of memory is met, of the samples.
        outgoing: name of a layer -> the layers that read it.
        places: name of a layer -> its place in the network.

    Attributes:
        records: name -> what has been measured of a layer; a field that was not asked for is None.

    Raises:
        UserError: as by :func:`~gp_prune.statistics.collect`.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        *,
        needs: AbstractSet[str],
        max_memory: int | None,
        loss: Loss | None,
        seed: int,
        outgoing: Mapping[str, Sequence[Consumer]],
        places: Mapping[str, LayerPlace],
    ) -> None:
        self._run, self._data = prepare_request(
            model, None, batches,
            needs=frozenset(needs), max_memory=max_memory, loss=loss, seed=seed, outgoing=outgoing,
            places=places,
        )  # fmt: skip
        self._data.expect(2)  # no step reads the batch that was looked at; all begin alike
        self._left = [step & needs for step in _STEPS]
        self.records: dict[str, LayerRecord] = {}
        self._measure(_WEIGHTS & needs)

    @property
    def coverage(self) -> LayerCoverage:
        """Return how much of the data each measurement saw."""
        return coverage_of(self.records.values())

    def ask(self, needs: AbstractSet[str]) -> bool:
        """Measure what is needed and was not measured before; return whether that was anything.

        Raises:
            UserError: as by :func:`~gp_prune.statistics.collect`.
        """
        steps = [step for step in self._left if step & needs]
        if not steps:
            return False
        # The maps come first: their size decides how formulas are evaluated, see Interpreter.
        first = [step for step in self._left if step & _MAPS]
        for step in dict.fromkeys([*first, *steps]):
            self._measure(step)
            self._left.remove(step)
        return True

    def _measure(self, needs: frozenset[str]) -> None:
        # The gradients by the weights of consumers belong to the gradients.
        asked = needs | (self._run.asked & {"outgoing"})
        run = replace(self._run, asked=asked, needs=asked)
        with torch.inference_mode(False):
            for group in run.sampling.groups:
                with measurement(run.model, run.seed):
                    measured = run.measure(self._data, group)
                for name in group:
                    record = measured.record(name, run.home)
                    measured.forget(name)
                    known = self.records.get(name)
                    self.records[name] = record if known is None else _joined(known, record)


def _joined(known: LayerRecord, more: LayerRecord) -> LayerRecord:
    """Return a record with the measurements of two of the same layer."""
    added: dict[str, Any] = {
        field.name: getattr(more, field.name)
        for field in fields(known)
        if getattr(known, field.name) is None
    }
    coverage = {**known.coverage, **more.coverage}
    return replace(known, **added, coverage={name: coverage[name] for name in sorted(coverage)})
