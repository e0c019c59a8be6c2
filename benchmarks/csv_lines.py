"""Results of benchmarks: a file of CSV whose lines are dataclasses of texts and numbers."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

Line = TypeVar("Line")


def read(path: Path, kind: type[Line]) -> list[Line]:
    """Return the lines of a file; none if it is not there. A torn last line is left out."""
    if not path.exists():
        return []
    kinds = get_type_hints(kind)
    rows = csv.DictReader(io.StringIO(_whole(path)))
    return [kind(**{name: kinds[name](value) for name, value in row.items()}) for row in rows]


def as_csv(lines: Iterable[Any], *, header: bool = True) -> str:
    """Return what :func:`read` reads."""
    rows = [asdict(line) for line in lines]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else (), lineterminator="\n")
    if header and rows:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def append(path: Path, line: Any) -> None:
    """Add a line at once, with the header where it is the first; a torn one is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = _whole(path) if path.exists() else ""
    with path.open("r+" if path.exists() else "w", newline="", encoding="utf-8") as file:
        file.truncate(len(whole.encode()))
        file.seek(0, os.SEEK_END)
        file.write(as_csv([line], header=not whole))
        file.flush()
        os.fsync(file.fileno())


def _whole(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1]
