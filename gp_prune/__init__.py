"""gp-prune: genetic programming that discovers pruning metrics.

The public names are imported when they are first used, so that ``import gp_prune`` is cheap.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from gp_prune._compat import MovedModuleFinder

if TYPE_CHECKING:
    from gp_prune.apply.data import own_data as own_data
    from gp_prune.apply.export import export_onnx as export_onnx
    from gp_prune.apply.export import export_torch as export_torch
    from gp_prune.apply.prune import prune as prune
    from gp_prune.apply.saving import load_pruned as load_pruned
    from gp_prune.apply.saving import save_pruned as save_pruned
    from gp_prune.apply.scoring import LayerScores as LayerScores
    from gp_prune.apply.scoring import score_layers as score_layers
    from gp_prune.apply.tuning import tune_pruned as tune_pruned
    from gp_prune.autoencoder.run import autoencode as autoencode
    from gp_prune.autoencoder.settings import AutoencodeSettings as AutoencodeSettings
    from gp_prune.genetic.run import GeneticPruner as GeneticPruner
    from gp_prune.genetic.settings import GeneticSettings as GeneticSettings
    from gp_prune.judging.compare import MetricComparison as MetricComparison
    from gp_prune.judging.compare import compare as compare
    from gp_prune.judging.judge import DegenerateFormula as DegenerateFormula
    from gp_prune.judging.judge import FormulaResult as FormulaResult
    from gp_prune.judging.judge import Judge as Judge
    from gp_prune.judging.judge import evaluate as evaluate
    from gp_prune.language import symbols as symbols
    from gp_prune.language.axes import Elementwise as Elementwise
    from gp_prune.language.axes import Normaliser as Normaliser
    from gp_prune.language.axes import Reduction as Reduction
    from gp_prune.language.axes import Signature as Signature
    from gp_prune.language.primitive import Merge as Merge
    from gp_prune.language.primitive import operand as operand
    from gp_prune.language.primitive import operator as operator
    from gp_prune.language.primitive import primitive_set as primitive_set
    from gp_prune.language.record import LayerRecord as LayerRecord
    from gp_prune.language.record import synthetic_layer as synthetic_layer
    from gp_prune.language.symbols import AlongAxes as AlongAxes
    from gp_prune.language.symbols import BoundArguments as BoundArguments
    from gp_prune.language.symbols import Call as Call
    from gp_prune.language.symbols import OverAxes as OverAxes
    from gp_prune.language.symbols import RealFunction as RealFunction
    from gp_prune.metric.file import Conventions as Conventions
    from gp_prune.metric.metric import Metric as Metric
    from gp_prune.metric.mutation import MetricMutation as MetricMutation
    from gp_prune.metric.mutation import random_mutation as random_mutation
    from gp_prune.runs.callbacks import Callback as Callback
    from gp_prune.runs.callbacks import StopRun as StopRun
    from gp_prune.runs.jobs import TaskSource as TaskSource
    from gp_prune.runs.trackers import MLflow as MLflow
    from gp_prune.runs.trackers import TensorBoard as TensorBoard
    from gp_prune.runs.trackers import Trackio as Trackio
    from gp_prune.search.config import SearchConfig as SearchConfig
    from gp_prune.search.estimator import MetricSearch as MetricSearch
    from gp_prune.search.run import evolve as evolve
    from gp_prune.tasks.catalogue import load_task as load_task
    from gp_prune.tasks.task import Task as Task
    from gp_prune.training.fine_tuning import fine_tune as fine_tune
    from gp_prune.training.recalibration import recalibrate as recalibrate
    from gp_prune.training.settings import FineTuning as FineTuning

__version__ = "0.1.0"

_PUBLIC = {
    "gp_prune.apply.data": ("own_data",),
    "gp_prune.apply.export": ("export_onnx", "export_torch"),
    "gp_prune.apply.prune": ("prune",),
    "gp_prune.apply.saving": ("load_pruned", "save_pruned"),
    "gp_prune.apply.scoring": ("LayerScores", "score_layers"),
    "gp_prune.apply.tuning": ("tune_pruned",),
    "gp_prune.autoencoder.run": ("autoencode",),
    "gp_prune.autoencoder.settings": ("AutoencodeSettings",),
    "gp_prune.genetic.run": ("GeneticPruner",),
    "gp_prune.genetic.settings": ("GeneticSettings",),
    "gp_prune.judging.compare": ("MetricComparison", "compare"),
    "gp_prune.judging.judge": ("DegenerateFormula", "FormulaResult", "Judge", "evaluate"),
    "gp_prune.language.axes": ("Elementwise", "Normaliser", "Reduction", "Signature"),
    "gp_prune.language.primitive": ("Merge", "operand", "operator", "primitive_set"),
    "gp_prune.language.record": ("LayerRecord", "synthetic_layer"),
    "gp_prune.language.symbols": (
        "AlongAxes", "BoundArguments", "Call", "OverAxes", "RealFunction",
        "symbols",  # the module itself
    ),
    "gp_prune.metric.file": ("Conventions",),
    "gp_prune.metric.metric": ("Metric",),
    "gp_prune.metric.mutation": ("MetricMutation", "random_mutation"),
    "gp_prune.runs.callbacks": ("Callback", "StopRun"),
    "gp_prune.runs.jobs": ("TaskSource",),
    "gp_prune.runs.trackers": ("MLflow", "TensorBoard", "Trackio"),
    "gp_prune.search.config": ("SearchConfig",),
    "gp_prune.search.estimator": ("MetricSearch",),
    "gp_prune.search.run": ("evolve",),
    "gp_prune.tasks.catalogue": ("load_task",),
    "gp_prune.tasks.task": ("Task",),
    "gp_prune.training.fine_tuning": ("fine_tune",),
    "gp_prune.training.recalibration": ("recalibrate",),
    "gp_prune.training.settings": ("FineTuning",),
}  # fmt: skip
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOMES)

if not any(isinstance(finder, MovedModuleFinder) for finder in sys.meta_path):
    sys.meta_path.append(MovedModuleFinder())


def __getattr__(name: str) -> Any:
    """Import a public name now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gp_prune' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    value = module if name == "symbols" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
