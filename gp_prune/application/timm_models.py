"""Networks of the package timm, where it is installed."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn

from gp_prune.errors import UserError
from gp_prune.vision import import_torchvision

TIMM = "timm:"
_IMAGENET_MEAN = (0.485, 0.456, 0.406)


class TimmModel(NamedTuple):
    """A network of timm.

    Attributes:
        model: the network, in evaluation mode, with random weights.
        input_shape: sizes of one input sample; None where timm does not say.
        imagenet: whether it expects images normalised with ImageNet's mean and deviation.
    """

    model: nn.Module
    input_shape: tuple[int, ...] | None
    imagenet: bool


def timm_model(name: str) -> TimmModel:
    """The network that timm knows by that name, with or without a tag; nothing is downloaded.

    Raises:
        UserError: timm is not installed or has no such network, or cannot build it.
    """
    timm = import_timm()
    known = set(timm.list_models())
    tagged = "." in name
    if name not in (timm.list_pretrained() if tagged else known):
        raise UserError(_unknown(timm, name, known))
    try:
        model: Any = timm.create_model(name, pretrained=False)
    except (ImportError, RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"timm cannot build {name!r} ({reason}); name another model") from error
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    shape = config.get("input_size")
    imagenet = tuple(config.get("mean") or ()) == _IMAGENET_MEAN
    return TimmModel(model.eval(), tuple(shape) if shape else None, imagenet)


def import_timm() -> ModuleType:
    """The module ``timm``, also where torchvision's compiled operators do not fit.

    Raises:
        UserError: timm is not installed.
    """
    # timm imports torchvision if it is there, so it must be importable before.
    with contextlib.suppress(UserError):
        import_torchvision()
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise UserError(
            "timm is not installed, and models called timm:NAME come from it; install it with: "
            "pip install timm"
        ) from error


def _unknown(timm: ModuleType, name: str, known: set[str]) -> str:
    base, _, tag = name.partition(".")
    if tag and base in known:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
        has = f"its tags are {', '.join(tags)}" if tags else f"give {TIMM + base}"
        return f"timm's model {base!r} has no tag {tag!r}; {has}"
    close = difflib.get_close_matches(base, known, n=1)
    hint = f"did you mean {TIMM + close[0]!r}?" if close else f"one is {TIMM + 'resnet18'!r}"
    return f"timm has no model {name!r}; {hint}"
