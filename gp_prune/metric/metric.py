"""A pruning metric, the one object that users hold and exchange.

A metric is a formula, the conventions of its use, and where it comes from. Its file is JSON;
loading one never runs anything that stands in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gp_prune._io import write_json
from gp_prune.language.axes import CHANNEL, WEIGHT
from gp_prune.language.expression import Expression, ExpressionError, canonical
from gp_prune.language.parser import from_json, parse
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.language.record import LayerRecord, synthetic_layer
from gp_prune.language.registry import builtin_primitives
from gp_prune.metric.file import (
    INVARIANCES,
    SCHEMA_VERSION,
    MetricError,
    bundled_metrics,
    check_invariances,
    checked_fields,
    content_of,
)
from gp_prune.metric.ranking import Conventions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gp_prune.apply.result import PrunedModel
    from gp_prune.metric.mutation import MetricMutation
    from gp_prune.pruning.torch_methods import ImportanceScores, MetricUnstructured
    from gp_prune.statistics import Loss


class MetricUses:
    """What a metric is for; the base of :class:`gp_prune.metric.metric.Metric`."""

    def prune(self, model: nn.Module, example_inputs: Any, **options: Any) -> PrunedModel:
        """A pruned copy of a network: :func:`gp_prune.prune` with this metric.

        Args:
            model: any network that ``copy.deepcopy`` can copy; it is not changed.
            example_inputs: a batch that the model can be called with.
            options: a budget such as ``channels=0.5`` or ``macs=0.5``, and all else that
                :func:`gp_prune.prune` takes.
        """
        from gp_prune.apply.prune import prune

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

        See :func:`gp_prune.apply.importance.as_importance` for arguments and errors.
        """
        from gp_prune.apply.importance import as_importance

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

        See :func:`gp_prune.apply.importance.importance_scores` for arguments and errors.
        """
        from gp_prune.apply.importance import importance_scores

        return importance_scores(
            self._metric, model, parameters, example_inputs,
            data=data, loss=loss, conventions=conventions, seed=seed,
        )  # fmt: skip

    def as_pruning_method(self) -> type[MetricUnstructured]:
        """What ``prune.global_unstructured`` takes as ``pruning_method=`` to rank these scores.

        See :func:`gp_prune.apply.importance.as_pruning_method` for how the two go together.
        """
        from gp_prune.apply.importance import as_pruning_method

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
        from gp_prune.metric.mutation import MetricMutation

        return MetricMutation(self._metric, temperature, amount)

    @property
    def _metric(self) -> Metric:
        return cast("Metric", self)


__all__ = ["INVARIANCES", "Metric", "MetricError", "bundled_metrics", "probe"]

GRANULARITIES = {CHANNEL: "channel", WEIGHT: "weight"}


@dataclass(frozen=True)
class Metric(MetricUses):
    """A pruning metric: higher score = keep.

    Attributes:
        name: how people call it; letters, digits, ``_`` and ``-``.
        expression: the formula, of type {o} (channels) or {o,i,k} (single weights).
        conventions: scope, normaliser and joining of coupled layers.
        primitives: the vocabulary in which the formula is written.
        description: one line of printable text, as is ``source``.
        source: the publication or run that it comes from.
        invariances: what its scores do not depend on, names of
            :data:`gp_prune.metric.file.INVARIANCES`; a claim, like the description.
        objectives: measured objectives by task.
        provenance: run, seed, tasks, package versions.
        probe_scores: scores on the synthetic layer as its file says; None for a new metric.
    """

    name: str
    expression: Expression
    conventions: Conventions = Conventions()
    primitives: PrimitiveSet = field(default_factory=builtin_primitives, repr=False, compare=False)
    description: str = ""
    source: str = ""
    invariances: tuple[str, ...] = ()
    objectives: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    probe_scores: tuple[float, ...] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for field_name in ("description", "source"):
            if not getattr(self, field_name).isprintable():
                raise MetricError(
                    f"the {field_name} of metric {self.name!r} is not one line of printable text"
                )
        if not self.name or not self.name.replace("_", "").replace("-", "").isalnum():
            raise MetricError(
                f"metric name {self.name!r} is not valid; use letters, digits, '_' and '-'"
            )
        if self.expression.axes not in GRANULARITIES:
            raise MetricError(
                f"metric {self.name!r} has axes {self.expression.axes}; "
                "a metric has axes {o} (channels) or {o,i,k} (weights)"
            )
        self.conventions.check_granularity(self.granularity)
        object.__setattr__(self, "invariances", check_invariances(self.invariances))

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        name: str = "unnamed",
        conventions: Conventions | None = None,
        primitives: PrimitiveSet | None = None,
    ) -> Metric:
        """A metric from the text of its formula, for example ``sum[i,k](abs(W))``.

        Raises:
            ParseError: the text is not an expression.
            MetricError: its type is not that of a metric.
        """
        primitives = primitives or builtin_primitives()
        return cls(name, parse(text, primitives), conventions or Conventions(), primitives)

    @classmethod
    def from_sympy(
        cls,
        formula: Any,
        *,
        name: str = "unnamed",
        granularity: str | None = None,
        conventions: Conventions | None = None,
        primitives: PrimitiveSet | None = None,
    ) -> Metric:
        """A metric with the values of a sympy formula, as :meth:`sympy` gives it.

        Args:
            formula: a formula in the vocabulary of :mod:`gp_prune.language.symbols`, with the free
                indices ``o`` (channels) or ``o``, ``i``, ``k`` (weights); it is walked, never
                evaluated.
            name: the name of the metric.
            granularity: ``"channel"`` or ``"weight"``; by default what the free indices say.
            conventions: the conventions of the metric.
            primitives: the vocabulary; the built-in one by default.

        Raises:
            FormulaError: no expression computes the formula; the message names the term.
            MetricError: the granularity is neither of the two.
        """
        from gp_prune.formula.from_sympy import free_axes, from_sympy

        axes = {name: axes for axes, name in GRANULARITIES.items()}
        if granularity is None:
            granularity = "channel" if free_axes(formula).issubset(CHANNEL) else "weight"
        if granularity not in axes:
            raise MetricError(f"granularity {granularity!r} is none of {', '.join(axes)}")
        primitives = primitives or builtin_primitives()
        expression = from_sympy(formula, axes[granularity], primitives)
        return cls(name, expression, conventions or Conventions(), primitives)

    @property
    def granularity(self) -> str:
        """``"channel"`` or ``"weight"``."""
        return GRANULARITIES[self.expression.axes]

    @property
    def needs(self) -> frozenset[str]:
        """Measurements that the formula takes, keys of :data:`gp_prune.language.record.NEEDS`."""
        return self.expression.needs

    def scores(self, layer: LayerRecord) -> Tensor:
        """Score every channel (o,) or weight (o, i, k) of a layer; higher = keep.

        Raises:
            MissingMeasurement: the layer lacks what an operand reads.
            MetricError: the formula does not give the scores that its file records.
        """
        from gp_prune.language.interpreter import evaluate

        self._probed  # noqa: B018  (checked once, before the first score)
        return evaluate(self.expression, layer)

    @cached_property
    def _probed(self) -> bool:
        """Whether the formula gives the scores on the synthetic layer that its file records."""
        import numpy as np

        if self.probe_scores is None:
            return True
        now = probe(self.expression)
        if len(now) != len(self.probe_scores) or not np.allclose(
            now, self.probe_scores, rtol=1e-6, atol=1e-12
        ):
            raise MetricError(
                f"metric {self.name!r} scores the synthetic layer otherwise than its file says; "
                "its primitives have changed, use the version or --primitives file it was made with"
            )
        return True

    def torch(self) -> Callable[[LayerRecord], Tensor]:
        """A plain function that scores a layer as :meth:`scores` does.

        Raises:
            MetricError: the formula does not give the scores that its file records.
        """
        from gp_prune.language.interpreter import evaluate

        self._probed  # noqa: B018  (checked once, before the first score)
        expression = self.expression

        def scores(layer: LayerRecord) -> Tensor:
            return evaluate(expression, layer)

        return scores

    def sympy(self) -> Any:
        """The formula as an exact sympy expression."""
        from gp_prune.formula.to_sympy import to_sympy

        return to_sympy(self.expression)

    def latex(self) -> str:
        """The formula as LaTeX mathematics, without dollar signs."""
        from gp_prune.formula.latex import latex

        return latex(self.expression, self.primitives)

    def mathml(self) -> str:
        """The formula as presentation MathML: one ``math`` element."""
        from gp_prune.formula.mathml import mathml

        return mathml(self.expression, self.primitives)

    def simplified(self) -> Metric:
        """The same metric with a formula of the same values that is never larger.

        Values change by rounding at most. The metric itself where no simpler formula is found
        within two seconds (see :mod:`gp_prune.formula.simplify`).
        """
        from gp_prune.formula.simplify import simplified

        simpler = simplified(self.expression, self.primitives)
        if simpler == self.expression:
            return self
        return replace(self, expression=simpler, probe_scores=None)

    def canonical(self) -> Metric:
        """The same metric with its tree in canonical form (see :func:`canonical`)."""
        return replace(self, expression=canonical(self.expression))

    @property
    def digest(self) -> str:
        """SHA-256 of what the metric means: its tree and its conventions."""
        meaning = {
            "schema_version": SCHEMA_VERSION,
            "expression": self.expression.to_json(),
            "conventions": self.conventions.to_json(),
        }
        text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The metric as a JSON object, as :meth:`save` writes it.

        Raises:
            MetricError: the scores on the synthetic layer are not finite.
        """
        scores = probe(self.expression) if self.probe_scores is None else self.probe_scores
        if not all(map(math.isfinite, scores)):
            raise MetricError(
                f"metric {self.name!r} has scores on the synthetic layer that are not finite, so "
                "it cannot be saved; bound the formula, for example with tanh"
            )
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "description": self.description,
            "source": self.source,
            "granularity": self.granularity,
            "text": str(self.expression),
            "expression": self.expression.to_json(),
            "conventions": self.conventions.to_json(),
            "invariances": list(self.invariances),
            "latex": self.latex(),
            "objectives": dict(self.objectives),
            "provenance": dict(self.provenance),
            "digest": self.digest,
            "probe_scores": list(scores),
        }

    def save(self, path: str | Path) -> None:
        """Write the metric file, as one step; OSError leaves an older file as it was.

        Raises:
            MetricError: the scores on the synthetic layer are not finite.
        """
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, name_or_path: str | Path, primitives: PrimitiveSet | None = None) -> Metric:
        """A metric by the name of a bundled one (``"l1"``) or from a file.

        Args:
            name_or_path: a bundled name, or the path of a JSON file.
            primitives: the vocabulary; the built-in one by default.

        Raises:
            MetricError: there is no such metric, or its file is not valid.
        """
        return cls.from_text(content_of(name_or_path), str(name_or_path), primitives)

    @classmethod
    def from_text(cls, content: str, origin: str, primitives: PrimitiveSet | None = None) -> Metric:
        """Read the content of a metric file; ``origin`` names it in errors.

        Raises:
            MetricError: the content is not valid JSON or not a valid metric.
        """
        try:
            return _made(checked_fields(content), primitives or builtin_primitives())
        except (ExpressionError, ValueError) as error:
            raise MetricError(f"metric file {origin!r} is refused: {error}") from None


