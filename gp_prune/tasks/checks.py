"""Check that the data and the network of a task fit together; remark on what is odd."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gp_prune.errors import (
    SEED,
    UserError,
    brief,
    check_value,
    first_line,
    one_of,
    pluralize,
    whole,
)
from gp_prune.statistics.batches import check_loss
from gp_prune.statistics.running import call_model, evaluation_mode
from gp_prune.tasks.data import Split
from gp_prune.tasks.models import KINDS
from gp_prune.tasks.splits import Parts
from gp_prune.training.loss import check_tokens, main_output, sequences_at_once
from gp_prune.training.samples import in_order

if TYPE_CHECKING:
    from gp_prune.tasks.task import Task

_TRIED = 16
"""Samples of each part that the network is tried on."""
_SMALL = 10
"""A validation or test part with fewer samples gets a remark."""
_CHANCE = 0.9
"""A network with more than this share of the error of the trivial guess is at chance level."""


def check_values(parts: Parts) -> None:
    """Raise UserError where a part has no sample, or a value that is not finite."""
    splits = {"training": parts.train, "validation": parts.validation, "test": parts.read_test()}
    for name, split in splits.items():
        if not len(split):
            raise UserError(f"the {name} data has no samples; give some, or leave it out")
        for what, tensor in (("inputs", split.inputs), ("target", split.target)):
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                rows = (~tensor.isfinite()).reshape(len(tensor), -1).any(1)
                raise UserError(
                    f"the {what} of the {name} data have values that are not finite, in "
                    f"{pluralize(int(rows.sum()), 'sample')} of {len(split):,}; remove or replace "
                    "them"
                )


def check_splits(parts: Parts, drawn: Collection[str] = ()) -> tuple[str, ...]:
    """Return remarks where parts share samples or are small.

    Args:
        parts: the data.
        drawn: those of ``"validation"`` and ``"test"`` that were drawn from the training data. They
            have samples that are equal to others where the data repeats them, as tables do.

    Raises:
        UserError: all training samples are the same, or a part that was given has no other samples
            than those of the training data.
    """
    if bool((parts.train.inputs == parts.train.inputs[:1]).all()):
        raise UserError(
            "all samples of the training data are the same, so nothing can be measured or learnt; "
            "give data that differs"
        )
    test_part = parts.read_test()
    train, validation, test = map(_row_digests, (parts.train, parts.validation, test_part))
    remarks = []
    # Test samples may be drawn from the training data that was given.
    for name, split, rows, others, given, of in (
        ("validation", parts.validation, validation, train, train | test, "training"),
        ("test", test_part, test, train | validation, train | validation, "training or validation"),
    ):
        shared = len(rows & others)
        count = pluralize(shared, "sample")
        if name in drawn:
            remedy = "since the data repeats samples, so errors on it may be too small."
        elif rows <= given:
            raise UserError(
                f"every sample of the {name} data is in the {of} data, too, so it cannot tell how "
                "good a pruned network is; give other samples, or leave it out to draw some"
            )
        else:
            remedy = "too, so errors on it are too small; remove them from one."
        if shared:
            remarks.append(
                f"{count} of the {name} data {'is' if shared == 1 else 'are'} in the {of} data, "
                f"{remedy}"
            )
        if len(split) < _SMALL:
            remarks.append(
                f"The {name} data has {pluralize(len(split), 'sample')}, so errors on it are "
                f"coarse; give at least {_SMALL}."
            )
    return tuple(remarks)


def _row_digests(split: Split) -> set[bytes]:
    columns = []
    for tensor in (split.inputs, split.target):
        rows = tensor.detach().cpu().contiguous().reshape(len(split), -1)
        columns.append(rows.view(torch.uint8).numpy() if rows.dtype != torch.bool else rows.numpy())
    return {
        hashlib.blake2b(inputs.tobytes() + target.tobytes(), digest_size=16).digest()
        for inputs, target in zip(*columns, strict=True)
    }


def _tried(task: Task, inputs: Tensor) -> int:
    """Return on how many samples a network is tried: few where each gives many logits."""
    if task.kind != "language" or inputs.dim() < 2:
        return _TRIED
    return sequences_at_once(inputs, _TRIED, task.model)


def first_output(task: Task, split: Split | None = None, part: str = "training") -> Tensor:
    """Return the main output for the first samples of a part; by default of the training data.

    Raises:
        UserError: the network fails on them, or gives no tensor.
    """
    inputs = (task.train if split is None else split).inputs
    inputs = inputs[: _tried(task, inputs)]
    with evaluation_mode(task.model), torch.no_grad():
        try:
            output = call_model(task.model, inputs)
        except UserError:
            raise
        except Exception as error:  # whatever its code raises
            remedy = "give the data that it takes"
            if task.kind == "language":
                remedy = "give the tokens of its own tokenizer, not more than it takes at once"
            elif not inputs.is_floating_point():
                remedy += ", such as images.float() / 255 for images of whole numbers"
            raise UserError(
                f"the network of task {task.name!r} fails on its {part} data, inputs of shape "
                f"{tuple(inputs.shape)} and type {inputs.dtype}: "
                f"{type(error).__name__}: {first_line(error)}; {remedy}"
            ) from error
    return main_output(output)


def check_run(task: Task, test: Split | None = None) -> tuple[str, ...]:
    """Run the network and its loss on some samples of each part; return remarks.

    Args:
        task: the task.
        test: its test data, where that is to be looked at.

    Raises:
        UserError: the network fails or gives values that are not finite, output and target do not
            fit, or the loss or the error is no finite number.
    """
    parts = {"training": task.train, "validation": task.validation}
    if test is not None:
        parts["test"] = test
    shape: tuple[int, ...] = ()
    for name, split in parts.items():
        output = first_output(task, split, name)
        if not bool(output.isfinite().all()):
            raise UserError(
                f"the network of task {task.name!r} gives values that are not finite on its {name} "
                "data; give a trained network, and the data that it was trained on"
            )
        shape = shape or tuple(output.shape)
        target = split.target[: _tried(task, split.inputs)]
        classes = task.kind == "classification" and split.labels is not None
        if task.kind == "language" and not task.any_target:
            _check_tokens(task, name, output, target)
            continue
        if not classes and not task.any_target and output.shape != target.shape:
            raise _other_shape(task, name, tuple(output.shape), tuple(target.shape))
    remarks: tuple[str, ...] = ()
    if task.kind == "classification" and task.train.labels is not None:
        remarks = _check_labels(task, shape, parts)
    for name, split in parts.items():
        _check_loss(task, name, split)
    return remarks


def _check_labels(
    task: Task, shape: tuple[int, ...], parts: Mapping[str, Split]
) -> tuple[str, ...]:
    if len(shape) != 2 and not task.any_target:
        raise UserError(
            f"the output of the network of task {task.name!r} has shape {shape}, but labels are "
            "compared with an output (samples, classes); give a network that classifies, or a loss "
            "and an error of your own"
        )
    outputs = shape[1] if len(shape) > 1 else 0
    seen: set[int] = set()
    for name, split in parts.items():
        labels = split.target
        least, largest = int(labels.min()), int(labels.max())
        if least < 0 or largest >= outputs:
            raise UserError(
                f"the labels of the {name} data go from {least} to {largest}, but the network of "
                f"task {task.name!r} has {pluralize(outputs, 'output')}; labels must be from 0 to "
                f"{outputs - 1}"
            )
        seen.update(labels.tolist())
    if len(seen) == 1:
        raise UserError(
            f"the data of task {task.name!r} has one class alone, {seen.pop()}; a classification "
            "needs at least two"
        )
    if len(seen) == outputs:
        return ()
    return (
        f"The network has {outputs} outputs and the data {len(seen)} classes, so "
        f"{pluralize(outputs - len(seen), 'output')} cannot be right; a head for these classes "
        "would be smaller.",
    )


def _check_tokens(task: Task, part: str, output: Tensor, target: Tensor) -> None:
    check_tokens(output, target)
    least, largest = int(target.min()), int(target.max())
    if least < 0 or largest >= output.shape[-1]:
        raise UserError(
            f"the tokens of the {part} data go from {least} to {largest}, but the network of task "
            f"{task.name!r} has outputs for {output.shape[-1]:,} tokens; give the tokens of its "
            "own tokenizer"
        )


def _other_shape(
    task: Task, part: str, output: tuple[int, ...], target: tuple[int, ...]
) -> UserError:
    remedy = "give targets of the shape of the output"
    if output == (*target, 1):
        remedy = "give target.unsqueeze(-1)"
    elif task.kind == "reconstruction":
        remedy = "a network that repeats its inputs gives their shape; choose another kind"
    return UserError(
        f"the output of the network of task {task.name!r} has shape {output} on the {part} "
        f"data, the target {target}; {remedy}"
    )


def _check_loss(task: Task, part: str, split: Split) -> None:
    (batch, *_) = in_order(split.select(slice(_tried(task, split.inputs))), _TRIED)
    with evaluation_mode(task.model), torch.no_grad():
        output = call_model(task.model, batch.inputs)
    for name, function in (
        ("loss", lambda: task.loss(output, batch.target)),
        ("error", lambda: task.measure(output, batch)[0]),
    ):
        try:
            value = function()
            number = float(value)
        except UserError:
            raise
        except Exception as error:  # whatever the user's function raises
            raise UserError(
                f"the {name} of task {task.name!r} fails on an output of shape "
                f"{tuple(main_output(output).shape)} and a target of shape "
                f"{tuple(batch.target.shape)}: {type(error).__name__}: {first_line(error)}; give "
                f"a function of (output, target) that gives one number, the mean of a batch"
            ) from error
        if not math.isfinite(number):
            raise UserError(
                f"the {name} of task {task.name!r} is {number} on its {part} data; give a {name} "
                "that is finite"
            )


def remark_on_errors(task: Task) -> tuple[str, ...]:
    """Return a remark where the network is hardly better than a guess.

    Raises:
        UserError: a guess that looks at no input makes no error.
    """
    dense, trivial = task.dense_error, task.trivial_error
    for name, error in (("network", dense), ("best constant guess", trivial)):
        if not math.isfinite(error):
            raise UserError(
                f"the error of the {name} of task {task.name!r} on the validation data is {error}; "
                "give a network and an error function whose errors are finite"
            )
    if trivial == 0 and not task.own_error:
        raise UserError(
            f"all targets of the validation data of task {task.name!r} are the same, so a constant "
            "makes no error and nothing can be learnt; give data that differs"
        )
    if dense <= trivial - (1 - _CHANCE) * abs(trivial):
        return ()
    return (
        f"The network of task {task.name!r} is at chance level: its validation error is "
        f"{dense:.3g}, that of the best guess that looks at no input {trivial:.3g}; train it "
        "first, or check that inputs and labels belong together.",
    )


def check_arguments(
    name: str, kind: str, loss: Any, error: Any, samples: int | None, seed: int
) -> None:
    """Raise UserError unless the arguments of a task, its network and data apart, can be used."""
    check_value("the kind of a task", kind, one_of(*KINDS))
    check_value("seed", seed, SEED)
    if samples is not None:
        check_value("samples", samples, whole(1))
    check_loss(loss)
    if not isinstance(name, str) or not name.isprintable():
        raise UserError(f"the name of the task is {brief(name)}; give a text of one line")
    if error is not None and (not callable(error) or isinstance(error, type)):
        raise UserError(
            f"the error is {brief(error)}; give a function error(output, target) that gives one "
            "number, the mean over a batch"
        )


def check_layers(model: nn.Module, argument: str, names: Any) -> None:
    """Raise UserError unless ``keep`` or ``whole`` names layers of the network."""
    if isinstance(names, str):
        raise UserError(f"{argument} is the text {names!r}; give a list of names of layers")
    layers = dict(model.named_modules())
    for layer in names:
        if layer not in layers:
            close = difflib.get_close_matches(str(layer), layers, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"the network has no layer {layer!r} to keep{hint}")
