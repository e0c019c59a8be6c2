"""Say what a metric file holds beside the formula, conventions of ranking first; find and read one.

Reading never runs anything that a file contains.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gp_prune.base.files import MOST_TEXT, read_file
from gp_prune.base.json_fields import canonical_digest, check_type, parse_json, read_object
from gp_prune.base.names import SCOPES as SCOPES
from gp_prune.base.names import bundled_metrics as bundled_metrics
from gp_prune.errors import UserError, brief
from gp_prune.language.primitive import Operand, Operator

if TYPE_CHECKING:
    from gp_prune.metric.metric import Metric

SCHEMA_VERSION = 1

NORMALISERS = ("none", "sum", "mean", "max")
JOINS = ("sum", "mean", "max", "first")

OWN, RESIDUAL_WHOLE = "own", "residual-whole"
ALLOCATIONS = {
    OWN: "the metric's own conventions, or the shares that it is saved with",
    "global": "one ranking of the scores of all layers, each divided by its mean",
    "uniform": "the same share of every layer",
    RESIDUAL_WHOLE: "residual streams stay whole, the same share of every other layer",
}
"""How a budget can be divided among the layers, with the meaning; a metric can do it, too."""

INVARIANCES = {
    "permutation": "permuting the channels of a network permutes the scores in the same way",
    "scale": "a layer whose output is multiplied by c > 0, with the inverse in the layers that "
    "read it, keeps its ranking; so do those layers (ReLU networks)",
}
"""What a metric may declare about its scores, with the meaning."""

COPIED_FIELDS = (
    "name", "description", "source", "invariances", "objectives", "provenance", "probe_scores",
    "declarations",
)  # fmt: skip
"""Fields that a metric has by the same name; the others are derived or parsed."""

_FIELDS = {
    "schema_version": int,
    "name": str,
    "description": str,
    "source": str,
    "granularity": str,
    "text": str,
    "expression": dict,
    "conventions": dict,
    "invariances": list,
    "latex": str,
    "objectives": dict,
    "provenance": dict,
    "digest": str,
    "probe_scores": list,
    "declarations": dict,
    "shares": dict,
}
_OPTIONAL = ("declarations", "shares")
"""Fields that are left out where they are empty: of older files, and of metrics without shares."""

_START_NAMES = {
    "variance_energy": "it is a start formula of searches: the formula of 'flap', ranked over the "
    "whole network; give 'flap', with the allocation (--allocation) 'global'",
}
"""Names that a search and a comparison know and no file has, with what to give in their place."""

SHARES_OF_SHARES = (
    "the metric that gives the shares has shares from a third one; take one that has none"
)


class MetricError(UserError):
    """Report a metric that cannot be found, read or trusted."""


@dataclass(frozen=True)
class Conventions:
    """State how scores are ranked, which a formula does not say.

    Attributes:
        scope: ``"layer"`` ranks within each layer (group of coupled layers) and cuts the same
            share everywhere; ``"global"`` ranks all channels (or weights) of the network together;
            ``"isomorphic"`` ranks those of groups of one structure together and cuts the same share
            of each structure (for metrics of channels alone; Fang et al. 2024);
            ``"row"`` ranks the weights of each output channel and cuts the same share of each, as
            Wanda does (for metrics of single weights alone).
        normaliser: what the scores of a layer are divided by before a global ranking: their
            ``"sum"``, ``"mean"`` or ``"max"`` of absolute values, or ``"none"``.
        join: how the scores of the layers that produce the same coupled channels (a residual sum,
            a depthwise convolution) become one score per channel.

    Raises:
        UserError: a field has a value that is not on its list.
    """

    scope: str = "global"
    normaliser: str = "mean"
    join: str = "mean"

    def __post_init__(self) -> None:
        for field, allowed in (("scope", SCOPES), ("normaliser", NORMALISERS), ("join", JOINS)):
            value = getattr(self, field)
            if not isinstance(value, str) or value not in allowed:
                raise UserError(
                    f"{field} is {brief(value)}; it must be one of {', '.join(allowed)}"
                )

    def under(self, allocation: str) -> Conventions:
        """Return the conventions by which scores are ranked under one of :data:`ALLOCATIONS`."""
        if allocation == OWN:
            return self
        if allocation == "global":
            return replace(self, scope="global", normaliser="mean")
        return replace(self, scope="layer")

    def check_granularity(self, granularity: str) -> None:
        """Raise UserError if scores of this granularity cannot be ranked within the scope.

        Args:
            granularity: ``"channel"``, ``"weight"`` or ``"layer"``.
        """
        if granularity == "layer" and (self.scope, self.normaliser) != ("global", "mean"):
            raise UserError(
                f"scope {self.scope!r} and normaliser {self.normaliser!r} say how scores are "
                "ranked, and a formula of the shares of layers ranks nothing; leave both out"
            )
        if self.scope == "isomorphic" and granularity == "weight":
            raise UserError(
                "scope 'isomorphic' ranks groups of channels of one structure together, and single "
                "weights have none; use scope 'layer', 'global' or 'row', or a metric of channels"
            )
        if self.scope == "row" and granularity == "channel":
            raise UserError(
                "scope 'row' ranks the weights within an output channel, so no channels can be "
                "ranked in it; use scope 'layer' or 'global', or a metric of single weights"
            )

    def to_json(self) -> dict[str, str]:
        """Return the fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Conventions:
        """Read the object of :meth:`to_json`; UserError names a field that is wrong."""
        fields = dict.fromkeys(cls.__dataclass_fields__, object)
        return cls(**read_object(data, "the field 'conventions'", fields))


