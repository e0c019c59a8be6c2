"""Sizes of memory as people write them: a number and its unit, such as ``2GB`` or ``1.5 GiB``."""

from __future__ import annotations

import difflib
import os
import re
from decimal import Decimal
from pathlib import Path

from gp_prune.errors import UserError

MAX_MEMORY = "2GB"
"""Most memory for measured statistics where nothing is said."""

UNITS = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
"""Unit -> bytes; upper and lower case are the same."""

_BY_LOWER_CASE = {unit.lower(): unit for unit in UNITS}
_SIZE = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*([^\W\d_]*)\s*")
_EXAMPLES = "such as 2GB, 500MB or 1.5GiB"
_MOST_BYTES = 2**63 - 1
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def parse_size(size: int | str, name: str) -> int:
    """Return a size of memory in bytes.

    Args:
        size: a number with its unit, or a whole number of bytes.
        name: what the size is, for the message.

    Raises:
        UserError: the size has no unit, is not positive or too large, or is no size.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        count, shown = Decimal(size), repr(size)
    elif isinstance(size, str):
        shown = repr(size if len(size) <= 40 else f"{size[:37]}...")
        count = _count_bytes(size, f"{name} is {shown}")
    else:
        raise UserError(
            f"{name} is {size!r}; give a size with its unit, {_EXAMPLES}, or a whole number of "
            "bytes"
        )
    if not 1 <= count <= _MOST_BYTES:
        bound = "at least 1 byte" if count < 1 else "less than 9 million TB"
        raise UserError(f"{name} is {shown}; it must be {bound}, {_EXAMPLES}")
    return int(count)


def _count_bytes(text: str, said: str) -> Decimal:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UserError(f"{said}, which is no size; write a number and its unit, {_EXAMPLES}")
    number, unit = match.groups()
    if not unit:
        raise UserError(f"{said}, which has no unit; write one, {_EXAMPLES}")
    if unit.lower() not in _BY_LOWER_CASE:
        close = difflib.get_close_matches(unit.upper(), [*UNITS][1:], n=1)
        hint = f"did you mean {close[0]}?" if close else f"the units are {', '.join(UNITS)}"
        raise UserError(f"{said}, and {unit!r} is no unit of memory; {hint}")
    return Decimal(number) * UNITS[_BY_LOWER_CASE[unit.lower()]]


def format_size(size: int) -> str:
    """Return the shortest text that :func:`parse_size` reads as exactly this number of bytes."""
    texts = [f"{size}B"]
    for unit, bytes_each in UNITS.items():
        number = Decimal(size) / bytes_each
        if number >= 1 and int(Decimal(f"{number:f}") * bytes_each) == size:
            texts.append(f"{number:f}{unit}")
    return min(texts, key=len)


def normalise_size(size: int | str, name: str) -> str:
    """Return a size as its shortest text, so that ``2000 MB`` and ``2GB`` are the same setting.

    Raises:
        UserError: see :func:`parse_size`.
    """
    return format_size(parse_size(size, name))


def machine_memory() -> int | None:
    """Return the bytes of memory that this machine (or container) has; None if it does not say."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    try:
        return min(whole, int(_CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return whole


def remark_on_size(size: int | None) -> str:
    """Return a sentence where ``max_memory`` is more than the machine has, otherwise nothing."""
    machine = machine_memory()
    if machine is None or size is None or size <= machine:
        return ""
    return (
        f"max_memory (--max-memory) is {format_size(size)}, but this machine has "
        f"{machine / 10**9:.1f}GB, so the limit may not hold; give less."
    )
