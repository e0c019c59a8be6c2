"""Do what ``gp-prune apply`` was asked for, once its arguments are in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gp_prune.apply.data import NO_DATA, Calibration, calibration, check_labels
from gp_prune.apply.export import export_onnx, export_torch, onnx_modules
from gp_prune.apply.models import LoadedModel, load_model
from gp_prune.apply.options import checked_data, checked_options
from gp_prune.apply.prune import needs_data, prune
from gp_prune.apply.result import PrunedModel
from gp_prune.apply.saving import check_folder, save_pruned
from gp_prune.apply.tuning import TuningData, tune_pruned, tuning_data
from gp_prune.cli.apply import SAMPLES, Request
from gp_prune.errors import UserError
from gp_prune.language.record import LOSS_NEEDS
from gp_prune.metric.metric import Metric
from gp_prune.metric.ranking import Conventions
from gp_prune.report.plots import find_matplotlib
from gp_prune.tasks.data import DATA_SETS
from gp_prune.training import FineTuning
from gp_prune.training.checkpoint import check_checkpoint


def run(
    request: Request, metric: Metric, batches_done: Callable[[int, int | None], None]
) -> dict[str, Any]:
    """Do what is asked.

    Args:
        request: the checked arguments.
        metric: what they name.
        batches_done: is told how many batches were measured, and of how many if that is known.

    Returns:
        What :meth:`gp_prune.apply.result.PrunedModel.report` gives, and ``weights``,
        ``data``, ``saved`` and ``exports``: where things come from and went.

    Raises:
        UserError: something is not there, does not fit, or cannot be done.
    """
    settings, conventions = _checked(request, metric)
    request.tell(f"loading {request.model}")
    loaded = load_model(
        request.model,
        input_shape=request.input_shape,
        weights=request.weights,
        seed=request.seed,
        device=request.device,
        cache_dir=request.cache_dir,
        data_root=request.data_root,
        download=request.download,
    )
    judging = _tuning_data(request, loaded)
    data = _calibration(request, metric, loaded, judging)
    pruned = _pruned(request, metric, loaded, data, conventions, batches_done)
    if judging is not None:
        pruned = _tuned(request, loaded, pruned, settings, judging)
    origin = {"weights": loaded.origin, "data": data.name, "saved": request.out}
    report = {**pruned.report(model=request.model), **origin}
    return {**report, "exports": _written(request, loaded, pruned, report)}


def _checked(request: Request, metric: Metric) -> tuple[FineTuning | None, Conventions]:
    """How to fine-tune and to rank; what cannot be done is told before anything is loaded.

    Raises:
        UserError: see :func:`run`.
    """
    settings = _settings(request)
    _check_folders(request)
    conventions = metric.conventions
    if request.scope is not None:
        conventions = replace(conventions, scope=request.scope)
    conventions.check_granularity(metric.granularity)
    checked_options(metric, request.round_to, cut_residual=request.cut_residual)
    if not request.names_task:
        _check_data(request, metric)
    if request.plot is not None:
        find_matplotlib()
    if request.onnx is not None:
        onnx_modules()
    if request.device == "cuda" and not torch.cuda.is_available():
        raise UserError("this torch finds no CUDA device; use --device cpu")
    return settings, conventions


def _check_folders(request: Request) -> None:
    """Raise UserError where something else would be overwritten."""
    if request.out is not None:
        check_folder(request.out, replace=request.force)
    if request.checkpoint is not None:
        check_checkpoint(Path(request.checkpoint))
        if request.out and Path(request.out).resolve() == Path(request.checkpoint).resolve():
            raise UserError(f"--out and --checkpoint are both {request.out!r}; name two folders")


def _check_data(request: Request, metric: Metric) -> None:
    """Raise UserError where a network that is no task lacks data, or an option says nothing."""
    if request.data is None:
        if request.judges(has_task=False):
            raise UserError(
                f"--epochs and --judge need data, and {request.model!r} brings none; name a data "
                "set or a folder of images with --data"
            )
        checked_data(metric, None, request.steps)
    elif request.data not in DATA_SETS:
        for option, given in (("download", request.download), ("data-root", request.data_root)):
            if given:
                raise UserError(
                    f"--{option} is for data sets ({', '.join(DATA_SETS)}), and "
                    f"{request.data!r} is none; leave it out"
                )


def _settings(request: Request) -> FineTuning | None:
    if request.epochs is None:
        return None
    given = {
        "optimiser": request.optimiser,
        "learning_rate": request.lr,
        "weight_decay": request.weight_decay,
        "batch_size": request.batch_size,
        "warm_up": request.warm_up,
        "distill": request.distill,
        "temperature": request.temperature,
        "patience": request.patience,
    }
    said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return FineTuning(epochs=request.epochs, seed=request.seed, **said)


def _pruned(
    request: Request,
    metric: Metric,
    loaded: LoadedModel,
    data: Calibration,
    conventions: Conventions,
    batches_done: Callable[[int, int | None], None],
) -> PrunedModel:
    return prune(
        loaded.model,
        metric,
        loaded.example_inputs,
        **request.budget(metric.granularity),
        data=data.batches,
        loss=data.loss,
        steps=request.steps,
        interface=loaded.interface,
        ignore=request.ignore,
        round_to=request.round_to,
        cut_residual=request.cut_residual,
        mode=request.mode,
        conventions=conventions,
        time_it=request.time_it,
        seed=request.seed,
        progress=request.tell,
        batch_progress=batches_done,
    )


def _tuning_data(request: Request, loaded: LoadedModel) -> TuningData | None:
    """What the network is tuned and judged on, if it is."""
    if not request.judges(has_task=loaded.task is not None):
        return None
    return tuning_data(
        loaded,
        request.data,
        samples=request.tuning_samples,
        seed=request.seed,
        data_root=request.data_root,
        download=request.download,
    )


def _calibration(
    request: Request, metric: Metric, loaded: LoadedModel, judging: TuningData | None
) -> Calibration:
    """Calibration data if the metric measures anything, otherwise none.

    Images on which the network is judged decide nothing about the cut.
    """
    if not needs_data(metric):
        unread = [
            flag
            for flag, given in (("--data", request.data and judging is None),
                                ("--samples", request.samples))
            if given
        ]  # fmt: skip
        if unread:
            verb = "is" if len(unread) == 1 else "are"
            request.tell(
                f"{metric.name} measures nothing, so {' and '.join(unread)} {verb} not read"
            )
        return NO_DATA
    if request.data is not None or loaded.task is not None:
        request.tell(f"reading {request.data or 'training samples of ' + request.model}")
    data = calibration(
        loaded,
        request.data,
        samples=request.samples or SAMPLES,
        seed=request.seed,
        data_root=request.data_root,
        download=request.download,
        among=None if judging is None else judging.train_images,
    )
    if metric.needs & LOSS_NEEDS:
        check_labels(loaded, data)
    return data


def _tuned(
    request: Request,
    loaded: LoadedModel,
    pruned: PrunedModel,
    settings: FineTuning | None,
    data: TuningData,
) -> PrunedModel:
    tuned, _ = tune_pruned(
        pruned,
        loaded.model,
        data,
        settings,
        recalibration=not request.no_recalibrate,
        checkpoint=request.checkpoint,
        progress=request.tell,
    )
    return tuned


def _written(
    request: Request, loaded: LoadedModel, pruned: PrunedModel, report: dict[str, Any]
) -> dict[str, float]:
    """Write what was asked for; the exported files, each with its largest relative difference."""
    if request.out is not None:
        save_pruned(pruned, request.out, model=request.model)
    if request.plot is not None:
        from gp_prune.report.plots import plot_pruning

        plot_pruning(report, Path(request.plot))
    exports = {}
    for path, export in ((request.onnx, export_onnx), (request.export, export_torch)):
        if path is not None:
            request.tell(f"exporting to {path}")
            exports[path] = export(pruned, path, loaded.example_inputs)
    return exports
