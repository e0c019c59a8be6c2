"""Score the layers of a network on calibration data, once for any number of budgets.

:func:`score_layers` takes the arguments of a user, :func:`measure_scores` what is checked already.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from gp_prune.apply.batches import as_batches, example_batch, is_nothing
from gp_prune.apply.options import needs_data
from gp_prune.base.sizes import parse_size
from gp_prune.errors import SEED, UserError, check_value, pluralize, whole
from gp_prune.language.primitive import Operand
from gp_prune.language.record import Coverage
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Architecture, consumers, layer_places, trace
from gp_prune.pruning.attention.heads import open_attention
from gp_prune.statistics import Batch, Forward, Loss, Progress, collect_each
from gp_prune.statistics.coverage import (
    CoverageWarning,
    LayerCoverage,
    coverage_of,
    describe_limit,
)
from gp_prune.statistics.running import as_device, copy_model, device_of
from gp_prune.training.checkpoint import named_tensors
from gp_prune.training.network import check_model
from gp_prune.training.samples import Data, tensor_digest

_SAME_WITHOUT_NORM = frozenset({"W", "b"})
"""Operands that are the same whether a batch norm follows or not."""


@dataclass(frozen=True)
class Measuring:
    """How much is measured: checked once, in Python and on the command line.

    Attributes:
        samples: how many samples of the data are used; None means all.
        max_memory: most memory, a size with its unit or bytes; None means the default.
        seed: seed of everything random.

    Raises:
        UserError: a value is out of range.
    """

    samples: int | None
    max_memory: int | str | None
    seed: int

    def __post_init__(self) -> None:
        """Check the fields."""
        check_value("seed", self.seed, SEED)
        if self.samples is not None:
            check_value("samples", self.samples, whole(1))
        self.memory  # noqa: B018 - checked here

    @cached_property
    def memory(self) -> int | None:
        """Return the most bytes; None means the default."""
        return None if self.max_memory is None else parse_size(self.max_memory, "max_memory")


@dataclass(frozen=True, eq=False, repr=False)
class LayerScores:
    """The scores of a network's layers by a metric, which :func:`gp_prune.prune` takes as one.

    Attributes:
        metric: what scored.
        scores: layer name -> scores (o,) of channels, (o, i, k) of single weights, or () of layers.
        coverage: layer name -> field -> how much of the data it saw.
        max_memory: most bytes for what was measured; None means the default.
        network: digest of the weights that were scored; empty where nobody compares it.
    """

    metric: Metric
    scores: Mapping[str, Tensor]
    coverage: LayerCoverage
    max_memory: int | None
    network: str = ""

    @classmethod
    def gather(
        cls,
        metric: Metric,
        measured: Iterable[tuple[str, Tensor, LayerCoverage]],
        max_memory: int | None,
    ) -> Self:
        """Return the scores that :func:`measure_each` yields by a metric, all together."""
        scores: dict[str, Tensor] = {}
        coverage: dict[str, Mapping[str, Coverage]] = {}
        for name, values, seen in measured:
            scores[name] = values
            coverage |= seen
        return cls(metric, scores, coverage, max_memory)

    def __repr__(self) -> str:
        """Return the metric and the number of layers, without the scores."""
        return f"<LayerScores of {pluralize(len(self.scores), 'layer')} by {self.metric.name!r}>"

    def select(self, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the scores of some layers.

        Raises:
            UserError: one of them was not scored.
        """
        for name in layers:
            if name not in self.scores:
                raise UserError(
                    f"layer {name!r} has no scores of metric {self.metric.name!r}; score the "
                    "network with score_layers() on the inputs that it is pruned with"
                )
        return {name: self.scores[name] for name in layers}

    def check_use(
        self,
        model: nn.Module,
        data: Any,
        *,
        loss: Loss | None,
        samples: int | None,
        memory: int | str | None,
        steps: int,
    ) -> None:
        """Raise UserError unless they fit a network and the other arguments of a cut.

        Args:
            model: the network; its weights must be those that were scored.
            data: must be empty, as what follows must be None: these are for scoring.
            loss: of a batch.
            samples: how many samples are used.
            memory: most memory.
            steps: must be 1, because every step scores what the one before left.
        """
        given = {"data": None if is_nothing(data) else data, "loss": loss, "samples": samples}
        for name, value in {**given, "max_memory": memory}.items():
            if value is not None:
                raise UserError(
                    f"{name} is for scoring, and the layers are scored already; leave {name} out, "
                    "or give the metric itself"
                )
        if steps != 1:
            raise UserError(
                f"steps is {steps}, and each step scores what the one before left; give the "
                "metric itself in place of its scores"
            )
        if _digest(model) != self.network:
            raise UserError(
                f"the scores of metric {self.metric.name!r} belong to other weights than the "
                "network has; score it again with score_layers()"
            )


