"""Finding the network that a person names: of a package, of a task, or of an own Python file."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from gp_prune._compat import import_torchvision
from gp_prune.errors import UserError
from gp_prune.statistics.running import random_state
from gp_prune.tasks import TASK_NAMES, Task, load_task

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
        raise UserError(_unknown_timm(timm, name, known))
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


def _unknown_timm(timm: ModuleType, name: str, known: set[str]) -> str:
    base, _, tag = name.partition(".")
    if tag and base in known:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
        has = f"its tags are {', '.join(tags)}" if tags else f"give {TIMM + base}"
        return f"timm's model {base!r} has no tag {tag!r}; {has}"
    close = difflib.get_close_matches(base, known, n=1)
    hint = f"did you mean {TIMM + close[0]!r}?" if close else f"one is {TIMM + 'resnet18'!r}"
    return f"timm has no model {name!r}; {hint}"


TORCHVISION = "torchvision:"
DEFAULT_SHAPE = (3, 224, 224)
"""Channels, height and width of an input image where nothing else is said."""

_KINDS = f"a task ({TASK_NAMES[0]}), {TORCHVISION}NAME, {TIMM}NAME or FILE.py:FUNCTION"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network and what is needed to run it.

    Attributes:
        name: what it was asked for by.
        model: the network, in evaluation mode unless a user's function says otherwise.
        example_inputs: inputs of one sample (or a small batch) for tracing and counting.
        task: the task that it belongs to, if any; brings data, loss and interface layers.
        origin: where its weights come from, for a person to read.
        imagenet: whether it expects images normalised with ImageNet's mean and deviation.
    """

    name: str
    model: nn.Module
    example_inputs: Any
    task: Task | None = None
    origin: str = ""
    imagenet: bool = False

    @property
    def interface(self) -> tuple[str, ...]:
        """Return the layers that the task never cuts."""
        return self.task.interface if self.task else ()

    @property
    def reconstructs(self) -> bool:
        """Return whether the network is to repeat its inputs."""
        return self.task is not None and self.task.kind == "reconstruction"


