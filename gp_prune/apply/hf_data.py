"""Read the text, tokens or images that a network of transformers is measured and judged on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gp_prune.apply.data import Calibration
from gp_prune.apply.hf_models import HFModel, import_transformers
from gp_prune.apply.models import LoadedModel
from gp_prune.base.files import read_file
from gp_prune.base.json_fields import parse_json
from gp_prune.errors import UserError, brief, first_line
from gp_prune.statistics import Batch
from gp_prune.statistics.running import device_of
from gp_prune.tasks import Split, Task
from gp_prune.tasks.texts import (
    CYCLE,
    JUDGED,
    LEAST_SEQUENCES,
    MOST_BYTES,
    PLACES,
    next_tokens,
    read_text,
)

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_AT_ONCE = 4
"""Sequences that a network without loss is measured on at a time."""
_CHECKED = 16
"""Most sequences that decide which epoch of a fine-tuning is kept."""


def with_text(loaded: LoadedModel, source: str) -> LoadedModel:
    """Return a network of a folder with the task of predicting the tokens of a text.

    Of ten sequences eight are for measuring and fine-tuning, one checks epochs, and one is for the
    report; a text is cut into sequences of as many tokens as the network takes, at most 512.

    Args:
        loaded: a causal language model.
        source: a text file, or a ``.npy`` file with whole numbers (sequences, tokens).

    Raises:
        UserError: the file cannot be read or is too short, or the folder has no tokenizer.
    """
    return replace(loaded, task=_task(loaded, source, source, _CHECKED))


def text_task(loaded: LoadedModel, source: str, kind: str = "", most: int | None = None) -> Task:
    """Return the task of predicting the tokens of a text, on which searches judge candidates.

    As for :func:`with_text`, but up to 160 sequences are for validation.

    Args:
        loaded: a network of a folder that takes tokens.
        source: as of :func:`with_text`.
        kind: what the settings say of the kind of the task; must be empty.
        most: most sequences of each part; None for all.

    Raises:
        UserError: as of :func:`with_text`, or the network predicts no tokens.
    """
    assert loaded.hf is not None
    name = loaded.name
    if not loaded.hf.causal:
        raise UserError(
            f"{name!r} does not predict the next token, so a text gives no error to try formulas "
            "by; name a causal language model, or let a function return a gp_prune.Task"
        )
    if not source:
        raise UserError(
            f"{name!r} brings no data to try formulas on; name a text file, or a .npy file of "
            "tokens, with --data"
        )
    if kind:
        raise UserError(
            f"{name!r} predicts the tokens of --data, and the kind (--kind) is {kind!r}; leave it "
            "out"
        )
    return _task(loaded, source, name, JUDGED, most)


def _task(
    loaded: LoadedModel, source: str, name: str, checked: int, most: int | None = None
) -> Task:
    """Return the task of a text with at most ``checked`` sequences for validation."""
    assert loaded.hf is not None
    rows = read_tokens(loaded.hf, source, loaded.example_inputs.shape[1] + 1)
    places = torch.arange(len(rows)) % CYCLE
    device = device_of(loaded.model)

    def part(wanted: Tensor, limit: int | None) -> Split:
        limits = [count for count in (limit, most) if count is not None]
        return next_tokens(rows[wanted][: min(limits, default=None)]).to(device)

    return Task(
        loaded.model,
        part((places != PLACES["validation"]) & (places != PLACES["test"]), None),
        part(places == PLACES["validation"], checked),
        part(places == PLACES["test"], JUDGED),
        name=name,
        kind="language",
        whole=loaded.hf.whole,
    )


def unlabelled_text(loaded: LoadedModel, source: str, samples: int) -> Calibration:
    """Return sequences to measure a network of a folder on that predicts no tokens; without loss.

    Args:
        loaded: a network that takes tokens.
        source: as of :func:`with_text`.
        samples: most sequences, the first ones of the text.

    Raises:
        UserError: as of :func:`with_text`.
    """
    assert loaded.hf is not None
    tokens = read_tokens(loaded.hf, source, loaded.example_inputs.shape[1])[:samples]
    return Calibration(source, tuple(map(Batch, torch.split(tokens, _AT_ONCE))), None)


def read_tokens(model: HFModel, source: str, length: int) -> Tensor:
    """Return sequences (n, length) of tokens; of a ``.npy`` file as they are.

    Raises:
        UserError: the file cannot be read or is too short, or the folder has no tokenizer.
    """
    tokens = _read_ids(source) if source.endswith(".npy") else _tokenize(model, source)
    vocabulary = int(model.model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        raise UserError(
            f"the tokens of {source!r} go from {int(tokens.min())} to {int(tokens.max())}, and the "
            f"network has {vocabulary:,}; give the tokens of its own tokenizer"
        )
    if tokens.ndim == 1:
        tokens = tokens[: len(tokens) // length * length].reshape(-1, length)
    if len(tokens) < LEAST_SEQUENCES or tokens.shape[1] < 2:
        raise UserError(
            f"{source!r} has {len(tokens)} sequences of {length} tokens, and at least "
            f"{LEAST_SEQUENCES} are needed to measure and to judge; give a longer text"
        )
    return tokens[:, :length]


def _read_ids(source: str) -> Tensor:
    try:
        values = np.load(source, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the tokens {source!r} cannot be read ({first_line(error)}); give an array of whole "
            "numbers that numpy.save has written"
        ) from error
    whole = isinstance(values, np.ndarray) and values.dtype.kind in "iu"
    if not whole or values.ndim not in (1, 2):
        raise UserError(
            f"the tokens {source!r} are no whole numbers of the shape (tokens,) or (sequences, "
            "tokens); give such an array"
        )
    return torch.from_numpy(values.astype(np.int64))


def _tokenize(model: HFModel, source: str) -> Tensor:
    text = _read_text(source)
    folder = model.folder
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise UserError(
            f"the folder {str(folder)!r} has no tokenizer, which a text needs; save it there with "
            "save_pretrained, or give tokens as a .npy file"
        )
    _check_code(folder)
    transformers = import_transformers()
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    except Exception as error:  # of any file in the folder
        raise UserError(
            f"transformers cannot load the tokenizer of {str(folder)!r} ({type(error).__name__}: "
            f"{first_line(error)}); give tokens as a .npy file"
        ) from error
    return torch.tensor(tokens, dtype=torch.int64)


def _check_code(folder: Path) -> None:
    """Raise UserError where a tokenizer brings code."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return
    try:
        facts = parse_json(read_file(file, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} cannot be read ({first_line(error)})") from error
    if isinstance(facts, dict) and "auto_map" in facts:
        raise UserError(
            f"the tokenizer in {str(folder)!r} brings Python code of its own (auto_map), which is "
            "never run; give tokens as a .npy file"
        )


def _read_text(source: str) -> str:
    try:
        text = read_text(source).decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"the text {brief(source)} cannot be read ({first_line(error)}); give a file of UTF-8 "
            "text"
        ) from error
    if not text.strip():
        raise UserError(f"the text {brief(source)} is empty; give a file of UTF-8 text")
    return text
