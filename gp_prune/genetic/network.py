"""The network of a plan, and the way of its weights back into the dense one.

The weights of every network of a run are kept in the shapes of the dense network, what is pruned
included as it was when it went; so what a mutation restores comes back with its last weights.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gp_prune._io import write_bytes
from gp_prune.errors import UserError
from gp_prune.genetic.plan import Plan
from gp_prune.pruning import Architecture, compact
from gp_prune.pruning.surgery import channel_masks
from gp_prune.training import Held

State = dict[str, Tensor]


def pruned(model: nn.Module, plan: Plan, architecture: Architecture) -> nn.Module:
    """A copy of ``model`` without the channels of a plan, and with its other weights at zero."""
    smaller = compact(model, plan.channels(architecture), architecture)
    with torch.no_grad():
        for name, mask in kept_weights(model, plan, architecture).items():
            weight = smaller.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.mul_(mask.to(weight.device, weight.dtype))
    return smaller


def kept_weights(model: nn.Module, plan: Plan, architecture: Architecture) -> dict[str, Tensor]:
    """Layer -> bool mask of the shape that its weight has in the network of the plan.

    Args:
        model: the dense network.
        plan: the plan.
        architecture: of the dense network.
    """
    if not plan.kept:
        return {}
    entries = architecture.entries(dict(plan.removed))
    stays = channel_masks(model, entries)
    found = {}
    for name, marks in plan.marks().items():
        mask = torch.from_numpy(marks)
        keep = stays.get((name, "weight"))
        found[name] = mask if keep is None else _part(mask, keep.cpu())
    return found


def _part(values: Tensor, keep: Tensor) -> Tensor:
    """The rows and columns of ``values`` that ``keep`` marks; what is marked is a product."""
    flat = keep.reshape(*keep.shape[:2], -1)
    return values[flat.any(2).any(1)][:, flat.any(2).any(0)]


def held(model: nn.Module, plan: Plan, architecture: Architecture) -> Held:
    """What must stay zero while the network of a plan is trained."""
    masks = kept_weights(model, plan, architecture)
    return {(name, "weight"): mask for name, mask in masks.items()}


def positions(model: nn.Module, plan: Plan, architecture: Architecture) -> State:
    """Where every number of the plan's network stands in the flat tensors of the dense one.

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
    smaller = compact(numbered, plan.channels(architecture), architecture)
    return {
        name: tensor.long()
        for name, tensor in smaller.state_dict().items()
        if tensor.is_floating_point()
    }


def put_back(state: Mapping[str, Tensor], trained: nn.Module, places: State, plan: Plan) -> State:
    """The weights of a plan's network in their places in the dense shapes.

    Args:
        state: dense shapes; what the plan removes keeps its values.
        trained: the network of the plan.
        places: what :func:`positions` says of the plan.
        plan: the plan; its zeros are not put back.
    """
    marks = plan.marks()
    # Contiguous, whatever the memory format of the model: the places are in that order.
    found = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    for name, tensor in trained.state_dict().items():
        values = tensor.detach().cpu()
        if name not in places:
            found[name] = values.clone()
            continue
        place = places[name].flatten()
        layer = name.removesuffix(".weight")
        if name.endswith(".weight") and layer in marks:
            alive = torch.from_numpy(marks[layer]).flatten()[place]
            found[name].view(-1)[place[alive]] = values.flatten()[alive]
        else:
            found[name].view(-1)[place] = values.flatten()
    return found


def save_state(state: Mapping[str, Tensor], folder: Path) -> str:
    """Write weights into a folder, named by their SHA-256, which is given back."""
    content = safetensors.torch.save({name: t.contiguous() for name, t in state.items()})
    digest = hashlib.sha256(content).hexdigest()
    path = state_path(folder, digest)
    if not path.exists():
        write_bytes(path, content)
    return digest


def state_path(folder: Path, digest: str) -> Path:
    """Where weights of that digest stand."""
    return folder / f"{digest[:32]}.safetensors"


def load_state(folder: Path, digest: str) -> State:
    """Read weights that :func:`save_state` wrote.

    Raises:
        UserError: the file is missing or is not what was written.
    """
    path = state_path(folder, digest)
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == digest:
            return dict(safetensors.torch.load(content))
    except (OSError, SafetensorError):
        pass
    raise UserError(
        f"weights {str(path)!r} are missing or damaged; every worker must see the run folder, so "
        "put it where all can, or remove the file and go on with --resume"
    )
