"""Read networks of the package transformers from a local folder, and write them back.

A folder is what ``save_pretrained`` writes: ``config.json`` and weights as safetensors. Nothing is
downloaded, no code of the folder is run, and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune._compat import import_beside_torchvision
from gp_prune.base.files import read_file
from gp_prune.base.json_fields import parse_json, write_json
from gp_prune.base.names import HF
from gp_prune.base.sizes import format_size
from gp_prune.errors import UserError, first_line
from gp_prune.pruning import unmask
from gp_prune.pruning.modules import masked_parameters
from gp_prune.statistics import prunable_layers
from gp_prune.statistics.running import copy_model
from gp_prune.tasks.images import IMAGENET_MEAN

CONFIG = "config.json"
REPORT = "gp_prune.json"
"""What a pruned folder has besides what transformers reads: the report of the pruning."""

_MOST_CONFIG = 2**22
_LENGTH = 512
"""Tokens of a sequence, at most, where the network takes more."""
_BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
"""Files beside the network that are copied with it."""


@dataclass(frozen=True)
class HFModel:
    """A network of transformers, with its layers in the form that gp-prune ranks.

    Attributes:
        folder: where it comes from.
        model: the network, in evaluation mode; layers of the class ``Conv1D`` (of GPT-2) are
            :class:`LinearConv1D`.
        example_inputs: (1, positions) tokens, or (1, channels, height, width) of an image.
        whole: layers that keep all weights unless a person asks for it: heads and embeddings.
        text: whether it takes tokens.
        causal: whether it predicts the token that follows each.
        imagenet: whether it expects images normalised with ImageNet's mean and deviation.
        other_images: how it expects images otherwise; empty where they need no more.
    """

    folder: Path
    model: nn.Module
    example_inputs: Tensor
    whole: tuple[str, ...]
    text: bool
    causal: bool
    imagenet: bool
    other_images: str


class LinearConv1D(nn.Linear):
    """A ``Conv1D`` of transformers, whose weight is (in, out), as a linear layer."""


def load_hf(folder: str) -> HFModel:
    """Load the network of a folder that ``save_pretrained`` has written.

    Raises:
        UserError: there is no such folder, it has code of its own, its weights are not
            safetensors or do not fit the memory, or transformers is not installed or cannot load
            it.
    """
    path = Path(folder).expanduser()
    config = read_config(path)
    files = _weight_files(path)
    _check_memory(path, files)
    transformers = import_transformers()
    name = (config.get("architectures") or [""])[0]
    kind = getattr(transformers, name, None) if isinstance(name, str) and name else None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise UserError(
            f"the folder {folder!r} names the architecture {name!r}, which transformers "
            f"{transformers.__version__} does not have; give a folder of a model that it has"
        )
    loader: Any = kind
    try:
        with _quiet(transformers):
            model, loading = loader.from_pretrained(
                str(path), local_files_only=True, use_safetensors=True, trust_remote_code=False,
                dtype="auto", output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # of any file in the folder
        raise UserError(
            f"transformers cannot load the folder {folder!r} ({type(error).__name__}: "
            f"{first_line(error)}); give one that save_pretrained has written"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise UserError(
            f"the folder {folder!r} has no weights for {missing[0]!r}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; give the folder of a "
            "trained network of this architecture"
        )
    model = model.eval()
    whole = find_whole(model)
    text, inputs = _example_inputs(model)
    _to_linear(model)
    causal = name.endswith(("ForCausalLM", "LMHeadModel"))
    imagenet, other = _images(path) if not text else (False, "")
    return HFModel(path, model, inputs, whole, text, causal, imagenet, other)


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Keep transformers from writing progress and remarks to the screen."""
    logging = transformers.utils.logging
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def import_transformers() -> ModuleType:
    """Import the package ``transformers``; UserError if it is not installed."""
    purpose = f"a network {HF}FOLDER"
    return import_beside_torchvision("transformers", purpose, "gp-prune[transformers]")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a folder.

    Raises:
        UserError: it is no such folder, or the network has code of its own.
    """
    try:
        content = read_file(folder / CONFIG, _MOST_CONFIG)
        config = parse_json(content)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(folder)!r} has no {CONFIG} that can be read; name a folder that "
            "save_pretrained of transformers has written"
        ) from error
    if not isinstance(config, dict):
        raise UserError(f"{str(folder / CONFIG)!r} holds no object; it is no configuration")
    if "auto_map" in config:
        raise UserError(
            f"the network in {str(folder)!r} brings Python code of its own (auto_map), which is "
            "never run; give a network whose architecture is part of transformers"
        )
    return config


def _weight_files(folder: Path) -> list[Path]:
    """Return the files with weights; UserError unless they are safetensors."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"the folder {str(folder)!r} has no weights as safetensors, and other files are not "
            "read, since they can run code; save the network again with save_pretrained"
        )
    return files


def _check_memory(folder: Path, files: list[Path]) -> None:
    """Raise UserError where the weights do not fit into the memory that is left."""
    needed = sum(file.stat().st_size for file in files)
    left = available_memory()
    if left is not None and needed > left:
        raise UserError(
            f"the weights in {str(folder)!r} need {format_size(needed)} of memory, and "
            f"{format_size(left)} are left; use a machine with more, or a smaller network"
        )


def available_memory() -> int | None:
    """Return the bytes of memory that are left; None where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def find_whole(model: Any) -> tuple[str, ...]:
    """Return the layers outside of the base model (the heads), and those of the embeddings."""
    base = f"{model.base_model_prefix}."
    prunable = prunable_layers(model)
    layers = [
        name for name, module in model.named_modules() if name in prunable or _is_conv1d(module)
    ]
    has_base = any(name.startswith(base) for name in layers)
    return tuple(
        name for name in layers if (has_base and not name.startswith(base)) or _is_embedding(name)
    )


def _is_embedding(name: str) -> bool:
    return any("embed" in part for part in name.split("."))


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _modules(model: nn.Module, wanted: Any) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield parent, name in it, and module of those that fit."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if wanted(child):
                yield parent, name, child


def _to_linear(model: nn.Module) -> None:
    """Put a linear layer in the place of every Conv1D, in place."""
    for parent, name, child in _modules(model, _is_conv1d):
        weight: Any = child.weight
        bias: Any = child.bias
        inputs, outputs = weight.shape
        layer = LinearConv1D(inputs, outputs, device="meta")
        layer.weight = nn.Parameter(weight.detach().T.contiguous())
        layer.bias = nn.Parameter(bias.detach())
        setattr(parent, name, layer.train(child.training))


def to_conv1d(model: nn.Module) -> None:
    """Put the Conv1D of transformers back, in place."""
    from transformers.pytorch_utils import Conv1D

    for parent, name, child in _modules(model, lambda m: isinstance(m, LinearConv1D)):
        assert isinstance(child, LinearConv1D)
        layer: Any = Conv1D(child.out_features, child.in_features)  # type: ignore[no-untyped-call]
        layer.weight = nn.Parameter(child.weight.detach().T.contiguous())
        layer.bias = nn.Parameter(child.bias.detach())
        setattr(parent, name, layer.train(child.training))


def _example_inputs(model: Any) -> tuple[bool, Tensor]:
    """Return whether the network takes tokens, and one sample of what it takes.

    Raises:
        UserError: it takes something else.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", 224)
        sides = (size, size) if isinstance(size, int) else tuple(size)
        channels = getattr(config, "num_channels", 3)
        dtype = next(model.parameters()).dtype
        return False, torch.randn(1, channels, *sides, generator=generator).to(dtype)
    if model.main_input_name != "input_ids" or config.is_encoder_decoder:
        raise UserError(
            f"a network of type {type(model).__name__} takes neither tokens alone nor images; "
            "prune it from Python, with gp_prune.prune(..., forward_fn=...)"
        )
    length = sequence_length(config)
    return True, torch.randint(0, config.vocab_size, (1, length), generator=generator)


def sequence_length(config: Any) -> int:
    """Return the tokens of a sequence: what the network takes, at most 512."""
    most = getattr(config, "max_position_embeddings", None)
    return min(_LENGTH, most) if isinstance(most, int) and most > 0 else _LENGTH


def _images(folder: Path) -> tuple[bool, str]:
    """Return whether images are normalised as ImageNet, and how they are normalised otherwise."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return False, ""
    try:
        facts = parse_json(read_file(file, _MOST_CONFIG))
    except (OSError, ValueError):
        return False, f"{file.name} cannot be read"
    if not isinstance(facts, dict) or not facts.get("do_normalize", True):
        return False, ""
    mean = facts.get("image_mean")
    if mean is None or mean == list(IMAGENET_MEAN):
        return mean is not None, ""
    return False, f"normalised by the mean {mean}"


def save_hf(model: nn.Module, folder: str | Path, source: Path, report: dict[str, Any]) -> None:
    """Write a masked network as ``save_pretrained`` does, with zeros where the masks are.

    The files of the tokenizer or of the image processor are copied from where it comes from.

    Args:
        model: the masked network; it is not changed.
        folder: new or empty.
        source: the folder that it was loaded from.
        report: of the pruning, written as ``gp_prune.json``.

    Raises:
        UserError: the folder cannot be written, or holds something already.
    """
    target = Path(folder).expanduser()
    check_target(target)
    # Without masks nothing of the tensors is changed.
    masked = next(masked_parameters(model), None) is not None
    tensors = () if masked else (*model.parameters(), *model.buffers())
    plain: Any = copy_model(model, {id(tensor): tensor for tensor in tensors})
    unmask(plain)
    to_conv1d(plain)
    plain.tie_weights()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _quiet(import_transformers()):
            plain.save_pretrained(target)
        for name in _BESIDE:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
        write_json(target / REPORT, json.loads(json.dumps(report, default=str)))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"output folder {str(target)!r} cannot be written ({reason}); name another"
        ) from error


def check_target(target: Path) -> None:
    """Raise UserError where a folder holds something, so that nothing is overwritten."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"output folder {str(target)!r} exists and is not empty; name a new one")
