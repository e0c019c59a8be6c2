"""A limit to the index maps of Torch-Pruning's graph, which some networks let grow without end.

Where a map is cut into windows or split into heads, the graph takes positions for channels: every
view multiplies their number, and following them would take hours before the result is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

LIMIT = 2**24
"""Entries that index maps may give out, over all groups of a graph: four times what torchvision's
largest networks need, in half a minute at most."""


def bounded(graph: Any) -> Any:
    """The dependency graph, changed so that it raises RuntimeError beyond :data:`LIMIT`."""
    tally = _Tally()
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping = _Maps(dependency.index_mapping, tally)
    return graph


class _Tally:
    """What the maps have given out so far."""

    def __init__(self) -> None:
        self.total = 0

    def checked(self, mapping: Callable[[Any], Any], indices: Any) -> Any:
        """The mapped indices."""
        # A map that multiplies would fill the memory before its result could be counted; the
        # reverse of one gives at most what it gets.
        multiplies = not getattr(mapping, "reverse", False)
        stride = int(getattr(mapping, "_stride", 1)) if multiplies else 1
        self.total += len(indices) * max(1, stride)
        if self.total > LIMIT:
            raise RuntimeError("the positions of its channels multiply without end")
        return mapping(indices)


class _Maps(list[Any]):
    """The index maps of one dependency; the graph renews its items and loops over them."""

    def __init__(self, maps: list[Any], tally: _Tally) -> None:
        super().__init__(maps)
        self._tally = tally

    def __iter__(self) -> Iterator[Any]:
        for mapping in super().__iter__():
            yield None if mapping is None else partial(self._tally.checked, mapping)
