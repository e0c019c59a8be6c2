"""Do what ``gp-prune apply`` was asked for, once its arguments are in order."""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gp_prune.apply.data import (
    NO_DATA,
    Calibration,
    TuningData,
    calibration,
    check_labels,
    tuning_data,
)
from gp_prune.apply.export import ExportWarning, export_onnx, export_torch, onnx_modules
from gp_prune.apply.hf_data import unlabelled_text, with_text
from gp_prune.apply.hf_models import check_target, save_hf
from gp_prune.apply.models import LoadedModel, load_model
from gp_prune.apply.options import PruneOptions, missing_data, needs_data
from gp_prune.apply.pipeline import Pruner
from gp_prune.apply.result import PrunedModel
from gp_prune.apply.saving import check_folder, save_pruned
from gp_prune.apply.tuning import judge_dense, tune_pruned
from gp_prune.base.names import HF
from gp_prune.cli.apply import SAMPLES
from gp_prune.cli.apply_options import ApplyCommand
from gp_prune.errors import UserError
from gp_prune.language.record import LOSS_NEEDS
from gp_prune.report.plots import find_matplotlib
from gp_prune.report.progress import BatchesDone
from gp_prune.tasks.data import DATA_SETS
from gp_prune.training import FineTuning
from gp_prune.training.checkpoint import check_checkpoint

_SETTINGS = {"lr": "learning_rate"}
"""Options of fine-tuning -> the settings that are called otherwise."""


def run(command: ApplyCommand, batches_done: BatchesDone) -> dict[str, Any]:
    """Do what is asked.

    Args:
        command: the checked options.
        batches_done: is told how many batches were measured or trained on, and of how many.

    Returns:
        What :meth:`gp_prune.apply.result.PrunedModel.report` gives, and ``weights``,
        ``data``, ``saved`` and ``exports``: where things come from and went.

    Raises:
        UserError: something is not there, does not fit, or cannot be done.
    """
    started = time.perf_counter()
    settings = _fine_tuning(command)
    _check_surroundings(command)
    command.tell(f"loading {command.model}")
    loaded = load_model(
        command.model,
        input_shape=command.input_shape,
        weights=command.weights,
        seed=command.pruning.seed,
        device=command.device,
        cache_dir=command.cache_dir,
        data_root=command.data_root,
        download=command.download,
        model_timeout=command.model_timeout,
    )
    if loaded.task is None and command.data is None and ".py:" in command.model:
        _check_measures_nothing(command)
    if command.kind is not None:
        if loaded.task is not None:
            raise UserError(
                f"{command.model!r} is a task for {loaded.task.kind}, and --kind is for networks "
                "that bring no data; leave it out"
            )
        loaded = replace(loaded, kind=command.kind)
    loaded, source = _with_tokens(command, loaded)
    judging = _tuning_data(command, loaded, source) if _judges(command, loaded) else None
    data, note = _calibration(command, loaded, source, judging)
    # A network of a folder may fill the memory, and needs masks for fine-tuning alone.
    in_place = loaded.hf is not None and command.pruning.sequential and settings is None
    before = None
    if in_place and judging is not None:
        command.tell(f"judging {loaded.name} as it is")
        before = judge_dense(loaded.model, judging)
    pruned = Pruner(
        loaded.model,
        replace(_with_layers(command, loaded), in_place=in_place),
        loaded.example_inputs,
        data=data.batches,
        loss=data.loss,
        progress=command.tell,
        batch_progress=batches_done,
    ).prune()
    if note:
        pruned = replace(pruned, notes=(*pruned.notes, note))
    if judging is not None:
        pruned, _ = tune_pruned(
            pruned,
            loaded.model,
            judging,
            settings,
            recalibration=not command.no_recalibrate,
            before=before,
            checkpoint=command.checkpoint,
            progress=command.tell,
            batch_progress=partial(batches_done, trained=True),
        )
    origin = {"weights": loaded.origin, "data": data.name, "saved": command.out}
    report = {**pruned.report(model=command.model), **origin}
    exports = _write(command, loaded, pruned, report)
    # All that was shown on the way counts: loading, tuning and exporting, too.
    return {**report, "exports": exports, "seconds": round(time.perf_counter() - started, 3)}


