"""The benchmark's single reductions, written apart, are those of the search."""

from __future__ import annotations

from collections.abc import Callable

from minimal_fronts import is_shorter, single_replacements

from gp_prune.language.axes import CHANNEL, WEIGHT
from gp_prune.language.expression import Expression
from gp_prune.search.reduction import single_reductions


def test_both_find_the_same(random_trees: Callable[..., list[Expression]]) -> None:
    found = 0
    for axes in (CHANNEL, WEIGHT):
        for tree in random_trees(axes, 20, 401):
            apart = {
                other
                for other in single_replacements(tree)
                if other.axes is axes and is_shorter(other, tree)
            }
            assert {each.expression for each in single_reductions(tree)} == apart
            found += len(apart)
    assert found > 200
