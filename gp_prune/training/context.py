"""Lend training what it puts back: stored gradients, threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gp_prune.errors import UserError


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread meanwhile: the last bits of a sum depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def kept_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Put the ``grad`` of every parameter back afterwards."""
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


@contextmanager
def whole_batches() -> Iterator[None]:
    """Turn what torch says about a batch that is too small for batch norm into advice.

    Raises:
        UserError: it was.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "a batch of one sample is too small for batch norm to learn from; use a batch size of "
            "at least 2, or leave out the last batch of a data loader (drop_last)"
        ) from error
