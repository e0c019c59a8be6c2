"""The weights that read each output channel of a layer, gathered from the layers behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.statistics.layers import TRANSPOSED


class Reader(NamedTuple):
    """A layer that reads output channels of another; plain data, without tensors.

    Attributes:
        module: dotted name of the reading layer.
        entries: ``entries[q]`` are the input entries of the reader that carry output entry ``q``
            of the layer that is read: none, one, or several (behind a flattening one for each
            position).
    """

    module: str
    entries: tuple[tuple[int, ...], ...]


def by_input(weight: Tensor, module: nn.Module) -> Tensor:
    """Sort a tensor in the layout of a layer's weight by the input entry that each weight reads.

    Args:
        weight: as for :func:`~gp_prune.statistics.layers.to_dense`.
        module: the layer that the tensor belongs to.

    Returns:
        (i, o / groups * k), float64.
    """
    values = weight.detach().to(torch.float64)
    if isinstance(module, nn.Linear):
        return values.T
    if isinstance(module, TRANSPOSED):
        return values.flatten(1)
    groups = int(module.groups)  # type: ignore[arg-type]
    blocks = values.reshape(groups, values.shape[0] // groups, *values.shape[1:]).flatten(3)
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)


def outgoing(
    channels: int, readers: Sequence[Reader], columns: Callable[[str], Tensor], like: Tensor
) -> Tensor:
    """Everything that reads each output channel of a layer, reader after reader.

    Args:
        channels: number of output channels of the layer.
        readers: the layers that read them.
        columns: name of a reader -> its numbers by input entry, see :func:`by_input`.
        like: a tensor of the device that the result should have.

    Returns:
        (o, j), float64; rows of channels that fewer weights read are filled up with zeros, and
        where nothing is read, there is one column of zeros.
    """
    blocks = [torch.zeros(channels, 0, dtype=torch.float64, device=like.device)]
    for reader in readers:
        table = columns(reader.module)
        width = max((len(entries) for entries in reader.entries), default=0)
        nothing = table.shape[0]
        table = torch.cat([table, table.new_zeros(1, table.shape[1])])
        index = [[*entries, *[nothing] * (width - len(entries))] for entries in reader.entries]
        chosen = torch.tensor(index, dtype=torch.int64, device=table.device)
        blocks.append(table[chosen.reshape(channels, width)].flatten(1))
    found = torch.cat(blocks, dim=1)
    return found if found.shape[1] else found.new_zeros(channels, 1)