def _with_tokens(command: ApplyCommand, loaded: LoadedModel) -> tuple[LoadedModel, str | None]:
    """Return a network with the text that it is measured and judged on, and the data besides.

    Raises:
        UserError: the data does not fit a network of a folder, or cannot be read.
    """
    hf = loaded.hf
    if hf is None or command.data is None:
        return loaded, command.data
    if hf.other_images:
        raise UserError(
            f"the images of {loaded.name!r} are {hf.other_images}, and those of --data are not; "
            "prune it from Python with images of yours, gp_prune.prune(model, metric, data=...)"
        )
    if not hf.causal:
        return loaded, command.data
    command.tell(f"reading {command.data}")
    return with_text(loaded, command.data), None


def _judges(command: ApplyCommand, loaded: LoadedModel) -> bool:
    """Return whether errors are measured; UserError where that is asked for and cannot be."""
    hf = loaded.hf
    if hf is None or hf.causal or not hf.text or not command.judges:
        return command.judges
    if command.judge or command.epochs is not None:
        raise UserError(
            f"{loaded.name!r} does not predict the next token, so --data has no target to judge or "
            "train it by; leave out --judge and --epochs"
        )
    return False


def _with_layers(command: ApplyCommand, loaded: LoadedModel) -> PruneOptions:
    """Return the options of pruning with the layers of the network that stay whole."""
    options = replace(command.pruning, interface=loaded.interface)
    if options.by_weight and not command.with_head:
        options = replace(options, ignore=tuple(dict.fromkeys((*options.ignore, *loaded.whole))))
    return options


def _fine_tuning(command: ApplyCommand) -> FineTuning | None:
    if command.epochs is None:
        return None
    settings = {_SETTINGS.get(option, option): value for option, value in command.tuning.items()}
    return FineTuning(epochs=command.epochs, seed=command.pruning.seed, **settings)


def _check_surroundings(command: ApplyCommand) -> None:
    """Raise UserError for what can be known to fail, before anything is loaded."""
    if command.model.startswith(HF):
        if not command.pruning.by_weight:
            raise UserError(
                f"metric {command.pruning.metric.name!r} ranks channels, and {HF}FOLDER takes "
                "metrics of single weights, which change no shapes; use one whose name ends in "
                "_weight"
            )
        if command.out is not None:
            check_target(Path(command.out).expanduser())
    elif command.out is not None:
        check_folder(command.out, replace=command.force)
    for option, path in command.files.items():
        _check_file(option, path, replace=command.force)
    if command.checkpoint is not None:
        check_checkpoint(Path(command.checkpoint))
        if command.out and Path(command.out).resolve() == Path(command.checkpoint).resolve():
            raise UserError(f"--out and --checkpoint are both {command.out!r}; name two folders")
    if not command.names_task:
        _check_data(command)
    if command.plot is not None:
        find_matplotlib()
    if command.onnx is not None:
        onnx_modules()
    if command.device == "cuda" and not torch.cuda.is_available():
        raise UserError("this torch finds no CUDA device; use --device cpu")


def _check_file(option: str, path: Path, *, replace: bool) -> None:
    """Raise UserError for a file that is there, or one in a folder that is not."""
    if not path.parent.is_dir():
        raise UserError(
            f"{option} is {str(path)!r}, but there is no folder {str(path.parent)!r}; make it "
            "first, or name another file"
        )
    if path.is_dir():
        raise UserError(f"{option} is {str(path)!r}, which is a folder; name a file")
    if os.path.lexists(path) and not replace:
        raise UserError(
            f"{option} is {str(path)!r}, which exists; replace it with --force, or name another "
            "file"
        )


