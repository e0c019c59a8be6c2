"""Floor 5: the uses of a metric, as methods of it; what they do stands on the floors above."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gp_prune.application.result import PrunedModel
    from gp_prune.conventions import Conventions
    from gp_prune.guided.mutation import MetricMutation
    from gp_prune.metric import Metric
    from gp_prune.pruning.method import ImportanceScores, MetricUnstructured
    from gp_prune.statistics import Loss


class MetricUses:
    """What a metric is for; the base of :class:`gp_prune.metric.Metric`."""

    def prune(self, model: nn.Module, example_inputs: Any, **options: Any) -> PrunedModel:
        """A pruned copy of a network: :func:`gp_prune.prune` with this metric.

        Args:
            model: any network that ``copy.deepcopy`` can copy; it is not changed.
            example_inputs: a batch that the model can be called with.
            options: a budget such as ``channels=0.5`` or ``macs=0.5``, and all else that
                :func:`gp_prune.prune` takes.
        """
        from gp_prune.application.prune import prune

        return prune(model, self._metric, example_inputs, **options)

    def as_importance(
        self,
        model: nn.Module,
        example_inputs: Any = None,
        *,
        data: Iterable[Any] = (),
        loss: Loss | None = None,
        conventions: Conventions | None = None,
        seed: int = 0,
    ) -> Callable[[Any], Tensor | None]:
        """This metric as ``importance=`` of ``torch_pruning.pruner.BasePruner``.

        See :func:`gp_prune.application.importance.as_importance` for arguments and errors.
        """
        from gp_prune.application.importance import as_importance

        return as_importance(
            self._metric, model, example_inputs,
            data=data, loss=loss, conventions=conventions, seed=seed,
        )  # fmt: skip

    def importance_scores(
        self,
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

        See :func:`gp_prune.application.importance.importance_scores` for arguments and errors.
        """
        from gp_prune.application.importance import importance_scores

        return importance_scores(
            self._metric, model, parameters, example_inputs,
            data=data, loss=loss, conventions=conventions, seed=seed,
        )  # fmt: skip

    def as_pruning_method(self) -> type[MetricUnstructured]:
        """What ``prune.global_unstructured`` takes as ``pruning_method=`` to rank these scores.

        See :func:`gp_prune.application.importance.as_pruning_method` for how the two go together.
        """
        from gp_prune.application.importance import as_pruning_method

        return as_pruning_method(self._metric)

    def as_mutation(self, temperature: float = 0.1, amount: float = 0.1) -> MetricMutation:
        """This metric as a mutation operator of the guided searches.

        Args:
            temperature: of the distribution over the ranks of the scores: 0 always takes the
                lowest scores, ``math.inf`` draws uniformly.
            amount: share of what is alive that one mutation removes, in (0, 1].

        Raises:
            UserError: temperature or amount is out of range.
        """
        from gp_prune.guided.mutation import MetricMutation

        return MetricMutation(self._metric, temperature, amount)

    @property
    def _metric(self) -> Metric:
        return cast("Metric", self)