def load_model(
    spec: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    cache_dir: str | Path | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
) -> LoadedModel:
    """The network of that name; nothing but a task's data set is ever downloaded.

    Args:
        spec: a task name (its trained network), ``torchvision:NAME``, ``timm:NAME`` (where timm is
            installed), or ``FILE.py:FUNCTION``, where the function takes no arguments and returns a
            module, or a module and its example inputs.
        input_shape: sizes of one input sample; by default what timm says for its networks, and
            (3, 224, 224). A task and a function that returns example inputs have their own.
        weights: a state dict (``.safetensors``, or a torch file of plain tensors) for a network
            that is not a task's; without it torchvision's and timm's networks have random
            weights.
        seed: seed of the random weights, and of a task's training.
        device: where the network and its inputs are put.
        cache_dir: folder for the trained networks of tasks.
        data_root: folder with torchvision's data sets.
        download: whether torchvision may fetch the data set of a task.

    Raises:
        UserError: there is no such network, it cannot be made, or an option does not apply to it.
    """
    place = torch.device(device)
    if spec in TASK_NAMES:
        if input_shape is not None or weights is not None:
            raise UserError(
                f"{spec!r} is a task with its own weights and inputs; leave out --input-shape and "
                "--weights"
            )
        task = load_task(
            spec,
            cache_dir=cache_dir,
            data_root=data_root,
            download=download,
            seed=seed,
            device=place,
        )
        return LoadedModel(spec, task.model, task.example_inputs, task, "trained by gp-prune")
    made = _make(spec, seed)
    model, inputs = _unpacked(made.result, spec)
    if inputs is None:
        inputs = _random_inputs(input_shape or made.input_shape, seed)
    elif input_shape is not None:
        raise UserError(f"{spec!r} returns its own example inputs; leave out --input-shape")
    origin = made.origin
    if weights is not None:
        load_weights(model, weights)
        origin = f"weights from {weights}"
    return LoadedModel(spec, model.to(place), _moved(inputs, place), None, origin, made.imagenet)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Put the state dict in a file into ``model``; every entry must fit.

    Args:
        model: the network, changed in place.
        path: a ``.safetensors`` file, or a file of ``torch.save`` that holds plain tensors alone.

    Raises:
        UserError: the file cannot be read, holds something else, or is of another network.
    """
    put_state(model, _read_state(Path(path)), f"weights file {str(path)!r}")


def put_state(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """``load_state_dict`` that names the first entry that does not fit.

    Raises:
        UserError: an entry is missing, unknown or of another shape.
    """
    own = model.state_dict()
    for name, value in own.items():
        if name not in state:
            raise UserError(f"{what} lacks {name!r}; give the weights of this very network")
        if state[name].shape != value.shape:
            raise UserError(
                f"{what} has {name!r} of shape {tuple(state[name].shape)}, the network of shape "
                f"{tuple(value.shape)}; give the weights of this network"
            )
    for name in sorted(set(state) - set(own)):
        raise UserError(
            f"{what} has {name!r}, which the network has not; give the weights of this network"
        )
    own.update(state)  # in place, so that the versions of the modules' formats stay with it
    model.load_state_dict(own)


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name."""
    try:
        content = (
            safetensors.torch.load(path.read_bytes())
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"weights file {str(path)!r} cannot be read: {reason}") from error
    except Exception as error:  # each reader has its own kinds for a damaged file
        raise UserError(
            f"weights file {str(path)!r} is damaged or holds more than tensors; save "
            "model.state_dict() as safetensors"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(
            f"weights file {str(path)!r} is no state dict; save model.state_dict() by itself"
        )
    return content


class _Made(NamedTuple):
    """What a builder returned, and what is known about it (see :class:`LoadedModel`)."""

    result: Any
    origin: str
    imagenet: bool = False
    input_shape: tuple[int, ...] = DEFAULT_SHAPE


def _make(spec: str, seed: int) -> _Made:
    """Build the network of a package or of a user's file."""
    file, _, function = spec.rpartition(":")
    drawn = f"random weights from seed {seed}"
    if spec.startswith(TORCHVISION):
        name = spec.removeprefix(TORCHVISION)
        return _Made(_seeded(lambda: _torchvision_model(name), seed), drawn, True)
    if spec.startswith(TIMM):
        found = _seeded(lambda: timm_model(spec.removeprefix(TIMM)), seed)
        return _Made(found.model, drawn, found.imagenet, found.input_shape or DEFAULT_SHAPE)
    if file.endswith(".py"):
        result = _seeded(lambda: _call_users_function(Path(file), function), seed)
        return _Made(result, f"as {function}() returns it")
    raise _unknown(spec)


def _seeded(make: Callable[[], Any], seed: int) -> Any:
    with random_state(seed):
        return make()


def _torchvision_model(name: str) -> nn.Module:
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {TORCHVISION + close[0]!r}?" if close else f"one is {known[0]!r}"
        raise UserError(f"torchvision has no classification model {name!r}; {hint}")
    with warnings.catch_warnings():
        # Some builders announce that their way to draw first weights will change.
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = models.get_model(name, weights=None)
    return model.eval()


def _call_users_function(file: Path, name: str) -> Any:
    if not name.isidentifier():
        raise UserError(f"{f'{file}:{name}'!r} names no function; write {file}:FUNCTION")
    if not file.is_file():
        raise UserError(f"model file {str(file)!r} does not exist; give FILE.py:FUNCTION")
    with _importable(file.resolve().parent):
        module = _run_file(file)
        function = getattr(module, name, None)
        if not callable(function):
            raise UserError(_no_function(file, name, module))
        try:
            return function()
        # SystemExit too, which would otherwise end the program without a word.
        except (Exception, SystemExit) as error:
            raise UserError(
                f"function {name!r} of {str(file)!r} fails: {_brief(error)}; it must take no "
                "arguments and return a torch module"
            ) from error


def _run_file(file: Path) -> Any:
    module_name = f"gp_prune_user_model_{file.stem}"
    found = importlib.util.spec_from_file_location(module_name, file)
    if found is None or found.loader is None:
        raise UserError(f"model file {str(file)!r} is not a Python file (.py)")
    module = importlib.util.module_from_spec(found)
    sys.modules[module_name] = module
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"model file {str(file)!r} does not run: {_brief(error)}; mend the file"
        ) from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a user's file import its neighbours, as it could when run by itself."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _no_function(file: Path, name: str, module: Any) -> str:
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    ]
    close = difflib.get_close_matches(name, own, n=1)
    has = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(own) or 'none'}"
    return f"model file {str(file)!r} has no function {name!r}; {has}"


def _unpacked(made: Any, spec: str) -> tuple[nn.Module, Any]:
    """The module, and its example inputs or None."""
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"{spec!r} gives a {type(model).__name__}; it must give a torch.nn.Module, or a tuple "
            "(module, example_inputs)"
        )
    return model, inputs


def _random_inputs(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, *shape, generator=generator)


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, dict):
        return {name: _moved(value, device) for name, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        return tuple(_moved(value, device) for value in inputs)
    return inputs


def _unknown(spec: str) -> UserError:
    if spec.endswith(".py"):
        return UserError(f"model {spec!r} names no function; write {spec}:FUNCTION")
    models = import_torchvision().models
    known = [*TASK_NAMES, *(TORCHVISION + name for name in models.list_models(module=models))]
    bare = TORCHVISION + spec
    close = [bare] if bare in known else difflib.get_close_matches(spec, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"give {_KINDS}"
    return UserError(f"unknown model {spec!r}; {hint}")


def _brief(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
