"""Follow channels through Torch-Pruning's dependency graph, each entry of each module once.

Torch-Pruning keeps pairs of an entry and a channel of the root, as many as there are ways from one
to the other; where parts of a map change places, as in rotary attention, every pair leads to new
ones. Here two channels that reach the same entry are one channel, so an entry is visited once.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch_pruning as tp
from numpy.typing import NDArray
from torch import nn
from torch_pruning import _helpers
from torch_pruning.dependency import index_mapping, shape_infer

from gp_prune.pruning.graph.function_modes import Joined, Padded
from gp_prune.pruning.graph.observer import GraphObserver
from gp_prune.pruning.modules import Prunable

INDEX_MAP_LIMIT = 2**24
"""Entries that index maps may give out, over all groups of a graph: several times what
torchvision's largest networks need."""
VISIT_LIMIT = 50_000
"""Visits of nodes, over all groups of a graph: several seconds."""

GRAPH_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What Torch-Pruning is seen to raise on networks that it cannot follow."""
ENDLESS = "the positions of its channels multiply without end"

Indices = NDArray[np.int64]


class FollowedItem(NamedTuple):
    """One node that channels reach.

    Attributes:
        node: node of the graph.
        handler: the function of Torch-Pruning that would cut it; it tells inputs from outputs.
        entries: entries of the node.
        channels: the channel of each of them.
    """

    node: Any
    handler: Callable[..., Any]
    entries: Indices
    channels: Indices


class Followed(NamedTuple):
    """Where the channels of one layer go.

    Attributes:
        size: number of channels that can go one by one.
        items: what they reach, the layer itself first.
        reasons: why they cannot be followed to the end; empty where they can.
    """

    size: int
    items: list[FollowedItem]
    reasons: list[str]


class ChannelGraph:
    """The dependency graph of a network.

    Attributes:
        failures: why nodes cannot be followed through.
    """

    def __init__(self, model: nn.Module, inputs: Any, observer: GraphObserver) -> None:
        """Run the network and build the graph.

        Args:
            model: a private copy of the network.
            inputs: the example batch.
            observer: runs the network and takes notes.
        """
        graph = tp.DependencyGraph()
        graph.verbose, graph.model, graph.ignored_params = False, model, []
        graph._module2name = {module: name for name, module in model.named_modules()}
        graph._param_to_name, graph.unwrapped_parameters = graph._detect_unwrapped_parameters(None)
        graph.module2node = graph._trace(model, inputs, observer, output_transform=observer.outputs)
        graph._build_dependency(graph.module2node)
        _tell_widths(graph, observer.padded)
        self._graph = graph
        self.failures: dict[Any, str] = {}
        self._equal_parts: dict[Any, int] = {}
        self._given = self._visits = 0
        widths = (parameter.numel() // len(parameter) for parameter in model.parameters()
                  if parameter.ndim > 1)  # fmt: skip
        self._widest = max(2**18, 4 * max(widths, default=0))
        with warnings.catch_warnings():
            # Torch-Pruning says where it gives up to look for a size.
            warnings.filterwarnings("ignore", "Maximum recursive depth")
            for step in (shape_infer.init_shape_information, index_mapping.update_index_mapping):
                for module, node in graph.module2node.items():
                    self._try_node(step, module, node)
            for node in graph.module2node.values():
                if node.grad_fn in observer.joined:
                    _map_joined(self._graph, node, observer.joined[node.grad_fn])
                if node.grad_fn in observer.padded:
                    _map_padded(node, observer.padded[node.grad_fn])
                if type(node.grad_fn).__name__ in _SPLITS:
                    self._equal_parts[node] = _map_split(self._graph, node)

    def _try_node(self, step: Callable[[Any], None], module: Any, node: Any) -> None:
        """Let Torch-Pruning work on one node, and note where it fails."""
        alone = copy.copy(self._graph)
        alone.module2node = {module: node}
        try:
            step(alone)
        except GRAPH_ERRORS:
            self.failures[node] = f"its channels cannot be followed through {_describe(node)}"

    def groups(self) -> Iterator[Followed]:
        """Yield where the channels of every convolution and linear layer go, each channel once."""
        done: dict[int, Indices] = {}
        for module, node in self._graph.module2node.items():
            if not isinstance(module, Prunable):
                continue
            width = int(self._graph.get_pruner_of_module(module).get_out_channels(module))
            left = np.setdiff1d(np.arange(width), done.get(id(module), ()))
            if not left.size:
                continue
            followed = self._follow(module, node, left)
            done[id(module)] = np.arange(width)
            for item in followed.items:
                if self._graph.is_out_channel_pruning_fn(item.handler):
                    key = id(item.node.module)
                    done[key] = np.union1d(done.get(key, ()), item.entries).astype(np.int64)
            yield followed

    def _follow(self, module: Any, node: Any, start: Indices) -> Followed:
        handler = self._graph.get_pruner_of_module(module).prune_out_channels
        width = start.size
        visit = _Visit(width)
        reasons: list[str] = []
        stack = [(node, handler, *visit.enter(node, handler, start, np.arange(width)))]
        while stack:
            node, handler, entries, roots = stack.pop()
            self._visits += 1
            if node in self.failures and self.failures[node] not in reasons:
                reasons.append(self.failures[node])
            for dependency in node.dependencies:
                if not dependency.is_triggered_by(handler):
                    continue
                try:
                    reached = self._map(dependency.index_mapping, entries, roots)
                except GRAPH_ERRORS as error:
                    known = str(error) == ENDLESS
                    reasons.append(ENDLESS if known else self._fail(dependency.target))
                    continue
                fresh = visit.enter(dependency.target, dependency.handler, *reached)
                if fresh[0].size:
                    stack.append((dependency.target, dependency.handler, *fresh))
        size, items = visit.result(self._equal_parts)
        if width > 1 and size == 1:
            reasons.append("its channels can only go all together")
        return Followed(size, items, reasons)

    def _fail(self, node: Any) -> str:
        self.failures[node] = f"its channels cannot be followed through {_describe(node)}"
        return self.failures[node]

    def _map(self, maps: Any, entries: Indices, roots: Indices) -> tuple[Indices, Indices]:
        if self._visits > VISIT_LIMIT:
            raise RuntimeError(ENDLESS)
        for mapping in maps:
            if mapping is None or not entries.size:
                continue
            kind = type(mapping).__name__
            # What multiplies would fill the memory before its result could be counted.
            grows = kind == "_FlattenIndexMapping" and not mapping.reverse
            self._given += entries.size * (int(mapping._stride) if grows else 1)
            if self._given > INDEX_MAP_LIMIT:
                raise RuntimeError(ENDLESS)
            entries, roots = _MAPS.get(kind, _map_by_pairs)(mapping, entries, roots)
            # Far beyond the widest layer they are lost, and a table of them would fill the memory.
            if entries.size and int(entries.max()) >= self._widest:
                raise RuntimeError(ENDLESS)
        return entries, roots


def _map_joined(graph: Any, node: Any, joined: Joined) -> None:
    """Give a concatenation the index maps that its sizes say, in place."""
    needed = shape_infer.infer_in_channels_recursively(graph, node, [0])
    of_channels = joined.dim in (1, joined.dims - 1) and needed in (None, joined.total)
    if len(joined.parts) != len(node.inputs):
        return
    edges = _Edges()
    for offset, source in zip(joined.parts, node.inputs, strict=True):
        for owner, target, reverse in ((node, source, True), (source, node, False)):
            mapping = index_mapping._ConcatIndexMapping(offset=offset, reverse=reverse)
            edges.put(owner, target, 1, mapping if of_channels else None)


def _tell_widths(graph: Any, padded: Mapping[Any, Padded]) -> None:
    """Let the graph know how many channels paddings read and make, in place."""
    makes, reads = graph.get_out_channels, graph.get_in_channels

    def out_channels(node: Any) -> Any:
        known = padded.get(getattr(node, "grad_fn", None))
        return known.total if known else makes(node)

    def in_channels(node: Any) -> Any:
        known = padded.get(getattr(node, "grad_fn", None))
        return known.channels if known else reads(node)

    graph.get_out_channels, graph.get_in_channels = out_channels, in_channels


def _map_padded(node: Any, padded: Padded) -> None:
    """Give a padding the index maps that say where it puts the channels of the map, in place."""
    edges = _Edges()
    offset = (padded.front, padded.front + padded.channels)
    for source in node.inputs:
        for owner, target, reverse in ((node, source, True), (source, node, False)):
            mapping = index_mapping._ConcatIndexMapping(offset=offset, reverse=reverse)
            edges.put(owner, target, 1, mapping)


_SPLITS = ("SplitBackward0", "SplitWithSizesBackward0", "UnsafeSplitBackward0")


def _map_split(graph: Any, node: Any) -> int:
    """Give the parts of a split the index maps that their sizes say, in place.

    Torch-Pruning takes the nodes that read the parts for the parts themselves, but a part may be
    read several times, and none of it.

    Returns:
        The size of the parts where all are of one size; 0 where they are not.
    """
    function = node.grad_fn
    shape = function._saved_self_sym_sizes
    dim = (function._saved_dim + 2**63) % 2**64 - 2**63  # which is unsigned there
    dim %= len(shape)
    size = getattr(function, "_saved_split_size", shape[dim])
    sizes = getattr(function, "_saved_split_sizes", [size] * -(-shape[dim] // max(1, size)))
    ends = np.minimum(np.cumsum(sizes), shape[dim]).tolist()
    needed = next(
        (shape_infer.infer_out_channels_recursively(graph, n, [0]) for n in node.inputs), None
    )
    of_channels = dim in (1, len(shape) - 1) and needed in (None, shape[dim])
    edges = _Edges()
    for reader in dict.fromkeys(node.outputs):
        if reader.grad_fn is None or not hasattr(reader.grad_fn, "next_functions"):
            continue
        for before, number in reader.grad_fn.next_functions:
            if before is function:
                offset = ([0, *ends][number], ends[number])
                for owner, target, reverse in ((node, reader, False), (reader, node, True)):
                    mapping = index_mapping._SplitIndexMapping(offset=offset, reverse=reverse)
                    edges.put(owner, target, 0, mapping if of_channels else None)
    return int(sizes[0]) if of_channels and shape[dim] == len(sizes) * sizes[0] else 0


class _Edges:
    """Takes the dependencies between two nodes one after the other."""

    def __init__(self) -> None:
        self._done: list[Any] = []

    def put(self, owner: Any, target: Any, place: int, mapping: Any) -> None:
        """Set the index map of the next dependency of ``owner`` on ``target``."""
        for dependency in owner.dependencies:
            if dependency.target is target and all(dependency is not d for d in self._done):
                self._done.append(dependency)
                dependency.index_mapping[place] = mapping
                return


class _Visit:
    """The entries that the channels of one root have reached."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._tables: dict[tuple[Any, Any], Indices] = {}  # root of every entry, -1 none
        self._equal: list[tuple[Indices, Indices]] = []

    def enter(
        self, node: Any, handler: Any, entries: Indices, roots: Indices
    ) -> tuple[Indices, Indices]:
        """Note which roots reach which entries; return those that none had reached."""
        if not entries.size:
            return entries, roots
        key = node, handler
        table = self._tables.get(key, np.zeros(0, dtype=np.int64))
        if (missing := int(entries.max()) + 1 - table.size) > 0:
            table = np.concatenate([table, np.full(missing, -1, dtype=np.int64)])
        fresh = table[entries] < 0
        first, index = np.unique(entries[fresh], return_index=True)
        table[first] = roots[fresh][index]
        self._tables[key] = table
        other = table[entries] != roots
        if other.any():
            self._equal.append((table[entries][other], roots[other]))
        return first, table[first]

    def result(self, equal_parts: Mapping[Any, int]) -> tuple[int, list[FollowedItem]]:
        """Return the number of channels, and the items with their numbers.

        Args:
            equal_parts: node of a split -> size of its parts, which must stay equal; 0 for others.
        """
        for (node, _), table in self._tables.items():
            if size := equal_parts.get(node, 0):
                entries = np.flatnonzero(table >= 0)
                entries = entries[table[entries % size] >= 0]
                self._equal.append((table[entries], table[entries % size]))
        parent = list(range(self._width))

        def find(root: int) -> int:
            while parent[root] != root:
                parent[root] = parent[parent[root]]
                root = parent[root]
            return root

        for one, other in self._equal:
            for pair in np.unique(np.stack([one, other], 1), axis=0).tolist():
                low, high = sorted((find(pair[0]), find(pair[1])))
                parent[high] = low  # the smaller one leads, so that channels keep their order
        leaders, numbers = np.unique([find(root) for root in parent], return_inverse=True)
        items = []
        for (node, handler), table in self._tables.items():
            entries = np.flatnonzero(table >= 0)
            items.append(FollowedItem(node, handler, entries, numbers[table[entries]]))
        return len(leaders), items