def check_shares(metric: Metric) -> None:
    """Raise MetricError unless a metric ranks channels, and its shares are of channels, too."""
    shares: Any = metric.shares
    if not isinstance(shares, type(metric)):
        raise MetricError(
            f"the shares of metric {metric.name!r} are {shares!r}; give a Metric of channels, or "
            "of the share of each layer"
        )
    check_ranks(metric)
    for part in (metric, shares):
        if part.granularity == "weight":
            raise MetricError(
                f"metric {part.name!r} ranks single weights, and shares of layers are of "
                "channels; pair two metrics of channels, or one with a formula of the shares"
            )
    if shares.shares is not None:
        raise MetricError(SHARES_OF_SHARES)


def check_ranks(metric: Metric) -> None:
    """Raise MetricError for a formula that gives the share of each layer, where one is to rank."""
    if metric.granularity == "layer":
        raise MetricError(
            f"metric {metric.name!r} gives the share of each layer and ranks nothing within one; "
            "use it as the shares of a metric of channels (--allocation, gp-prune pair or "
            "Metric.with_shares)"
        )


def check_operands(metric: Metric) -> None:
    """Raise MetricError where a metric that ranks reads the place of a layer in the network."""
    if metric.granularity == "layer" or "network" not in metric.needs:
        return
    for node in metric.expression.nodes():
        if isinstance(node.head, Operand) and "network" in node.head.needs:
            raise MetricError(
                f"metric {metric.name!r} ranks {metric.granularity}s and reads {node.name!r}, "
                "which is one number for each layer; use it in a formula of type {}, which gives "
                "the share of each layer"
            )


def is_formula(text: str | Path, operands: Collection[str]) -> bool:
    """Return whether a text is a formula rather than the name or the path of a metric.

    Names of bundled metrics, texts that end with .json and existing files come first. A formula
    has a bracket or a sign that names lack, or all of its words are operands.

    Args:
        text: what a user gave as a metric.
        operands: the names of the operands that a formula may read.
    """
    if isinstance(text, Path) or text in bundled_metrics() or text.endswith(".json"):
        return False
    if _exists(Path(text)):
        return False
    words = re.findall(r"[A-Za-z]\w*", text)
    return bool(set(text) & set("()[]+*^")) or (bool(words) and set(words) <= set(operands))


