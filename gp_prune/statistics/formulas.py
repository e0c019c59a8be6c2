"""Evaluate formulas on layers while the data streams by, in as many passes as they take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import torch
from torch import Tensor

from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import Accumulator, Interpreter, part_of
from gp_prune.language.primitive import Operand
from gp_prune.language.record import (
    CLASS_MAP_FIELDS,
    MAP_FIELDS,
    MAP_NEEDS,
    Coverage,
    LayerRecord,
    map_fields,
)
from gp_prune.language.streaming import Plan, known_subtrees, plan

RecordOf = Callable[[str], LayerRecord]
"""What was measured so far on a layer of this name."""


class Stream:
    """Hands the maps of one layer to the formulas that read them, as soon as all have come.

    Args:
        name: name of the layer.
        device: where the maps are.
        parts: what formulas read, with where it goes.
    """

    def __init__(
        self,
        name: str,
        device: torch.device,
        parts: Sequence[tuple[frozenset[str], Accumulator]],
    ) -> None:
        nothing = torch.zeros(0, dtype=torch.float64, device=device)
        self._empty = LayerRecord(name, nothing, nothing, False, nothing, nothing)
        self._parts = [(sources, total, dict[str, Tensor]()) for sources, total in parts]

    def put(self, name: str, values: Tensor) -> None:
        """Take in the values (n, channels[, positions]) of a field for the next samples."""
        copy: Tensor | None = None
        for sources, total, waiting in self._parts:
            if name not in sources:
                continue
            if len(waiting) + 1 < len(sources):  # what is needed with it comes later
                copy = values.clone() if copy is None else copy
                waiting[name] = copy
                continue
            maps = {field: value.transpose(0, 1) for field, value in waiting.items()}
            maps[name] = values.transpose(0, 1)
            total.add(part_of(self._empty, maps))
            waiting.clear()

    def result(self) -> dict[Expression, Tensor]:
        """Return the value of everything that was evaluated."""
        return {
            tree: value for _, total, _ in self._parts for tree, value in total.result().items()
        }


class Formulas:
    """Formulas that are evaluated on layers together, pass by pass.

    Args:
        expressions: the formulas.
    """

    def __init__(self, expressions: Iterable[Expression]) -> None:
        self.expressions = tuple(expressions)
        self.plan: Plan = plan(self.expressions)
        self._values: dict[str, dict[Expression, Tensor]] = {}

    def streams(
        self,
        stage: int,
        layers: Iterable[str],
        record_of: RecordOf,
        coverage_of: Callable[[str], Mapping[str, Coverage]],
        device: torch.device,
    ) -> dict[str, Stream]:
        """Return what evaluates formulas in a pass over the data, by layer.

        Args:
            stage: number of the pass, from 1.
            layers: names of the layers.
            record_of: gives what was measured in earlier passes.
            coverage_of: gives how much of the maps of a layer is seen, where that is not all.
            device: where the model runs.
        """
        merged, gathered = self.plan.streamed(stage)
        if not merged and not gathered:
            return {}
        trees = [*(node.arguments[0] for node in merged), *gathered]
        known = list(dict.fromkeys(part for tree in trees for part in known_subtrees(tree)))
        found = {}
        for name in layers:
            values: dict[Expression, Tensor] = {}
            if known:
                machine = Interpreter(self._with_values(record_of(name)))
                values = {part: machine.evaluate(part).to(device) for part in known}
            parts = [
                (
                    sources,
                    Accumulator(
                        [node for node in merged if self.plan.read_by(node) == sources],
                        [node for node in gathered if self.plan.read_by(node) == sources],
                        values,
                        coverage_of(name),
                    ),
                )
                for sources in dict.fromkeys(map(self.plan.read_by, [*merged, *gathered]))
            ]
            found[name] = Stream(name, device, parts)
        return found

    def close(
        self, stage: int, layers: Iterable[str], streams: Mapping[str, Stream], record_of: RecordOf
    ) -> None:
        """Take the values that a pass over the data gave, and evaluate what they suffice for."""
        targets = [t.node for t in self.plan.targets.values() if t.stage == stage and not t.merged]
        for name in layers:
            values = self._values.setdefault(name, {})
            if name in streams:
                values |= streams[name].result()
            if targets and stage < self.plan.stages:  # later passes may read them
                machine = Interpreter(self._with_values(record_of(name)))
                values |= {node: machine.evaluate(node) for node in targets}

    def finish(self, record: LayerRecord, needs: AbstractSet[str]) -> LayerRecord:
        """Return a record with the values of the formulas, and without what was kept for them.

        Args:
            record: what was measured on a layer.
            needs: what was asked for beside the formulas.
        """
        known = self._with_values(record)
        machine = Interpreter(known)
        values = {
            part: machine.evaluate(part) for tree in self.expressions for part in _measured(tree)
        }
        self._values.pop(record.name, None)
        dropped = MAP_FIELDS.keys() - map_fields(needs)
        if "centroids" not in needs:
            dropped |= CLASS_MAP_FIELDS
        nothing: dict[str, None] = dict.fromkeys(dropped)
        return replace(record, values=values, **nothing)  # type: ignore[arg-type]

    def _with_values(self, record: LayerRecord) -> LayerRecord:
        found = self._values.get(record.name, {})
        device = record.weight.device
        return replace(record, values={tree: value.to(device) for tree, value in found.items()})


def _measured(tree: Expression) -> list[Expression]:
    """Return the subtrees whose values must be found before maps are let go, the largest first.

    They are those that leave the axes of the maps. What stands above them can be evaluated without
    the maps, so that :mod:`gp_prune.language.rounding` sees of what a score is made.
    """
    found, stack = [], [tree]
    while stack:
        node = stack.pop()
        if node is tree and _is_by_entry(node):
            return [tree]
        if any(map(_is_by_entry, node.arguments)) or _reads_maps(node):
            found.append(node)
        else:
            stack.extend(node.arguments)
    return found


def _is_by_entry(node: Expression) -> bool:
    return "n" in node.axes or "s" in node.axes


def _reads_maps(node: Expression) -> bool:
    """Return whether a node is an operand of the user's that reads maps in a way not known."""
    head = node.head
    maps = MAP_NEEDS | {"centroids"}
    return isinstance(head, Operand) and head.source is None and not head.needs.isdisjoint(maps)
