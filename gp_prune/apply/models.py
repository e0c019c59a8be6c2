"""Finding the network that a person names: of a package, of a task, or of an own Python file."""

from __future__ import annotations

import contextlib
import difflib
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gp_prune._compat import import_beside_torchvision, import_torchvision
from gp_prune.apply.hf_models import HFModel, load_hf
from gp_prune.apply.weights import DEFAULT, loading_pretrained, quick_hub
from gp_prune.base.names import HF, TIMM, TORCHVISION
from gp_prune.errors import UserError, brief, first_line
from gp_prune.language.user_file import describe, run_python_file
from gp_prune.statistics.running import as_device, random_state, tensors_of, to_device
from gp_prune.statistics.time_limit import (
    MODEL_TIMEOUT,
    check_timeout,
    limit_forward,
    time_limit,
)
from gp_prune.tasks import TASK_NAMES, Task, is_task_name, load_task
from gp_prune.tasks.images import IMAGENET_MEAN
from gp_prune.training.network import check_model
from gp_prune.training.weights import load_weights


class BuiltModel(NamedTuple):
    """A network as a package or a user's function gives it.

    Attributes:
        model: the network, of a package in evaluation mode; a user's function may give a tuple
            (network, example inputs).
        input_shape: sizes of one input sample, where they are known.
        imagenet: whether it expects images normalised with ImageNet's mean and deviation.
        origin: which pretrained weights of the package it has; empty for random ones.
    """

    model: Any
    input_shape: tuple[int, ...] | None = None
    imagenet: bool = False
    origin: str = ""


def build_timm_model(name: str, *, pretrained: bool = False) -> BuiltModel:
    """Build the network that timm knows by that name, with or without a tag.

    Args:
        name: its name.
        pretrained: whether it has timm's weights, from the cache or downloaded; random by default.

    Raises:
        UserError: timm is not installed or has no such network, cannot build it or has no weights.
    """
    timm = import_timm()
    known = set(timm.list_models())
    tagged = "." in name
    if name not in (timm.list_pretrained() if tagged else known):
        raise UserError(_unknown_timm(timm, name, known))
    try:
        if pretrained:
            source = _timm_source(timm, name)
            with loading_pretrained(TIMM + name, source), quick_hub(source):
                model: Any = timm.create_model(name, pretrained=True)
        else:
            model = timm.create_model(name, pretrained=False)
    except UserError:
        raise
    except (ImportError, RuntimeError, ValueError, TypeError) as error:
        reason = first_line(error)
        raise UserError(f"timm cannot build {name!r} ({reason}); name another model") from error
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    shape = config.get("input_size")
    imagenet = tuple(config.get("mean") or ()) == IMAGENET_MEAN
    origin = f"pretrained weights {config.get('tag') or ''} of timm" if pretrained else ""
    return BuiltModel(model.eval(), tuple(shape) if shape else None, imagenet, origin)


