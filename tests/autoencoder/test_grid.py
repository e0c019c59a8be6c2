from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.autoencoder.population import group_into_waves
from gp_prune.autoencoder.settings import find_neighbours, torus_shape
from gp_prune.errors import UserError


@given(cells=st.integers(1, 30), radius=st.integers(0, 5), data=st.data())
def test_on_a_ring_neighbours_are_the_nearest_numbers(
    cells: int, radius: int, data: st.DataObject
) -> None:
    cell = data.draw(st.integers(0, cells - 1))
    found = find_neighbours(cell, cells, "ring", radius)
    wanted = {(cell + step) % cells for step in range(-radius, radius + 1)}
    assert found[0] == cell
    assert len(set(found)) == len(found)
    assert set(found) == wanted


@given(rows=st.integers(2, 6), columns=st.integers(2, 6), radius=st.integers(0, 3), data=st.data())
def test_on_a_torus_neighbours_are_so_many_steps_away(
    rows: int, columns: int, radius: int, data: st.DataObject
) -> None:
    cells = rows * columns
    rows, columns = torus_shape(cells)
    cell = data.draw(st.integers(0, cells - 1))
    reached = {cell}
    for _ in range(radius):
        for other in list(reached):
            row, column = divmod(other, columns)
            reached |= {(row + 1) % rows * columns + column, (row - 1) % rows * columns + column}
            reached |= {row * columns + (column + s) % columns for s in (1, -1)}
    found = find_neighbours(cell, cells, "torus", radius)
    assert found[0] == cell
    assert sorted(found) == sorted(reached)


def test_a_torus_of_nine_has_five_in_a_neighbourhood() -> None:
    assert torus_shape(9) == (3, 3)
    assert find_neighbours(4, 9, "torus", 1) == (4, 1, 3, 5, 7)


@pytest.mark.parametrize("cells", [1, 2, 3, 7, 11])
def test_a_prime_number_of_cells_is_no_torus(cells: int) -> None:
    with pytest.raises(UserError, match=f"{cells} cells make no torus"):
        torus_shape(cells)


@given(
    topology=st.sampled_from(["ring", "torus"]), size=st.integers(2, 4), radius=st.integers(0, 2),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_waves_give_what_one_visit_after_the_other_gives(
    topology: str, size: int, radius: int, order: object
) -> None:
    cells = size * size
    grid = [find_neighbours(cell, cells, topology, radius) for cell in range(cells)]
    visits = list(range(cells))
    order.shuffle(visits)  # type: ignore[attr-defined]

    one_by_one = [str(cell) for cell in range(cells)]
    for cell in visits:
        one_by_one[cell] = "(" + ",".join(one_by_one[n] for n in grid[cell]) + ")"

    at_once = [str(cell) for cell in range(cells)]
    found = group_into_waves(visits, grid)
    for wave in found:
        made = {cell: "(" + ",".join(at_once[n] for n in grid[cell]) + ")" for cell in wave}
        for cell, value in made.items():
            at_once[cell] = value
    assert sorted(cell for wave in found for cell in wave) == list(range(cells))
    assert at_once == one_by_one
