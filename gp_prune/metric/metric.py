"""Define a pruning metric: a formula, the conventions of its use, and where it comes from.

Its file is JSON; loading one never runs anything that the file contains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from gp_prune.base.html import Markup, facts_html, shorten
from gp_prune.base.json_fields import canonical_digest, write_json
from gp_prune.language.axes import CHANNEL, SCALAR, WEIGHT
from gp_prune.language.expression import Expression, ExpressionError, canonical
from gp_prune.language.parser import from_json, parse
from gp_prune.language.primitive import PrimitiveSet, builtin_primitives
from gp_prune.language.record import LayerRecord, synthetic_layer
from gp_prune.metric.file import (
    COPIED_FIELDS,
    INVARIANCES,
    Conventions,
    MetricError,
    bundled_metrics,
    check_derived_fields,
    check_invariances,
    check_metric_fields,
    check_operands,
    check_shares,
    compute_digest,
    digest_declarations,
    is_formula,
    parse_fields,
    read_content,
    to_fields,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gp_prune.apply.result import PrunedModel
    from gp_prune.metric.mutation import MetricMutation
    from gp_prune.pruning.torch_methods import ImportanceScores, MetricUnstructured
    from gp_prune.statistics import Loss

    class ImportanceOptions(TypedDict, total=False):
        """Options of :mod:`gp_prune.apply.importance`."""

        data: Iterable[Any]
        loss: Loss | None
        conventions: Conventions | None
        samples: int | None
        max_memory: int | str | None
        seed: int


__all__ = ["INVARIANCES", "Metric", "MetricError", "bundled_metrics", "probe"]

GRANULARITIES = {CHANNEL: "channel", WEIGHT: "weight", SCALAR: "layer"}
_AXES = {name: axes for axes, name in GRANULARITIES.items()}


@dataclass(frozen=True)
class Metric:
    """Score channels or weights by a formula (higher score = keep), or give the share of a layer.

    Attributes:
        name: letters, digits, ``_`` and ``-``.
        expression: the formula, of type {o} (channels), {o,i,k} (single weights) or {} (layers).
        conventions: scope, normaliser and joining of coupled layers.
        primitives: the vocabulary in which the formula is written.
        description: one line of printable text, as is ``source``.
        source: the publication or run that it comes from.
        invariances: declared invariances of the scores, names of
            :data:`gp_prune.metric.file.INVARIANCES`.
        objectives: measured objectives by task.
        provenance: run, seed, tasks, package versions.
        probe_scores: scores on the synthetic layer that its file records; None for a new metric.
        declarations: digests of the primitives that its file records; empty for a new metric and
            for older files.
        shares: says how many channels each layer keeps, where this metric says which: a metric of
            channels by its global ranking, one of layers by its values
            (:mod:`gp_prune.pruning.select.allocation`); None where the conventions say both.
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
    declarations: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    shares: Metric | None = None

    def __post_init__(self) -> None:
        for value, kind in (
            (self.name, str), (self.expression, Expression), (self.conventions, Conventions),
        ):  # fmt: skip
            if not isinstance(value, kind):
                raise MetricError(
                    f"a metric has a {kind.__name__} where this one has the {type(value).__name__} "
                    f"{value!r}"
                )
        for text in ("description", "source"):
            if not getattr(self, text).isprintable():
                raise MetricError(
                    f"the {text} of metric {self.name!r} is not one line of printable text"
                )
        if not is_metric_name(self.name):
            raise MetricError(
                f"metric name {self.name!r} is not valid; use letters, digits, '_' and '-'"
            )
        if self.expression.axes not in GRANULARITIES:
            raise MetricError(
                f"metric {self.name!r} has axes {self.expression.axes}; "
                "a metric has axes {o} (channels), {o,i,k} (weights) or {} (shares of layers)"
            )
        self.conventions.check_granularity(self.granularity)
        object.__setattr__(self, "invariances", check_invariances(self.invariances))
        check_operands(self)
        if self.shares is not None:
            check_shares(self)

    def __repr__(self) -> str:
        """Return name, granularity, scope or source of the shares, and formula in one line."""
        divides = self.conventions.scope if self.shares is None else f"shares by {self.shares.name}"
        kind = f"{self.granularity}, {divides}"
        return f"<Metric {self.name!r} ({kind}): {shorten(str(self.expression))}>"

    def _repr_html_(self) -> str:
        """Return the metric for a notebook; all text is escaped."""
        conventions = self.conventions
        use = f"{conventions.scope}, normaliser {conventions.normaliser}, join {conventions.join}"
        return facts_html(
            f"Metric {self.name}",
            [
                ("formula", Markup(self.mathml())), ("text", self.expression),
                ("scores", f"{self.granularity}s"), ("conventions", use),
                ("description", self.description), ("source", self.source),
                *self._shares_html(),
            ],
        )  # fmt: skip

    def _shares_html(self) -> list[tuple[str, Markup | str]]:
        if self.shares is None:
            return []
        formula = Markup(self.shares.mathml())
        return [("shares by", self.shares.name), ("formula of the shares", formula)]

    def _repr_latex_(self) -> str:
        """Return the formula for a notebook."""
        return rf"$\displaystyle {self.latex()}$"

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        name: str = "unnamed",
        conventions: Conventions | None = None,
        primitives: PrimitiveSet | None = None,
    ) -> Metric:
        """Create a metric from the text of its formula, for example ``sum[i,k](abs(W))``.

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
        """Create a metric with the values of a sympy formula, the inverse of :meth:`sympy`.

        Args:
            formula: a formula in the vocabulary of :mod:`gp_prune.language.symbols`, with the free
                indices ``o``, or ``o``, ``i``, ``k``, or none (layers); it is never evaluated.
            name: the name of the metric.
            granularity: ``"channel"``, ``"weight"`` or ``"layer"``; by default by these indices.
            conventions: the conventions of the metric.
            primitives: the vocabulary; the built-in one by default.

        Raises:
            FormulaError: no expression computes the formula; the message names the term.
            MetricError: the granularity is none of the three.
        """
        from gp_prune.formula.from_sympy import free_axes, from_sympy

        if granularity not in (None, *_AXES):
            raise MetricError(f"granularity {granularity!r} is none of {', '.join(_AXES)}")
        axes = free_axes(formula) if granularity is None else _AXES[granularity]
        axes = axes if axes in GRANULARITIES else WEIGHT
        primitives = primitives or builtin_primitives()
        expression = from_sympy(formula, axes, primitives)
        return cls(name, expression, conventions or Conventions(), primitives)

    @property
    def granularity(self) -> str:
        """Return ``"channel"``, ``"weight"`` or ``"layer"``."""
        return GRANULARITIES[self.expression.axes]

    @property
    def needs(self) -> frozenset[str]:
        """Return what the formula measures, keys of :data:`gp_prune.language.record.NEEDS`."""
        return self.expression.needs

    def scores(self, layer: LayerRecord) -> Tensor:
        """Score every channel (o,) or weight (o, i, k) of a layer, or the layer (); higher = keep.

        Raises:
            MissingMeasurement: the layer lacks what an operand reads.
            MetricError: the formula does not give the scores that its file records.
        """
        return self.torch()(layer)

    def ranking_scores(self, layer: LayerRecord) -> Tensor:
        """Score a layer to rank by: scores that differ by rounding alone are their mean.

        Raises:
            MissingMeasurement: the layer lacks what an operand reads.
            MetricError: the formula does not give the scores that its file records.
        """
        from gp_prune.language.rounding import without_rounding

        self._verify_probe_scores  # noqa: B018  (verified once, before the first score)
        return without_rounding(self.expression, layer)

    def torch(self) -> Callable[[LayerRecord], Tensor]:
        """Return a plain function that scores a layer as :meth:`scores` does.

        Raises:
            MetricError: the formula does not give the scores that its file records.
        """
        from gp_prune.language.interpreter import evaluate

        self._verify_probe_scores  # noqa: B018  (verified once, before the first score)
        return partial(evaluate, self.expression)

    @cached_property
    def _verify_probe_scores(self) -> None:
        """Raise MetricError where the formula does not give the scores that its file records."""
        import numpy as np

        recorded = self.probe_scores
        if recorded is None:
            return
        scores = probe(self.expression)
        if len(scores) != len(recorded) or not np.allclose(scores, recorded, 1e-6, 1e-12):
            raise MetricError(
                f"metric {self.name!r} scores the synthetic layer otherwise than its file says; "
                "its primitives have changed, use the version or --primitives file it was made with"
            )

    def changed_primitives(self) -> tuple[str, ...]:
        """Return the primitives of the formulas whose declaration is not that of the file.

        Nothing is computed and torch is not loaded; of files from before declarations were kept
        nothing is known.
        """
        changed: dict[str, None] = {}
        for metric in self.parts:
            if metric.declarations:
                now, then = digest_declarations(metric), metric.declarations
                changed |= {name: None for name in now if then.get(name, now[name]) != now[name]}
        return tuple(changed)

    def sympy(self) -> Any:
        """Return the formula as an exact sympy expression."""
        from gp_prune.formula.latex import to_sympy

        return to_sympy(self.expression)

    def latex(self, digits: int | None = 3, *, name_terms: bool = True) -> str:
        """Return the formula as LaTeX mathematics in one line, without dollar signs.

        Args:
            digits: significant digits of constants that are not whole; None for all.
            name_terms: whether a wide term that occurs more than once is written as a symbol that
                is defined after the formula.
        """
        from gp_prune.formula.latex import latex

        return latex(self.expression, self.primitives, digits=digits, name_terms=name_terms)

    def mathml(self, digits: int | None = 3, *, name_terms: bool = True) -> str:
        """Return the formula as presentation MathML: one ``math`` element.

        The arguments are those of :meth:`latex`.
        """
        from gp_prune.formula.mathml import latex_to_mathml

        return latex_to_mathml(self.latex(digits, name_terms=name_terms))

    def simplified(self) -> Metric:
        """Return the metric with a smaller formula of the same values, up to rounding.

        It is the metric itself where no smaller formula is found. The rules, and how much work they
        may take, are those of :mod:`gp_prune.formula.simplify`; the time plays no part.
        """
        from gp_prune.formula.simplify import simplify

        shares = None if self.shares is None else self.shares.simplified()
        simpler = simplify(self.expression, self.primitives)
        if simpler == self.expression:
            return self if shares is self.shares else replace(self, shares=shares)
        return replace(self, expression=simpler, probe_scores=None, declarations={}, shares=shares)

    def canonical(self) -> Metric:
        """Return the metric with its tree, and that of its shares, in canonical form."""
        shares = None if self.shares is None else self.shares.canonical()
        return replace(self, expression=canonical(self.expression), shares=shares)

    def with_shares(self, shares: Metric | str | Path | None) -> Metric:
        """Return the metric with another one that says how many channels each layer keeps.

        Where a network is cut matters as much as what is cut. ``shares`` divides a budget among the
        layers, and this metric chooses the channels of each layer.

        Args:
            shares: a metric of channels or of layers, or what :meth:`load` takes; None removes it.
                Of one that has shares itself these are taken.

        Raises:
            MetricError: this metric ranks no channels, or ``shares`` is of single weights.
        """
        if isinstance(shares, str | Path):
            shares = Metric.load(shares, self.primitives)
        return replace(self, shares=shares.parts[-1] if isinstance(shares, Metric) else shares)

    @property
    def size(self) -> int:
        """Return the nodes of the formula, and of that of the shares."""
        return sum(metric.expression.size for metric in self.parts)

    @property
    def parts(self) -> tuple[Metric, ...]:
        """Return the metric, and the one that gives its shares."""
        return (self,) if self.shares is None else (self, self.shares)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what the metric means: tree, conventions and shares."""
        return compute_digest(self)

    def to_json(self) -> dict[str, Any]:
        """Return the metric as the JSON object that :meth:`save` writes.

        Raises:
            MetricError: the scores on the synthetic layer are not finite.
        """
        scores = probe(self.expression) if self.probe_scores is None else self.probe_scores
        if not all(map(math.isfinite, scores)):
            raise MetricError(
                f"metric {self.name!r} has scores on the synthetic layer that are not finite, so "
                "it cannot be saved; bound the formula, for example with tanh"
            )
        return to_fields(self, scores)

    def save(self, path: str | Path) -> None:
        """Write the metric file atomically: an OSError leaves an older file unchanged.

        Raises:
            MetricError: the scores on the synthetic layer are not finite.
        """
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, name_or_path: str | Path, primitives: PrimitiveSet | None = None) -> Metric:
        """Load a bundled metric by its name (``"l1"``), a file by its path, or read a formula.

        A formula has the conventions of a new metric, and a name that follows from its tree.

        Raises:
            MetricError: there is no such metric, its file is not valid, or the type of a formula
                is not that of a metric.
            ParseError: the formula is not an expression.
        """
        if not isinstance(name_or_path, str | Path) or not str(name_or_path).strip():
            raise MetricError(
                f"the metric is {name_or_path!r}; give the name of a bundled one ('gp-prune list' "
                "shows them), the path of a metric file or a formula"
            )
        primitives = primitives or builtin_primitives()
        if is_formula(name_or_path, primitives.operands):
            expression = parse(str(name_or_path), primitives)
            name = f"formula_{canonical_digest(expression.to_json())[:8]}"
            return cls(name, expression, primitives=primitives)
        return cls.from_text(read_content(name_or_path), str(name_or_path), primitives)

    @classmethod
    def from_text(cls, content: str, origin: str, primitives: PrimitiveSet | None = None) -> Metric:
        """Read the content of a metric file; ``origin`` names it in errors.

        Raises:
            MetricError: the content is not valid JSON or not a valid metric.
        """
        primitives = primitives or builtin_primitives()
        try:
            return cls._from_fields(parse_fields(content), primitives)
        except (ExpressionError, ValueError) as error:
            raise MetricError(f"metric file {origin!r} is refused: {error}") from None

    @classmethod
    def _from_fields(cls, fields: dict[str, Any], primitives: PrimitiveSet) -> Metric:
        """Return a metric from checked fields; the message of an error does not name the file."""
        shares = None
        if fields["shares"]:
            inner = check_metric_fields(fields["shares"], "the field 'shares'")
            try:
                shares = cls._from_fields(inner, primitives)
            except (ExpressionError, ValueError) as error:
                raise MetricError(f"of the metric in the field 'shares': {error}") from None
        metric = cls(
            expression=from_json(fields["expression"], primitives),
            conventions=Conventions.from_json(fields["conventions"]),
            primitives=primitives,
            shares=shares,
            **{name: fields[name] for name in COPIED_FIELDS},
        )
        check_derived_fields(fields, metric)
        return metric

    def prune(self, model: nn.Module, example_inputs: Any, **options: Any) -> PrunedModel:
        """Return a pruned copy of a network: :func:`gp_prune.prune` with this metric.

        Args:
            model: a network that ``copy.deepcopy`` can copy; it is not changed.
            example_inputs: a batch that the model can be called with.
            options: a budget such as ``keep_channels=0.5`` or ``keep_macs=0.5``, and the other
                options of :func:`gp_prune.prune`.
        """
        from gp_prune.apply.prune import prune

        return prune(model, self, example_inputs, **options)

    def as_importance(
        self, model: nn.Module, example_inputs: Any = None, **options: Unpack[ImportanceOptions]
    ) -> Callable[[Any], Tensor | None]:
        """Return this metric as ``importance=`` of ``torch_pruning.pruner.BasePruner``.

        The pruner divides the budget among the layers itself, so :attr:`shares` play no part.
        See :func:`gp_prune.apply.importance.as_importance` for arguments and errors.
        """
        from gp_prune.apply.importance import as_importance

        return as_importance(self, model, example_inputs, **options)

    def importance_scores(
        self,
        model: nn.Module,
        parameters: Iterable[tuple[nn.Module, str]] | None = None,
        example_inputs: Any = None,
        **options: Unpack[ImportanceOptions],
    ) -> ImportanceScores:
        """Return scores of weights as ``importance_scores=`` of ``prune.global_unstructured``.

        See :func:`gp_prune.apply.importance.importance_scores` for arguments and errors.
        """
        from gp_prune.apply.importance import importance_scores

        return importance_scores(self, model, parameters, example_inputs, **options)

    def as_pruning_method(self) -> type[MetricUnstructured]:
        """Return the ``pruning_method=`` of ``prune.global_unstructured`` that ranks these scores.

        See :func:`gp_prune.apply.importance.as_pruning_method` for how to use the two together.
        """
        from gp_prune.apply.importance import as_pruning_method

        return as_pruning_method(self)

    def as_mutation(self, temperature: float = 0.1, amount: float = 0.1) -> MetricMutation:
        """Return this metric as a mutation operator of the genetic searches.

        It ranks within a layer, so :attr:`shares` play no part.
        See :class:`gp_prune.metric.mutation.MetricMutation` for arguments and errors.
        """
        from gp_prune.metric.mutation import MetricMutation

        return MetricMutation(self, temperature, amount)


def is_metric_name(name: str) -> bool:
    """Tell whether a text may be the name of a metric: letters, digits, ``_`` and ``-``."""
    return name.replace("_", "").replace("-", "").isalnum()


def probe(expression: Expression) -> tuple[float, ...]:
    """Return the scores of a formula on the synthetic layer, flattened."""
    from gp_prune.language.interpreter import evaluate

    return tuple(evaluate(expression, synthetic_layer()).flatten().tolist())