def _timm_source(timm: ModuleType, name: str) -> str:
    """Return where timm's weights of a network come from; UserError if it has none."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    source = getattr(config, "hf_hub_id", "") or getattr(config, "url", "") if config else ""
    if not source:
        raise UserError(
            f"timm has no pretrained weights for {name!r}; leave out --weights, or give a file"
        )
    return f"https://huggingface.co/{source}" if "://" not in source else str(source)


def import_timm() -> ModuleType:
    """Import the package ``timm``; UserError if it is not installed."""
    return import_beside_torchvision("timm", f"a network {TIMM}NAME", "gp-prune[timm]")


def _unknown_timm(timm: ModuleType, name: str, known: set[str]) -> str:
    base, _, tag = name.partition(".")
    if tag and base in known:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
        has = f"its tags are {', '.join(tags)}" if tags else f"give {TIMM + base}"
        return f"timm's model {base!r} has no tag {tag!r}; {has}"
    close = difflib.get_close_matches(base, known, n=1)
    hint = f"did you mean {TIMM + close[0]!r}?" if close else f"one is {TIMM + 'resnet18'!r}"
    return f"timm has no model {name!r}; {hint}"


DEFAULT_SHAPE = (3, 224, 224)
"""Channels, height and width of an input image where nothing else is said."""

_KINDS = f"a task ({TASK_NAMES[0]}), {TORCHVISION}NAME, {TIMM}NAME, {HF}FOLDER or FILE.py:FUNCTION"


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
        kind: what a network without a task does: ``"classification"`` or ``"reconstruction"``.
        hf: the folder of transformers that it comes from, if it does.
    """

    name: str
    model: nn.Module
    example_inputs: Any
    task: Task | None = None
    origin: str = ""
    imagenet: bool = False
    kind: str = "classification"
    hf: HFModel | None = None

    @property
    def interface(self) -> tuple[str, ...]:
        """Return the layers that the task never cuts."""
        return self.task.keep if self.task else ()

    @property
    def whole(self) -> tuple[str, ...]:
        """Return the layers that lose no single weight unless a person asks for it."""
        if self.hf is not None:
            return self.hf.whole
        return self.task.whole if self.task else ()

    @property
    def predicts_tokens(self) -> bool:
        """Return whether the network is a language model."""
        return self.task is not None and self.task.kind == "language"

    @property
    def reconstructs(self) -> bool:
        """Return whether the network is to repeat its inputs."""
        return (self.kind if self.task is None else self.task.kind) == "reconstruction"


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
    model_timeout: float = MODEL_TIMEOUT,
) -> LoadedModel:
    """Load the network of that name.

    Downloaded are only a task's data set, with ``download``, and pretrained weights that are asked
    for by name and are not in the cache of torch or Hugging Face.

    Args:
        spec: a task name (its trained network), ``torchvision:NAME``, ``timm:NAME`` (where timm is
            installed), ``hf:FOLDER`` (what transformers' ``save_pretrained`` wrote), or
            ``FILE.py:FUNCTION``, where the function takes no arguments and returns a module, a
            module and its example inputs, or a :class:`~gp_prune.tasks.Task`.
        input_shape: sizes of one input sample; by default what timm says for its networks, and
            (3, 224, 224). A task and a function that returns example inputs have their own.
        weights: a state dict (``.safetensors``, or a torch file of plain tensors) for a network
            that is not a task's, or :data:`DEFAULT` (for torchvision also another name of weights)
            for the weights that torchvision and timm have; without it their networks have random
            weights.
        seed: seed of the random weights, and of a task's training.
        device: where the network and its inputs are put.
        cache_dir: folder for the trained networks of tasks.
        data_root: folder with torchvision's data sets.
        download: whether torchvision may fetch the data set of a task.
        model_timeout: seconds that a user's file and function may take, and then every forward
            pass of the network; 0 for any time.

    Raises:
        TimeLimitError: a user's function takes too long.
        UserError: there is no such network, it cannot be made, or an option does not apply to it.
    """
    target = as_device(device)
    check_timeout(model_timeout)
    if spec.startswith(HF):
        return _of_hf(spec, input_shape, weights, target)
    if is_task_name(spec):
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
            device=target,
        )
        return LoadedModel(spec, task.model, task.example_inputs, task, "trained by gp-prune")
    ours = spec.startswith((TORCHVISION, TIMM))  # whose weights may take long to download
    limit = (
        contextlib.nullcontext() if ours else time_limit(model_timeout, f"the function {spec!r}")
    )
    with limit:
        built = _build(spec, seed, weights)
    if isinstance(built.model, Task):
        return _of_task(built.model, spec, input_shape, weights, target, model_timeout)
    model, inputs = _unpack(built.model, spec)
    check_model(model, f"the network of {spec!r}", lazy=weights is None)
    if inputs is None:
        inputs = _random_inputs(input_shape or built.input_shape or DEFAULT_SHAPE, seed)
    elif input_shape is not None:
        raise UserError(f"{spec!r} returns its own example inputs; leave out --input-shape")
    origin = f"random weights from seed {seed}"
    if not spec.startswith((TORCHVISION, TIMM)):
        origin = f"as {spec.rpartition(':')[2]}() returns it"
        limit_forward(model, model_timeout, spec)
    if built.origin:
        origin = built.origin
    elif weights is not None:
        how = load_weights(model, weights)
        origin = f"weights from {weights}" + (f", {how}" if how else "")
    inputs = to_device(tuple(inputs) if isinstance(inputs, list) else inputs, target)
    return LoadedModel(spec, model.to(target), inputs, None, origin, built.imagenet)


def _of_hf(
    spec: str, input_shape: tuple[int, ...] | None, weights: str | Path | None, device: torch.device
) -> LoadedModel:
    """Return the network of a folder of transformers."""
    if input_shape is not None or weights is not None:
        raise UserError(
            f"{spec!r} is a folder with its own weights and inputs; leave out --input-shape and "
            "--weights"
        )
    loaded = load_hf(spec.removeprefix(HF))
    inputs = loaded.example_inputs.to(device)
    model = loaded.model.to(device)
    return LoadedModel(
        spec, model, inputs, None, "of the folder", loaded.imagenet, hf=replace(loaded, model=model)
    )


def _of_task(
    task: Task,
    spec: str,
    input_shape: tuple[int, ...] | None,
    weights: str | Path | None,
    device: torch.device,
    model_timeout: float,
) -> LoadedModel:
    """Return the network of a task that a user's function has returned."""
    if input_shape is not None or weights is not None:
        raise UserError(
            f"{spec!r} returns a task with its own weights and inputs; leave out --input-shape and "
            "--weights"
        )
    limit_forward(task.model, model_timeout, spec)
    task.to(device)
    origin = f"as the task of {spec.rpartition(':')[2]}() has it"
    return LoadedModel(spec, task.model, task.example_inputs, task, origin)