def _check_data(command: ApplyCommand) -> None:
    """Raise UserError where a network that is no task lacks data, or an option says nothing."""
    if command.data is None:
        if ".py:" not in command.model:  # a function may return a task, which brings its data
            _check_measures_nothing(command)
    elif command.data not in DATA_SETS:
        for option, given in (("download", command.download), ("data-root", command.data_root)):
            if given:
                raise UserError(
                    f"--{option} is for data sets ({', '.join(DATA_SETS)}), and "
                    f"{command.data!r} is none; leave it out"
                )


def _check_measures_nothing(command: ApplyCommand) -> None:
    """Raise UserError where a network without data is to be judged or measured."""
    if command.judges:
        raise UserError(
            f"--epochs and --judge need data, and {command.model!r} brings none; name a data "
            "set or a folder of images with --data"
        )
    for metric in command.pruning.measured:
        if needs_data(metric):
            raise missing_data(metric)


def _tuning_data(command: ApplyCommand, loaded: LoadedModel, source: str | None) -> TuningData:
    return tuning_data(
        loaded,
        source,
        samples=command.tuning_samples,
        seed=command.pruning.seed,
        data_root=command.data_root,
        download=command.download,
    )


def _calibration(
    command: ApplyCommand, loaded: LoadedModel, source: str | None, judging: TuningData | None
) -> tuple[Calibration, str]:
    """Return calibration data if the metric measures anything, otherwise none, and a remark.

    Images on which the network is judged decide nothing about the cut.
    """
    metrics = command.pruning.measured
    if not any(map(needs_data, metrics)):
        unread = [
            flag
            for flag, given in (("--data", command.data and judging is None),
                                ("--samples", command.samples),
                                ("--max-memory", command.pruning.max_memory))
            if given
        ]  # fmt: skip
        if unread:
            verb = "is" if len(unread) == 1 else "are"
            command.tell(
                f"{metrics[0].name} measures nothing, so {' and '.join(unread)} {verb} not read"
            )
        return NO_DATA, ""
    if loaded.hf is None and (command.data is not None or loaded.task is not None):
        command.tell(f"reading {command.data or 'training samples of ' + command.model}")
    if loaded.hf is not None and loaded.hf.text and not loaded.hf.causal:
        for metric in metrics:
            if metric.needs & LOSS_NEEDS:
                raise UserError(
                    f"metric {metric.name!r} needs gradients of a loss, and {loaded.name!r} does "
                    "not predict the next token; use one of weights and inputs, such as "
                    "wanda_weight"
                )
        assert source is not None  # _check_data has seen to it
        return unlabelled_text(loaded, source, command.samples or SAMPLES), ""
    data = calibration(
        loaded,
        source,
        samples=command.samples or SAMPLES,
        seed=command.pruning.seed,
        data_root=command.data_root,
        download=command.download,
        among=None if judging is None else judging.train_images,
    )
    labelled = any(metric.needs & LOSS_NEEDS for metric in metrics)
    return data, check_labels(loaded, data) if labelled else ""


def _write(
    command: ApplyCommand, loaded: LoadedModel, pruned: PrunedModel, report: dict[str, Any]
) -> dict[str, float]:
    """Write the files that are asked for; return exported file -> largest relative difference."""
    if command.out is not None and loaded.hf is not None:
        save_hf(pruned.model, command.out, loaded.hf.folder, report)
    elif command.out is not None:
        save_pruned(pruned, command.out, model=command.model)
    if command.plot is not None:
        from gp_prune.report.plots import plot_pruning

        plot_pruning(report, Path(command.plot))
    exports = {}
    for path, export in ((command.onnx, export_onnx), (command.export, export_torch)):
        if path is not None:
            command.tell(f"exporting to {path}")
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", ExportWarning)
                exports[path] = export(pruned, path, loaded.example_inputs)
            for warning in said:
                command.tell(str(warning.message))
    return exports
