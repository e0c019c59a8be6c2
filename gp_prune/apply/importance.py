"""Scores of layers as an importance of Torch-Pruning's own pruners."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gp_prune.apply.batches import calibration_batches, example_batch
from gp_prune.apply.scoring import LayerScores, Measuring, as_metric, measure_each, warn_of_limit
from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import trace
from gp_prune.pruning.graph.architecture import Member
from gp_prune.pruning.modules import Prunable, is_depthwise, weight_of
from gp_prune.pruning.select.scores import join_member_scores
from gp_prune.pruning.select.weights import flatten_scores
from gp_prune.pruning.torch_methods import ImportanceScores, MetricUnstructured
from gp_prune.statistics import Loss
from gp_prune.statistics.running import device_of
from gp_prune.training.checkpoint import named_tensors
from gp_prune.training.samples import Data

_AGAIN = 2  # the data may be gone through more than once


def as_importance(
    metric: Metric | str,
    model: nn.Module,
    example_inputs: Any = None,
    *,
    data: Data = (),
    loss: Loss | None = None,
    conventions: Conventions | None = None,
    samples: int | None = None,
    max_memory: int | str | None = None,
    seed: int = 0,
) -> Callable[[Any], Tensor | None]:
    """Return a metric of channels as ``importance=`` of ``torch_pruning.pruner.BasePruner``.

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
        samples: how many samples of the data are used, see :func:`gp_prune.prune`.
        max_memory: most memory for what is measured, see :func:`gp_prune.prune`.
        seed: seed of everything random.

    Returns:
        A function from a ``torch_pruning.Group`` to one score per channel of its root. It raises
        :class:`~gp_prune.pruning.DegenerateScores` where the metric ranks nothing, on which
        Torch-Pruning by itself would prune nothing, or by position, without a message.

    Raises:
        UserError: the metric ranks single weights, or lacks its data.
    """
    metric = as_metric(metric)
    if metric.granularity != "channel":
        raise UserError(
            f"metric {metric.name!r} ranks single weights, Torch-Pruning removes channels; use a "
            "metric of channels, or as_pruning_method()"
        )
    measuring = Measuring(samples, max_memory, seed)
    scores = _LayerScores(metric, model, example_inputs, data, loss, measuring)
    return GroupImportance(model, scores, conventions or metric.conventions)


def importance_scores(
    metric: Metric | str,
    model: nn.Module,
    parameters: Iterable[tuple[nn.Module, str]] | None = None,
    example_inputs: Any = None,
    *,
    data: Data = (),
    loss: Loss | None = None,
    conventions: Conventions | None = None,
    samples: int | None = None,
    max_memory: int | str | None = None,
    seed: int = 0,
) -> ImportanceScores:
    """Return scores of weights as ``importance_scores=`` of ``prune.global_unstructured``.

    Args:
        metric: a metric of single weights, or what :meth:`Metric.load` takes.
        model: the network; it is only read.
        parameters: the pairs (module, ``"weight"``) to score; by default those of all layers.
        example_inputs: see :func:`as_importance`.
        data: calibration batches, for metrics that measure something.
        loss: ``loss(output, target)``, a mean over the batch, for metrics that need gradients.
        conventions: in place of those of the metric; the normaliser is used.
        samples: how many samples of the data are used, see :func:`gp_prune.prune`.
        max_memory: most memory for what is measured, see :func:`gp_prune.prune`.
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
    measuring = Measuring(samples, max_memory, seed)
    scores = _LayerScores(metric, model, example_inputs, data, loss, measuring, layers)()
    used, found = conventions or metric.conventions, ImportanceScores()
    for name in scores:
        weight = weight_of(model, name)
        flat = torch.from_numpy(flatten_scores(model, name, scores, used))
        key = model.get_submodule(name), "weight"
        found[key] = flat.reshape(weight.shape).to(weight.device)
    return found