def _describe(node: Any) -> str:
    """Return a name of a node for a person: its layer, or the function of torch."""
    if node._name:
        return f"{node._name!r}"
    function = node.grad_fn.name() if hasattr(node.grad_fn, "name") else type(node.module).__name__
    return str(function).removesuffix("0").removesuffix("1").removesuffix("Backward")


def _flatten(mapping: Any, entries: Indices, roots: Indices) -> tuple[Indices, Indices]:
    stride = int(mapping._stride)
    if mapping.reverse:
        return entries // stride, roots
    spread = entries[:, None] * stride + np.arange(stride)
    return spread.ravel(), np.repeat(roots, stride)


def _concat(mapping: Any, entries: Indices, roots: Indices) -> tuple[Indices, Indices]:
    start, stop = mapping.offset[:2]
    if not mapping.reverse:
        return entries + start, roots
    inside = (entries >= start) & (entries < stop)
    return entries[inside] - start, roots[inside]


def _split(mapping: Any, entries: Indices, roots: Indices) -> tuple[Indices, Indices]:
    start, stop = mapping.offset[:2]
    if mapping.reverse:
        return entries + start, roots
    inside = (entries >= start) & (entries < stop)
    return entries[inside] - start, roots[inside]


def _slice(mapping: Any, entries: Indices, roots: Indices) -> tuple[Indices, Indices]:
    if mapping.reverse:
        return entries * mapping.step + mapping.start, roots
    offset = entries - mapping.start
    inside = (offset >= 0) & (entries < mapping.end) & (offset % mapping.step == 0)
    return offset[inside] // mapping.step, roots[inside]


def _map_by_pairs(mapping: Any, entries: Indices, roots: Indices) -> tuple[Indices, Indices]:
    """Map with Torch-Pruning's own function, which takes pairs."""
    pairs = [
        _helpers._HybridIndex(idx=entry, root_idx=root)
        for entry, root in zip(entries.tolist(), roots.tolist(), strict=True)
    ]
    mapped = mapping(pairs)
    if any(pair.root_idx is None for pair in mapped):
        raise RuntimeError("the way back to the channels is lost")
    return (
        np.array([pair.idx for pair in mapped], dtype=np.int64),
        np.array([pair.root_idx for pair in mapped], dtype=np.int64),
    )


_MAPS: dict[str, Callable[[Any, Indices, Indices], tuple[Indices, Indices]]] = {
    "_FlattenIndexMapping": _flatten,
    "_ConcatIndexMapping": _concat,
    "_SplitIndexMapping": _split,
    "_SliceIndexMapping": _slice,
}
"""Torch-Pruning's index maps, on arrays."""
