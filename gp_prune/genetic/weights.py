"""Cut the network of a plan out of the dense one, and keep the weights of all networks of a run.

The weights of every network of a run are kept in the shapes of the dense network. What is pruned
keeps the values that it had when it was removed, so a mutation that restores it brings them back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gp_prune.base.artifacts import read_tensors, write_tensors
from gp_prune.base.files import DamagedFileError
from gp_prune.errors import UserError
from gp_prune.genetic.plan import GeneticPlan
from gp_prune.genetic.source import PreparedModel
from gp_prune.pruning import Architecture, compact
from gp_prune.pruning.surgery import channel_masks
from gp_prune.runs.jobs import Workbench

State = dict[str, Tensor]

DENSE = "dense"
"""Stands for a digest: the weights of the network that is pruned."""


def cut_network(model: nn.Module, plan: GeneticPlan, architecture: Architecture) -> nn.Module:
    """Return a copy of ``model`` without the channels of a plan, its other pruned weights zero."""
    smaller = compact(model, plan.channel_plan(architecture), architecture)
    with torch.no_grad():
        for (layer, name), mask in find_weight_masks(model, plan, architecture).items():
            weight: Tensor = getattr(smaller.get_submodule(layer), name)
            weight.mul_(mask.to(weight.device, weight.dtype))
    return smaller


def find_weight_masks(
    model: nn.Module, plan: GeneticPlan, architecture: Architecture
) -> dict[tuple[str, str], Tensor]:
    """Return (layer, ``"weight"``) -> bool mask of the weight's shape in the network of the plan.

    Args:
        model: the dense network.
        plan: the plan.
        architecture: of the dense network.
    """
    if not plan.kept:
        return {}
    stays = channel_masks(model, architecture.entries(dict(plan.removed)))
    masks = {}
    for name, marks in plan.marks().items():
        mask = torch.from_numpy(marks)
        keep = stays.get((name, "weight"))
        if keep is not None:  # what stays is a product of rows and columns
            flat = keep.cpu().reshape(*keep.shape[:2], -1)
            mask = mask[flat.any(2).any(1)][:, flat.any(2).any(0)]
        masks[name, "weight"] = mask
    return masks


def find_positions(model: nn.Module, plan: GeneticPlan, architecture: Architecture) -> State:
    """Find every number of the plan's network in the flat tensors of the dense one.

    Args:
        model: the dense network; it is only read.
        plan: the plan.
        architecture: of the dense network.

    Returns:
        name in the state dict -> int64 tensor of the shape of the smaller one; tensors that are
        not cut included.
    """
    numbered = copy.deepcopy(model).cpu().double()
    with torch.no_grad():
        for tensor in numbered.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.arange(tensor.numel(), dtype=tensor.dtype).view(tensor.shape))
    smaller = compact(numbered, plan.channel_plan(architecture), architecture)
    return {
        name: tensor.long()
        for name, tensor in smaller.state_dict().items()
        if tensor.is_floating_point()
    }


def put_back(
    state: Mapping[str, Tensor], trained: nn.Module, places: State, plan: GeneticPlan
) -> State:
    """Return the dense weights with those of a plan's network in their places.

    Args:
        state: dense shapes; what the plan removes keeps its values.
        trained: the network of the plan.
        places: what :func:`find_positions` returns for the plan.
        plan: the plan; its zeros are not put back.
    """
    marks = plan.marks()
    # Contiguous, whatever the memory format of the model: the places are in that order.
    dense = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    for name, tensor in trained.state_dict().items():
        values = tensor.detach().cpu()
        if name not in places:
            dense[name] = values.clone()
            continue
        where, values = places[name].flatten(), values.flatten()
        layer = name.removesuffix(".weight")
        if name.endswith(".weight") and layer in marks:
            alive = torch.from_numpy(marks[layer]).flatten()[where]
            where, values = where[alive], values[alive]
        dense[name].view(-1)[where] = values
    return dense


def save_state(state: Mapping[str, Tensor], folder: Path) -> str:
    """Write weights into a folder, under the SHA-256 of the file, which is returned.

    Raises:
        UserError: they cannot be written.
    """
    try:
        return write_tensors(folder, "{:.32}.safetensors", state)
    except OSError as error:
        raise UserError(
            f"weights {str(error.filename or folder)!r} cannot be written: {error.strerror}; mend "
            "this and go on with --resume"
        ) from error


def state_path(folder: Path, digest: str) -> Path:
    """Return the file of the weights with that digest."""
    return folder / f"{digest[:32]}.safetensors"


def load_state(folder: Path, digest: str) -> State:
    """Read weights that :func:`save_state` wrote.

    Raises:
        UserError: the file is missing or is not what was written.
    """
    path = state_path(folder, digest)
    try:
        return read_tensors(path, digest)
    except (OSError, DamagedFileError):
        raise UserError(
            f"weights {str(path)!r} are missing or damaged; every worker must see the run folder, "
            "so put it where all can, or remove the file and go on with --resume"
        ) from None


def load_network(
    prepared: PreparedModel, folder: str, weights: str, workbench: Workbench
) -> nn.Module:
    """Return the dense network with the weights of that digest; nobody may change it."""
    if weights == DENSE:
        return prepared.model

    def load() -> nn.Module:
        model = copy.deepcopy(prepared.model)
        model.load_state_dict(load_state(Path(folder), weights))
        return model

    return workbench.recall(f"network\0{folder}\0{weights}", load)
