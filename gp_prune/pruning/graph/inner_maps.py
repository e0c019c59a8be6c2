"""Compare what the layers of a cut network put out with what those of the masked one do.

The outputs of a network may tell nothing of a cut: they are empty where no score is high enough,
whole numbers after ``argmax``, or zero where the last layer starts at zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gp_prune.pruning.modules import Conv, Prunable, all_close

InnerMaps = list[tuple[str, Tensor]]
"""Name of a layer and its output (positions, channels), in the order of the calls."""

_POSITIONS = 64  # of an output that are kept: a difference of channels is one at most positions


@contextmanager
def recorded_maps(model: nn.Module) -> Iterator[InnerMaps]:
    """Note what the convolutions and linear layers of a network put out inside."""
    maps: InnerMaps = []

    def note(name: str, module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            maps.append((name, _rows(module, output.detach())))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, Prunable):
                hook = module.register_forward_hook(partial(note, name))
                stack.callback(hook.remove)
        yield maps


def _rows(module: nn.Module, output: Tensor) -> Tensor:
    """Return some positions of an output as (positions, channels), in memory of their own."""
    if isinstance(module, Conv):
        output = output.movedim(output.ndim - 1 - len(module.kernel_size), -1)
    rows = output.reshape(-1, output.shape[-1])
    step = max(1, len(rows) // _POSITIONS)
    return rows[::step].clone()


def find_differing_layer(
    masked: InnerMaps, cut: InnerMaps, removed: Mapping[str, NDArray[np.int64]]
) -> str:
    """Return the first layer that puts out something else, but for what is removed; or "".

    Args:
        masked: outputs of the network whose channels are zero.
        cut: outputs of the network without them.
        removed: layer name -> outputs that go.
    """
    if [name for name, _ in masked] != [name for name, _ in cut]:
        return next((name for name, _ in masked), "the first")
    for (name, whole), (_, part) in zip(masked, cut, strict=True):
        if name in removed:
            stays = np.setdiff1d(np.arange(whole.shape[1]), removed[name])
            whole = whole.index_select(1, torch.from_numpy(stays).to(whole.device))
        if not all_close([whole], [part]):
            return name
    return ""