def as_pruning_method(metric: Metric | str) -> type[MetricUnstructured]:
    """Return the ``pruning_method=`` of ``prune.global_unstructured`` that ranks a metric's scores.

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
    """Scores of a network as it is now, measured when it has changed."""

    def __init__(
        self,
        metric: Metric,
        model: nn.Module,
        example_inputs: Any,
        data: Data,
        loss: Loss | None,
        measuring: Measuring,
        layers: Sequence[str] | None = None,
    ) -> None:
        if "outgoing" in metric.needs and example_inputs is None:
            raise UserError(
                f"metric {metric.name!r} needs the weights that read each channel, which are found "
                "by running the network; give example_inputs"
            )
        self._metric, self._model, self._loss = metric, model, loss
        self._measuring = measuring
        self._inputs = example_inputs
        self._data = calibration_batches(
            metric, data, passes=_AGAIN, samples=measuring.samples, seed=measuring.seed
        )
        self._layers = layers
        self._scores: Mapping[str, Tensor] = {}
        self._state: tuple[object, ...] = ()

    def __call__(self) -> Mapping[str, Tensor]:
        """Return the scores of all layers that the network runs."""
        if self._state != _state(self._model):
            self._scores = self._measure()
            self._state = _state(self._model)  # measuring itself may write and restore weights
        return self._scores

    def _measure(self) -> Mapping[str, Tensor]:
        inputs, architecture = self._inputs, None
        if inputs is not None:
            inputs = example_batch(inputs, device_of(self._model))
        if "outgoing" in self._metric.needs:
            architecture = trace(self._model, inputs)
        measured = measure_each(
            self._model,
            self._metric,
            self._data,
            layers=self._layers,
            architecture=architecture,
            loss=self._loss,
            max_memory=self._measuring.memory,
            seed=self._measuring.seed,
            example_inputs=inputs,
        )
        scored = LayerScores.gather(self._metric, measured, self._measuring.memory)
        warn_of_limit(scored)
        return scored.scores


def _state(model: nn.Module) -> tuple[object, ...]:
    """Return a value that differs when a parameter or buffer is another or was written to."""
    return tuple(
        (name, id(t), 0 if t.is_inference() else t._version, tuple(t.shape))
        for name, t in named_tensors(model)
    )


def _of_weights(metric: Metric | str) -> Metric:
    metric = as_metric(metric)
    if metric.granularity != "weight":
        raise UserError(
            f"metric {metric.name!r} ranks channels, torch.nn.utils.prune single weights; use a "
            "metric of weights such as magnitude, or prune()"
        )
    return metric


def _layer(parameter: tuple[nn.Module, str], names: dict[nn.Module, str]) -> str:
    """Return the name of the layer whose weight a pair (module, parameter name) is."""
    module, field = parameter
    if module not in names or not isinstance(module, Prunable) or field != "weight":
        raise UserError(
            f"parameter {field!r} of {type(module).__name__} has no scores; give the weights of "
            "convolutions and linear layers of the model"
        )
    return names[module]


class GroupImportance:
    """One score per channel of a ``torch_pruning.Group``, as ``BasePruner`` asks for it.

    The scores of the layers that produce the channels of the group are joined as the conventions
    say; layers that only read them do not count. Whether groups are ranked by themselves or all
    together is for the pruner to say (``global_pruning``).

    Args:
        model: the network that the pruner cuts.
        layer_scores: gives layer name -> scores (o,) for the network as it is now.
        conventions: ``normaliser`` and ``join`` are used.
    """

    def __init__(
        self,
        model: nn.Module,
        layer_scores: Callable[[], Mapping[str, Tensor]],
        conventions: Conventions,
    ) -> None:
        self._model = model
        self._layer_scores = layer_scores
        self._conventions = conventions

    def __call__(self, group: Any) -> Tensor | None:
        """Return the scores (channels of the group's root,), float64; higher = keep.

        Returns:
            None, which tells the pruner to leave the group alone, if no layer with scores of its
            own produces the channels.

        Raises:
            DegenerateScores: scores are not finite or all equal.
            UserError: the group is of another network, or no layer produces one of its channels.
        """
        size = len(group[0].idxs)
        members = self._members(group, size)
        if not members:
            return None
        if not np.any([member.counts for member in members], axis=0).all():
            raise UserError(
                f"some channels of the group of layer {members[0].layer!r} are produced by no "
                "layer with scores; name it in ignored_layers"
            )
        scores = join_member_scores(
            members, size, members[0].layer, self._layer_scores(), self._conventions, {}
        )
        return torch.from_numpy(np.array(scores))

    def _members(self, group: Any, size: int) -> list[Member]:
        """Return the layers that produce the channels of a group, in module order."""
        position = {root: channel for channel, root in enumerate(group[0].idxs)}
        names: dict[nn.Module, str] = {}
        for name, module in self._model.named_modules():
            names.setdefault(module, name)
        pairs: dict[str, dict[tuple[int, int], None]] = {}
        for item in group:
            if not _produces(item):
                continue
            layer = item.dep.target.module
            if layer not in names:
                raise UserError(
                    f"the group holds a {type(layer).__name__} that the scored network does not "
                    "have; make the importance from the network that the pruner cuts"
                )
            # A root of None says that Torch-Pruning has lost the way back to the root's channels.
            if position.keys() >= set(item.root_idxs):
                numbered = zip(item.idxs, (position[root] for root in item.root_idxs), strict=True)
                pairs.setdefault(names[layer], {}).update(dict.fromkeys(numbered))
        order = {name: number for number, name in enumerate(names.values())}
        return [
            _member(self._model.get_submodule(layer), layer, np.array(list(pairs[layer])), size)
            for layer in sorted(pairs, key=order.__getitem__)
        ]


def _produces(item: Any) -> bool:
    """Return whether an item of a group is the output side of a layer that has scores."""
    module = item.dep.target.module
    if not isinstance(module, Prunable):
        return False
    return is_depthwise(module) or item.dep.handler.__name__ != "prune_in_channels"


def _member(module: Any, layer: str, pairs: Any, size: int) -> Member:
    """Return a layer's part in a group from its pairs (output entry, channel of the group)."""
    entries, channels = pairs[:, 0], pairs[:, 1]
    width = int(getattr(module, "out_channels", 0) or module.out_features)
    everything = np.arange(size)
    plain = width == size and (entries == everything).all() and (channels == everything).all()
    counts = np.bincount(channels, minlength=size)
    return Member(layer, width, None if plain else entries, channels, counts)
