"""What the settings of a run of the autoencoder trainer accept, and how they are written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gp_prune import AutoencodeSettings, autoencode
from gp_prune.errors import UserError


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mode": "both"}, "mode is 'both'; it must be one of canonical, coevolve"),
        ({"topology": "torus", "cells": 5}, "5 cells make no torus"),
        ({"regrow": True, "target_sparsity": 0.5}, "masks that are held"),
        ({"operator": "none", "target_sparsity": 0.5}, "needs an operator"),
        ({"amount": 1.0}, "amount is 1.0"),
        ({"target_sparsity": 1.0}, "target_sparsity is 1.0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"loss": "l2"}, "loss is 'l2'; it must be one of auto, l1, bce"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"schedule": "never"}, "unknown schedule 'never'"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"code": 10**11}, "code is 100000000000; it must be a whole number from 0 to 10000"),
        ({"cells": 10**6}, "cells is 1000000; it must be a whole number from 1 to 1000"),
        ({"max_memory": "2"}, "is '2', which has no unit"),
        ({"max_memory": "0MB"}, "it must be at least 1 byte"),
        ({"max_memory": ""}, "which is no size"),
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be a whole number from 0 to"),
        ({"epochs": 10**9}, "epochs is 1000000000; it must be a whole number from 1 to 1000000"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        AutoencodeSettings(**changes)


def test_a_unit_that_the_metric_does_not_score_is_refused(
    small: AutoencodeSettings, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="scores a node, not a weight"):
        autoencode(replace(small, unit="weight"), tmp_path / "run")
    with pytest.raises(UserError, match="unknown metric 'best'"):
        autoencode(replace(small, operator="best"), tmp_path / "run")


def test_a_temperature_of_infinity_is_written_and_read(
    small: AutoencodeSettings, tmp_path: Path
) -> None:
    settings = replace(small, temperature=float("inf"), epochs=1, probability=1.0)
    autoencode(settings, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["settings"]["temperature"] == "inf"
    assert AutoencodeSettings.from_toml(tmp_path / "run" / "config.toml") == settings
    autoencode(None, tmp_path / "run", resume=True)