def read_content(name_or_path: str | Path) -> str:
    """Read the content of a bundled metric (``"l1"``) or of a file.

    Raises:
        MetricError: there is no such metric, or its file cannot be read.
    """
    bundled = bundled_metrics()
    text = str(name_or_path)
    if text in bundled:
        return str(bundled[text].read_text(encoding="utf-8"))
    path = Path(name_or_path)
    if path.suffix != ".json" and not _exists(path):
        if text in _START_NAMES:
            raise MetricError(f"unknown metric {text!r}; {_START_NAMES[text]}")
        close = difflib.get_close_matches(text.lower(), bundled, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise MetricError(
            f"unknown metric {text!r}; {hint}'gp-prune list' shows the bundled ones, "
            "or give the path of a metric file or a formula"
        )
    try:
        return read_file(path, MOST_TEXT).decode()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no path at all
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise MetricError(f"metric file {text!r} cannot be read: {reason}") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than a path may be
        return False


def parse_fields(content: str) -> dict[str, Any]:
    """Parse the fields of a metric file and check that each is there, of its type, and known.

    Raises:
        UserError: the content is not JSON, has another schema, or a field is wrong; the sentence
            does not name the file.
    """
    try:
        data = parse_json(content)
    except ValueError as error:
        raise MetricError(f"it is not valid JSON ({error}); it may be cut off") from None
    return check_metric_fields(data)


def check_metric_fields(data: Any, what: str = "the metric") -> dict[str, Any]:
    """Check that each field of a metric is there, of its type, and known.

    Args:
        data: what was parsed.
        what: what it is called in an error message.

    Raises:
        UserError: it has another schema, or a field is wrong.
    """
    if isinstance(data, dict):
        _check_version(data.get("schema_version"))
        data = {**{name: {} for name in _OPTIONAL}, **data}
    fields = read_object(data, what, _FIELDS)
    if isinstance(fields["shares"].get("shares"), dict) and fields["shares"]["shares"]:
        raise MetricError(SHARES_OF_SHARES)
    for name, digest in fields["declarations"].items():
        check_type(digest, str, f"the declaration of {brief(name)}")
    fields["invariances"] = check_invariances(fields["invariances"])
    fields["probe_scores"] = _to_floats(fields["probe_scores"])
    return fields


def check_invariances(names: list[Any] | tuple[Any, ...]) -> tuple[str, ...]:
    """Return the names in the order of :data:`INVARIANCES`.

    Raises:
        MetricError: a name is unknown or repeated.
    """
    for name in names:
        if not isinstance(name, str) or name not in INVARIANCES:
            raise MetricError(f"invariance {brief(name)} is unknown; use {', '.join(INVARIANCES)}")
        if names.count(name) > 1:
            raise MetricError(f"invariance {name!r} is named twice")
    return tuple(name for name in INVARIANCES if name in names)


def to_fields(metric: Metric, probe_scores: tuple[float, ...]) -> dict[str, Any]:
    """Return the fields of a metric's file, in their order."""
    derived = {
        "schema_version": SCHEMA_VERSION,
        "text": metric.expression,
        "expression": metric.expression.to_json(),
        "conventions": metric.conventions.to_json(),
        "latex": metric.latex(),
        "probe_scores": probe_scores,
        "shares": {} if metric.shares is None else metric.shares.to_json(),
    }
    if metric.probe_scores is None:
        derived["declarations"] = digest_declarations(metric)
    # The type makes lists of tuples and a text of the tree.
    fields = {
        name: field_type(derived[name] if name in derived else getattr(metric, name))
        for name, field_type in _FIELDS.items()
    }
    return {name: value for name, value in fields.items() if value or name not in _OPTIONAL}


def digest_declarations(metric: Metric) -> dict[str, str]:
    """Return the name of every primitive of a formula -> the digest of its declaration.

    Operators have brackets after their names, since an operand may have the name of one.
    """
    from gp_prune.language.declaration_digest import digest_declaration

    heads = {node.head for node in metric.expression.nodes()}
    digests = {
        f"{head.name}()" if isinstance(head, Operator) else head.name: digest_declaration(head)
        for head in heads
        if isinstance(head, Operator | Operand)
    }
    return {name: digest for name, digest in sorted(digests.items()) if digest}


def compute_digest(metric: Metric) -> str:
    """Return the SHA-256 of what a metric means: its tree, its conventions and its shares."""
    meaning = {
        "schema_version": SCHEMA_VERSION,
        "expression": metric.expression.to_json(),
        "conventions": metric.conventions.to_json(),
    }
    if metric.shares is not None:
        meaning["shares"] = metric.shares.digest
    return "sha256:" + canonical_digest(meaning)


def check_derived_fields(fields: dict[str, Any], metric: Metric) -> None:
    """Raise MetricError where fields of a file contradict the metric that was built from them."""
    expression = metric.expression
    if fields["granularity"] != metric.granularity:
        raise MetricError(
            f"it says granularity {fields['granularity']!r} but its tree has axes {expression.axes}"
        )
    if fields["text"] != str(expression):
        raise MetricError(f"its text {fields['text']!r} is not its tree {str(expression)!r}")
    if fields["digest"] != metric.digest:
        raise MetricError(
            "its digest does not fit its content, so it was changed after it was saved; "
            "get the original, or make a new metric with Metric.parse(text).save(path)"
        )


def _check_version(version: Any) -> None:
    if type(version) is int and version > SCHEMA_VERSION:
        raise MetricError(
            f"it has schema version {brief(version)}, newer than {SCHEMA_VERSION}; update gp-prune"
        )
    if type(version) is not int or version != SCHEMA_VERSION:
        raise MetricError(f"schema_version is {brief(version)}, not {SCHEMA_VERSION}")


def _to_floats(values: list[Any]) -> tuple[float, ...]:
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise MetricError("probe_scores are not all numbers")
    try:
        return tuple(float(v) for v in values)
    except OverflowError:
        raise MetricError("probe_scores are not all finite numbers") from None