def score_layers(
    model: nn.Module,
    metric: Metric | str | Path,
    data: Data = (),
    *,
    example_inputs: Any = None,
    loss: Loss | None = None,
    samples: int | None = None,
    max_memory: int | str | None = None,
    seed: int = 0,
    forward_fn: Forward | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> LayerScores:
    """Score the layers of a network by a metric, once for any number of budgets.

    ``prune(model, scores, inputs, keep_macs=0.5)`` takes the result in place of a metric, as long
    as the weights of the network are the same.

    Args:
        model: any network; it stays as it is.
        metric: a metric, or what :meth:`Metric.load` takes.
        data: calibration data, see :func:`gp_prune.prune`.
        example_inputs: a batch that the model can be called with; by default the first batch of
            the data.
        loss: ``loss(output, target)``, a mean over the batch, for metrics that need gradients.
        samples: how many samples of the data are used, see :func:`gp_prune.prune`.
        max_memory: most memory for what is measured, see :func:`gp_prune.prune`.
        seed: seed of everything random.
        forward_fn: ``forward_fn(model, inputs)`` runs the network where calling it is not the way.
        device: where to work; by default the model's device.
        progress: ``progress(done, total)``, called after each batch that is measured.

    Raises:
        UserError: an argument is not valid, the metric lacks its data, or the network cannot be
            run or followed.

    Warns:
        CoverageWarning: a layer does not fit ``max_memory`` and was measured in part.
    """
    metric = as_metric(metric)
    check_model(model)
    measuring = Measuring(samples, max_memory, seed)
    digest = _digest(model)
    network = open_attention(move(model, device))
    batches = as_batches(data, samples=samples, seed=seed)
    if example_inputs is None:
        example_inputs, batches = _first_inputs(batches)
    inputs = example_batch(example_inputs, device_of(network))
    # Without trial cuts, and with norms that channels span: no call of prune() wants other layers.
    architecture = trace(network, inputs, cut_residual=True, forward_fn=forward_fn, try_out=False)
    by_weight = metric.granularity == "weight"
    measured = measure_each(
        network,
        metric,
        batches if needs_data(metric) else (),
        layers=architecture.prunable_layers if by_weight else architecture.scored_layers,
        architecture=architecture,
        loss=loss,
        max_memory=measuring.memory,
        seed=seed,
        example_inputs=inputs,
        forward_fn=forward_fn,
        progress=progress,
    )
    scored = LayerScores.gather(metric, measured, measuring.memory)
    warn_of_limit(scored)
    return replace(scored, network=digest)


def warn_of_limit(scored: LayerScores) -> None:
    """Warn where the limit of memory was met, once."""
    limit = describe_limit(scored.coverage, scored.max_memory)
    if limit:
        warnings.warn(limit, CoverageWarning, stacklevel=3)


def _first_inputs(batches: Iterable[Batch]) -> tuple[Any, Iterable[Batch]]:
    """Return the inputs of the first batch, and all batches."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise UserError("there is nothing to run the network on; give data or example_inputs")
    return first.inputs, chain([first], stream) if stream is batches else batches


def measure_each(
    model: nn.Module,
    metric: Metric,
    batches: Iterable[Batch],
    *,
    layers: Sequence[str] | None = None,
    architecture: Architecture | None = None,
    loss: Loss | None = None,
    max_memory: int | None = None,
    seed: int = 0,
    example_inputs: Any = None,
    forward_fn: Forward | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[str, Tensor, LayerCoverage]]:
    """Score the layers of a network as it is now, one after the other.

    Args:
        model: the network; it stays as it is.
        metric: what scores.
        batches: what it measures on.
        layers: names of the layers to score; all by default.
        architecture: the channel groups, for metrics that read the outgoing weights, and formulas
            that read the place of a layer.
        loss: mean loss of a batch, for metrics that need gradients.
        max_memory: most bytes for what is measured; None means the default.
        seed: seed of everything random.
        example_inputs: a batch that the network can be called with.
        forward_fn: runs the network on inputs.
        progress: is told of every batch that was measured.

    Yields:
        Name of a layer, its scores, and how much of the data was seen.
    """
    operands = {n.name for n in metric.expression.nodes() if isinstance(n.head, Operand)}
    outgoing, places = None, None
    if "outgoing" in metric.needs:
        assert architecture is not None
        outgoing = consumers(architecture)
    if "network" in metric.needs:
        assert architecture is not None
        places = layer_places(architecture)
    records = collect_each(
        model,
        layers,
        batches,
        expressions=[metric.expression],
        max_memory=max_memory,
        loss=loss,
        seed=seed,
        example_inputs=example_inputs,
        outgoing=outgoing,
        places=places,
        forward_fn=forward_fn,
        progress=progress,
        norms=not operands <= _SAME_WITHOUT_NORM,
    )
    for name, record in records:  # one after the other: together they are several networks large
        yield name, metric.ranking_scores(record), coverage_of([record])


def as_metric(metric: Any) -> Metric:
    """Return a metric that is given as one, or by its name or file.

    Raises:
        UserError: it is none.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str | Path):
        return Metric.load(metric)
    raise UserError(
        f"the metric is of type {type(metric).__name__}; give a Metric, the name of a bundled "
        "one, the path of a metric file or a formula"
    )


def move(model: nn.Module, device: str | torch.device | None) -> nn.Module:
    """Return a network on a device: itself where it is there already, otherwise a copy."""
    if device is None or as_device(device) == device_of(model):
        return model
    return copy_model(model).to(as_device(device))


def _digest(model: nn.Module) -> str:
    """Tell a network by the names, types, shapes and values of its parameters and buffers."""
    tensors = dict(named_tensors(model))
    return f"{' '.join(tensors)} {tensor_digest(tensors.values())}"
