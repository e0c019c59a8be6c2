"""Running the command line inside the test process."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from gp_prune._compat import TorchvisionWarning, import_torchvision
from gp_prune.cli import main

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TorchvisionWarning)
    import_torchvision()

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """``run("show", "l1")``: the result; a traceback fails the test."""

    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke
