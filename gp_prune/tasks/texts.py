"""Read the texts of language models, cut into sequences of bytes that no two parts share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gp_prune.base.files import read_file
from gp_prune.errors import UserError, brief, first_line
from gp_prune.tasks.data import Split
from gp_prune.tasks.language_models import SEQUENCE
from gp_prune.training.samples import tensor_digest

PYDOC = "pydoc"
"""The text that comes with Python: the topics of its help."""

_SPLIT_SEED = 20240611
_BLOCK = 16
"""Most consecutive sequences that go to the same part."""
CYCLE = 10
"""Of so many blocks one goes to the validation data and one to the test data."""
PLACES = {"validation": 3, "test": 8}
_MOST = {"train": 14_400, "validation": 1600, "test": 1600}
"""Sequences of each part at most, so that a large text takes no more time."""
JUDGED = 160
"""Sequences of the validation data that candidates are judged on, and of the test data that final
reports are about: 20,480 bytes each."""
LEAST_SEQUENCES = 4 * CYCLE
MOST_BYTES = 2**26


class _Sequences(NamedTuple):
    """Tokens (n, t + 1) of each part, in random order."""

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class TextData:
    """A text, cut into sequences of bytes.

    Attributes:
        name: what it is called in messages.
        content: the text.
    """

    name: str
    content: bytes

    @cached_property
    def _sequences(self) -> _Sequences:
        return cut(self.content, self.name)

    @property
    def train(self) -> Split:
        """Return what networks are trained on."""
        return next_tokens(self._sequences.train)

    @property
    def validation(self) -> Split:
        """Return what candidates are judged on: at most 160 sequences."""
        return next_tokens(self._sequences.validation[:JUDGED])

    def read_test(self) -> Split:
        """Return the sequences of final reports: at most 160."""
        return next_tokens(self._sequences.test[:JUDGED])

    def fingerprint(self) -> str:
        """Return the SHA-256 of the sequences of all parts."""
        return tensor_digest(iter(self._sequences))


def load_text(file: str = "") -> TextData:
    """Return the text of a file, or the topics of Python's help.

    The topics (``pydoc_data.topics``) differ between versions of Python.

    Args:
        file: its path; empty for the topics.

    Raises:
        UserError: the file cannot be read, is larger than 64 MiB or too short.
    """
    if not file:
        return TextData(PYDOC, _read_topics())
    return TextData(file, read_text(file))


def read_text(file: str) -> bytes:
    """Return the bytes of a text file.

    Raises:
        UserError: it cannot be read, is no regular file or is larger than 64 MiB.
    """
    try:
        return read_file(Path(file).expanduser(), MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"the text {brief(file)} cannot be read ({reason}); give a file of UTF-8 text of at "
            f"most {MOST_BYTES >> 20} MiB"
        ) from error


def _read_topics() -> bytes:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics)).encode()


def cut(content: bytes, name: str) -> _Sequences:
    """Cut a text into sequences of 129 bytes, which are 128 inputs and what follows each.

    A paragraph that came before is left out, so that no part has the text of another. Then blocks
    of 16 consecutive sequences (of a short text fewer) go to the parts: of ten blocks eight to the
    training data, one to the validation and one to the test data. The order in each part is random,
    and the same for every seed of a task; of a large text the first ones are taken.

    Args:
        content: the text.
        name: what it is called in messages.

    Raises:
        UserError: it is too short.
    """
    paragraphs = content.replace(b"\r\n", b"\n").split(b"\n\n")
    distinct = b"\n\n".join(dict.fromkeys(part for part in paragraphs if part.strip()))
    length = SEQUENCE + 1
    count = len(distinct) // length
    if count < LEAST_SEQUENCES:
        raise UserError(
            f"the text {name!r} has {len(distinct):,} bytes of paragraphs that differ, a language "
            f"model needs at least {LEAST_SEQUENCES * length:,}; give a longer text"
        )
    rows = torch.frombuffer(bytearray(distinct[: count * length]), dtype=torch.uint8)
    rows = rows.reshape(count, length)
    places = torch.arange(count) // min(_BLOCK, count // CYCLE) % CYCLE
    random = np.random.RandomState(_SPLIT_SEED)

    def part(chosen: Tensor, name: str) -> Tensor:
        order = random.permutation(chosen.nonzero().flatten().numpy())[: _MOST[name]]
        return rows[torch.from_numpy(order)].long()

    validation, test = (places == PLACES[name] for name in ("validation", "test"))
    return _Sequences(
        part(~validation & ~test, "train"), part(validation, "validation"), part(test, "test")
    )


def next_tokens(sequences: Tensor) -> Split:
    """Return sequences (n, t + 1) as inputs (n, t), and as target the token after each."""
    return Split(sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous())
