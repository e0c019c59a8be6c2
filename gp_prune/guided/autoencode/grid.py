"""Where the cells stand: a ring or a torus, and which are neighbours."""

from __future__ import annotations

import math

from gp_prune.errors import UserError

TOPOLOGIES = ("ring", "torus")


def torus_shape(cells: int) -> tuple[int, int]:
    """Rows and columns of the torus of so many cells that is nearest to a square.

    Raises:
        UserError: the number is a prime, so that there is no torus but a ring.
    """
    for rows in range(math.isqrt(cells), 1, -1):
        if cells % rows == 0:
            return rows, cells // rows
    raise UserError(f"{cells} cells make no torus; take a number such as 4, 6 or 9, or a ring")


def neighbourhood(cell: int, cells: int, topology: str, radius: int) -> tuple[int, ...]:
    """The cells that a cell chooses from: itself, then its neighbours by distance and number.

    On a ring these are the ``radius`` cells to either side, on a torus those at most ``radius``
    steps along rows and columns away. Where the grid is so small that one is reached in two ways,
    it stands there once.

    Args:
        cell: its number, from 0; on a torus row by row.
        cells: number of cells.
        topology: ``"ring"`` or ``"torus"``.
        radius: greatest distance; 0 means the cell alone.
    """
    rows, columns = (1, cells) if topology == "ring" else torus_shape(cells)
    row, column = divmod(cell, columns)
    found = []
    for other in range(cells):
        down, right = abs(other // columns - row), abs(other % columns - column)
        distance = min(down, rows - down) + min(right, columns - right)
        if distance <= radius:
            found.append((distance, other))
    return tuple(other for _, other in sorted(found))


def waves(order: list[int], neighbours: list[tuple[int, ...]]) -> list[list[int]]:
    """Cells that may be updated at the same time although they are visited one after the other.

    A cell reads its neighbours as they are when its turn comes, so it comes after those of them
    that stand before it in the order, and can go along with any other.

    Args:
        order: the order of the visits.
        neighbours: what every cell reads.
    """
    level: dict[int, int] = {}
    for cell in order:
        earlier = [level[other] for other in neighbours[cell] if other in level]
        level[cell] = 1 + max(earlier, default=-1)
    found: list[list[int]] = [[] for _ in range(1 + max(level.values(), default=-1))]
    for cell in order:
        found[level[cell]].append(cell)
    return found