def probe(expression: Expression) -> tuple[float, ...]:
    """The scores of a formula on the synthetic layer, flattened."""
    from gp_prune.language.interpreter import evaluate

    return tuple(evaluate(expression, synthetic_layer()).flatten().tolist())


def _made(data: Mapping[str, Any], primitives: PrimitiveSet) -> Metric:
    """The metric of a file's fields; MetricError if they contradict each other."""
    expression = from_json(data["expression"], primitives)
    metric = Metric(
        name=data["name"],
        expression=expression,
        conventions=Conventions.from_json(data["conventions"]),
        primitives=primitives,
        description=data["description"],
        source=data["source"],
        invariances=data["invariances"],
        objectives=data["objectives"],
        provenance=data["provenance"],
        probe_scores=data["probe_scores"],
    )
    if data["granularity"] != metric.granularity:
        raise MetricError(
            f"it says granularity {data['granularity']!r} but its tree has axes {expression.axes}"
        )
    if data["text"] != str(expression):
        raise MetricError(f"its text {data['text']!r} is not its tree {str(expression)!r}")
    if data["digest"] != metric.digest:
        raise MetricError(
            "its digest does not fit its content, so it was changed after it was saved; "
            "get the original, or make a new metric with Metric.parse(text).save(path)"
        )
    return metric