def _build(spec: str, seed: int, weights: str | Path | None) -> BuiltModel:
    """Build the network of a package or of a user's file, with weights where they have a name.

    All random numbers of torch, Python and numpy's old functions follow from the seed.
    """
    file, _, function = spec.rpartition(":")
    with random_state(seed):
        if spec.startswith(TORCHVISION):
            return _build_torchvision_model(spec.removeprefix(TORCHVISION), weights)
        if spec.startswith(TIMM):
            return build_timm_model(spec.removeprefix(TIMM), pretrained=weights == DEFAULT)
        if file.endswith(".py"):
            if weights == DEFAULT:
                raise UserError(
                    f"--weights {DEFAULT} names the weights that torchvision and timm have for "
                    f"their networks, and {spec!r} is none of them; give a file"
                )
            with _seeded(seed):
                return BuiltModel(_call_users_function(Path(file), function))
    raise _unknown(spec)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's and numpy's random numbers for a user's code, and restore both afterwards."""
    python, legacy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


def _build_torchvision_model(name: str, named: str | Path | None) -> BuiltModel:
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {TORCHVISION + close[0]!r}?" if close else f"one is {known[0]!r}"
        raise UserError(f"torchvision has no classification model {name!r}; {hint}")
    with warnings.catch_warnings():
        # Some builders announce that their way to draw first weights will change.
        warnings.simplefilter("ignore", FutureWarning)
        if isinstance(named, str) and named.isidentifier() and not Path(named).exists():
            known = models.get_model_weights(name).__members__
            if named not in known:
                raise UserError(
                    f"torchvision has no weights {named!r} for {name!r}, and no file is called so; "
                    f"they are {', '.join(known)}"
                )
            weights = known[named]
            with loading_pretrained(TORCHVISION + name, weights.url):
                model: nn.Module = models.get_model(name, weights=weights, progress=False)
            size = weights.transforms().crop_size[0]
            origin = f"pretrained weights {weights.name} of torchvision"
            return BuiltModel(model.eval(), (3, size, size), True, origin)
        model = models.get_model(name, weights=None)
    return BuiltModel(model.eval(), imagenet=True)


def _call_users_function(file: Path, name: str) -> Any:
    if not name.isidentifier():
        raise UserError(f"{f'{file}:{name}'!r} names no function; write {file}:FUNCTION")
    with _importable(file.resolve().parent):
        module = run_python_file(file, f"gp_prune_user_model_{file.stem}", "model file")
        function = getattr(module, name, None)
        if not callable(function):
            raise UserError(_no_function(file, name, module))
        try:
            return function()
        except UserError as error:  # a task of the user's, mostly, whose sentence has the remedy
            raise UserError(f"function {name!r} of {str(file)!r}: {error}") from error
        # SystemExit too, which would otherwise end the program without a message.
        except (Exception, SystemExit) as error:
            raise UserError(
                f"function {name!r} of {str(file)!r} fails: {describe(error)}; it must take no "
                "arguments and return a torch module"
            ) from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a user's file import its neighbours, as it can when it is run alone."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _no_function(file: Path, name: str, module: Any) -> str:
    functions = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    ]
    close = difflib.get_close_matches(name, functions, n=1)
    has = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(functions) or 'none'}"
    return f"model file {str(file)!r} has no function {name!r}; {has}"


def _unpack(built: Any, spec: str) -> tuple[nn.Module, Any]:
    """Return the module, and its example inputs or None."""
    model, inputs = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"{spec!r} gives a value of type {type(model).__name__}; it must give a "
            "torch.nn.Module, a tuple (module, example_inputs) or a gp_prune.Task"
        )
    if inputs is not None and not tensors_of(inputs):
        raise UserError(
            f"{spec!r} gives example inputs without a tensor ({brief(inputs)}); give a tensor, a "
            "tuple of arguments or a dictionary of named ones"
        )
    return model, inputs


def _random_inputs(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, *shape, generator=generator)


def _unknown(spec: str) -> UserError:
    if spec.endswith(".py"):
        return UserError(f"model {spec!r} names no function; write {spec}:FUNCTION")
    models = import_torchvision().models
    known = [*TASK_NAMES, *(TORCHVISION + name for name in models.list_models(module=models))]
    bare = TORCHVISION + spec
    close = [bare] if bare in known else difflib.get_close_matches(spec, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"give {_KINDS}"
    return UserError(f"unknown model {spec!r}; {hint}")
