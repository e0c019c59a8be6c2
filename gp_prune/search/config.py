"""Floor 9: all settings of a search, and their TOML form."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gp_prune.axes import CHANNEL, WEIGHT, Axes
from gp_prune.conventions import Conventions
from gp_prune.errors import UserError
from gp_prune.pruning import Budget

ROOTS = {"channel": CHANNEL, "weight": WEIGHT}

DEFAULT_TASKS = ("lenet-digits", "cnn-digits", "autoencoder-digits")
DEFAULT_LADDERS = {"channel": (0.5, 0.3), "weight": (0.3, 0.15)}
DEFAULT_BUDGETS = {"channel": (0.5, 0.3), "weight": (0.3, 0.2)}


@dataclass(frozen=True)
class SearchConfig:
    """What decides the result of a search; two runs with equal settings give equal results.

    Attributes:
        tasks: names of the tasks on which every candidate is tried.
        granularity: ``"channel"`` or ``"weight"``.
        population: number of candidates that survive a generation, and of its new candidates.
        generations: number of generations after the first population.
        seed: the source of all randomness.
        ladder: shares of channels (or weights) kept at which a candidate is tried; empty means
            the default of the granularity.
        budgets: shares of MACs, and of parameters, kept in the final comparison; empty means the
            default of the granularity.
        scope: ``"global"``, ``"layer"`` or ``"row"`` ranking, see
            :class:`~gp_prune.conventions.Conventions`.
        normaliser: what the scores of a layer are divided by before a global ranking.
        join: how the scores of coupled layers become one.
        fine_tune_steps: mini-batches of fine-tuning of a candidate.
        final_steps: mini-batches of fine-tuning in the final comparison.
        final_seeds: fine-tuning runs per network in the final comparison.
        front_size: most formulas on the front.
        recommended_size: most nodes of the recommended formula.
        size_limit: most nodes of any tree.
        height_limit: greatest height of any tree.
        crossover: share of offspring made by crossover; the others by mutation.
        calibration: samples from which the statistics of the layers are measured.
        max_cost: operators with a greater declared cost are left out.
        primitives: users' files with further primitives.

    Raises:
        UserError: a value is out of range.
    """

    tasks: tuple[str, ...] = DEFAULT_TASKS
    granularity: str = "channel"
    population: int = 40
    generations: int = 12
    seed: int = 0
    ladder: tuple[float, ...] = ()
    budgets: tuple[float, ...] = ()
    scope: str = "global"
    normaliser: str = "mean"
    join: str = "mean"
    fine_tune_steps: int = 30
    final_steps: int = 60
    final_seeds: int = 3
    front_size: int = 12
    recommended_size: int = 25
    size_limit: int = 75
    height_limit: int = 12
    crossover: float = 0.5
    calibration: int = 512
    max_cost: float = 1000.0
    primitives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.granularity not in ROOTS:
            raise UserError(
                f"granularity is {self.granularity!r}; it must be one of {', '.join(ROOTS)}"
            )
        for name in ("ladder", "budgets"):
            if not getattr(self, name):
                default = DEFAULT_LADDERS if name == "ladder" else DEFAULT_BUDGETS
                object.__setattr__(self, name, default[self.granularity])
        self._check_numbers()
        for share in (*self.ladder, *self.budgets):
            Budget("channels", share)
        self.conventions.check_granularity(self.granularity)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise UserError(f"tasks are {list(self.tasks)}; name at least one, each once")

    def _check_numbers(self) -> None:
        least = {
            "population": 4, "generations": 0, "fine_tune_steps": 0, "final_steps": 0,
            "final_seeds": 1, "front_size": 1, "recommended_size": 1, "size_limit": 3,
            "height_limit": 2, "calibration": 1, "seed": 0,
        }  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UserError(f"{name} is {value!r}; it must be a whole number, at least {low}")
        if not (math.isfinite(self.crossover) and 0 <= self.crossover <= 1):
            raise UserError(f"crossover is {self.crossover}; it must lie between 0 and 1")

    @property
    def root(self) -> Axes:
        """The type of the trees."""
        return ROOTS[self.granularity]

    @property
    def ladder_kind(self) -> str:
        """What the shares of the ladder count, see :class:`~gp_prune.pruning.Budget`."""
        return "channels" if self.granularity == "channel" else "params"

    @property
    def conventions(self) -> Conventions:
        """How the scores of every candidate are used."""
        return Conventions(self.scope, self.normaliser, self.join)

    def to_toml(self) -> str:
        """The settings as TOML, which :meth:`from_toml` reads back."""
        return "".join(f"{name} = {_toml(value)}\n" for name, value in asdict(self).items())

    @classmethod
    def from_toml(cls, path: Path) -> SearchConfig:
        """Settings from a TOML file; those it leaves out have their defaults.

        Raises:
            UserError: the file cannot be read, is not TOML, or holds an unknown or wrong setting.
        """
        return cls(**read_settings(path))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a TOML file gives, checked for name and type.

    Raises:
        UserError: the file cannot be read, is not TOML, or holds an unknown or wrong setting.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"settings file {str(path)!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"settings file {str(path)!r} is not valid TOML: {error}") from None
    settings: dict[str, Any] = {}
    known = {field.name: field.default for field in fields(SearchConfig)}
    for name, value in data.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"unknown setting {name!r} in {str(path)!r}{hint}")
        settings[name] = _checked(name, value, known[name], path)
    return settings


def _checked(name: str, value: Any, default: Any, path: Path) -> Any:
    if isinstance(default, tuple):
        kind: type | tuple[type, ...] = (int, float) if name in ("ladder", "budgets") else str
        if isinstance(value, list) and all(isinstance(entry, kind) for entry in value):
            return tuple(value)
        raise UserError(f"setting {name!r} in {str(path)!r} is {value!r}; it must be a list")
    wanted = (int, float) if isinstance(default, float) else type(default)
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise UserError(
            f"setting {name!r} in {str(path)!r} is {value!r}; "
            f"it must be of type {type(default).__name__}"
        )
    return value


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # A JSON string is a basic TOML string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
