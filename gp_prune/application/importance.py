"""A metric inside other people's pruners: Torch-Pruning's and torch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.application.batches import as_batches
from gp_prune.application.request import checked_data, example_batch
from gp_prune.conventions import Conventions
from gp_prune.errors import UserError
from gp_prune.metric import Metric
from gp_prune.pruning import readers, trace
from gp_prune.pruning.group_importance import GroupImportance
from gp_prune.pruning.method import ImportanceScores, MetricUnstructured
from gp_prune.pruning.modules import Prunable, weight_of
from gp_prune.pruning.weights import flat_scores
from gp_prune.statistics import Loss, collect
from gp_prune.statistics.state import device_of

_AGAIN = 2  # the data may be gone through more than once


def as_importance(
    metric: Metric | str,
    model: nn.Module,
    example_inputs: Any = None,
    *,
    data: Iterable[Any] = (),
    loss: Loss | None = None,
    conventions: Conventions | None = None,
    seed: int = 0,
) -> Callable[[Any], Tensor | None]:
    """A metric of channels as ``importance=`` of ``torch_pruning.pruner.BasePruner``.

    The layers are scored when the pruner first asks, and again when the network has changed since:
    after a step of pruning, and after training. Scores are divided by the metric's normaliser and
    joined over coupled layers by its conventions; the pruner decides what is ranked together.

    Args:
        metric: a metric of channels, or what :meth:`Metric.load` takes.
        model: the network that the pruner cuts, in place.
        example_inputs: a batch that the model can be called with; needed by metrics that read the
            outgoing weights, and by those of synaptic flow without data.
        data: calibration batches, for metrics that measure something; see
            :func:`gp_prune.prune`.
        loss: ``loss(output, target)``, a mean over the batch, for metrics that need gradients.
        conventions: in place of those of the metric.
        seed: seed of everything random.

    Returns:
        A function from a ``torch_pruning.Group`` to one score per channel of its root. It raises
        :class:`~gp_prune.pruning.DegenerateScores` where the metric ranks nothing, on which
        Torch-Pruning by itself would prune nothing, or by position, without a word.

    Raises:
        UserError: the metric ranks single weights, or lacks its data.
    """
    metric = Metric.load(metric) if isinstance(metric, str) else metric
    if metric.granularity != "channel":
        raise UserError(
            f"metric {metric.name!r} ranks single weights, Torch-Pruning removes channels; use a "
            "metric of channels, or as_pruning_method()"
        )
    scores = _LayerScores(metric, model, example_inputs, data, loss, seed)
    return GroupImportance(model, scores, conventions or metric.conventions)


def importance_scores(
    metric: Metric | str,
    model: nn.Module,
    parameters: Iterable[tuple[nn.Module, str]] | None = None,
    example_inputs: Any = None,
    *,
    data: Iterable[Any] = (),
    loss: Loss | None = None,
    conventions: Conventions | None = None,
    seed: int = 0,
) -> ImportanceScores:
    """Scores of weights as ``importance_scores=`` of ``prune.global_unstructured``.

    Args:
        metric: a metric of single weights, or what :meth:`Metric.load` takes.
        model: the network; it is only read.
        parameters: the pairs (module, ``"weight"``) to score; by default those of all layers.
        example_inputs: see :func:`as_importance`.
        data: calibration batches, for metrics that measure something.
        loss: ``loss(output, target)``, a mean over the batch, for metrics that need gradients.
        conventions: in place of those of the metric; the normaliser is used.
        seed: seed of everything random.

    Returns:
        (module, ``"weight"``) -> scores in the shape of the weight and on its device; higher =
        keep. Asked for another parameter, they refuse it, where torch would rank its values.

    Raises:
        DegenerateScores: the scores of a layer are not finite or all equal.
        UserError: the metric ranks channels or lacks its data, or a parameter is not the weight of
            a convolution or linear layer of the model.
    """
    metric = _of_weights(metric)
    names = {module: name for name, module in reversed(list(model.named_modules()))}
    layers = None if parameters is None else [_layer(pair, names) for pair in parameters]
    scores = _LayerScores(metric, model, example_inputs, data, loss, seed, layers)()
    used, found = conventions or metric.conventions, ImportanceScores()
    for name in scores:
        weight = weight_of(model, name)
        flat = torch.from_numpy(flat_scores(model, name, scores, used))
        key = model.get_submodule(name), "weight"
        found[key] = flat.reshape(weight.shape).to(weight.device)
    return found


def as_pruning_method(metric: Metric | str) -> type[MetricUnstructured]:
    """What ``prune.global_unstructured`` takes as ``pruning_method=`` to rank a metric's scores.

    Together with :func:`importance_scores`, which measures them::

        prune.global_unstructured(
            parameters,
            pruning_method=metric.as_pruning_method(),
            importance_scores=metric.importance_scores(model, parameters),
            amount=0.5,
        )

    Torch's own methods rank the magnitudes of importance scores, so that a weight of score -10
    stays and one of score 3 goes; this one ranks the scores, refuses NaN, and breaks ties by
    position.

    Args:
        metric: a metric of single weights, or what :meth:`Metric.load` takes.

    Raises:
        UserError: the metric ranks channels.
    """
    _of_weights(metric)
    return MetricUnstructured


class _LayerScores:
    """Layer name -> scores of a network as it is now, measured when it has changed."""

    def __init__(
        self,
        metric: Metric,
        model: nn.Module,
        example_inputs: Any,
        data: Iterable[Any],
        loss: Loss | None,
        seed: int,
        layers: Sequence[str] | None = None,
    ) -> None:
        if "outgoing" in metric.needs and example_inputs is None:
            raise UserError(
                f"metric {metric.name!r} needs the weights that read each channel, which are found "
                "by running the network; give example_inputs"
            )
        self._metric, self._model, self._loss, self._seed = metric, model, loss, seed
        self._inputs = example_inputs
        self._data = checked_data(metric, data, _AGAIN)
        self._layers = layers
        self._scores: dict[str, Tensor] = {}
        self._state: tuple[object, ...] = ()

    def __call__(self) -> dict[str, Tensor]:
        """The scores of all layers that the network runs."""
        if self._state != _state(self._model):
            self._scores = self._measured()
            self._state = _state(self._model)  # measuring itself may write and restore weights
        return self._scores

    def _measured(self) -> dict[str, Tensor]:
        inputs = self._inputs
        if inputs is not None:
            inputs = example_batch(inputs, device_of(self._model))
        outgoing = None
        if "outgoing" in self._metric.needs:
            outgoing = readers(trace(self._model, inputs))
        records = collect(
            self._model,
            self._layers,
            as_batches(self._data),
            needs=self._metric.needs,
            loss=self._loss,
            seed=self._seed,
            example_inputs=inputs,
            outgoing=outgoing,
        )
        return {name: self._metric.scores(records.pop(name)) for name in list(records)}


def _state(model: nn.Module) -> tuple[object, ...]:
    """Something that differs when a parameter or buffer is another or was written to."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return tuple(
        (name, id(t), 0 if t.is_inference() else t._version, tuple(t.shape)) for name, t in tensors
    )


def _of_weights(metric: Metric | str) -> Metric:
    metric = Metric.load(metric) if isinstance(metric, str) else metric
    if metric.granularity != "weight":
        raise UserError(
            f"metric {metric.name!r} ranks channels, torch.nn.utils.prune single weights; use a "
            "metric of weights such as magnitude, or prune()"
        )
    return metric


def _layer(parameter: tuple[nn.Module, str], names: dict[nn.Module, str]) -> str:
    """The name of the layer whose weight a pair (module, parameter name) is."""
    module, field = parameter
    if module not in names or not isinstance(module, Prunable) or field != "weight":
        raise UserError(
            f"parameter {field!r} of {type(module).__name__} has no scores; give the weights of "
            "convolutions and linear layers of the model"
        )
    return names[module]
