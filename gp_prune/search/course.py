"""How far a generation is: evaluations that are done, of how many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


class GenerationCourse:
    """Count the evaluations of a generation while formulas are drawn and evaluated.

    How many there will be is known only at its end: formulas that rank nothing, or behave like an
    earlier one, are not evaluated, and the number of those that are promoted follows from them.

    Args:
        each: evaluations of a formula on one rung.
        promote: for every cheaper rung, the share of its formulas that rises to the next one.

    Attributes:
        hear: called with the number of the generation, the evaluations done, and those expected.
    """

    def __init__(self, each: int, promote: Sequence[float]) -> None:
        self._each, self._promote = each, promote
        self._number = self._asked = self._expected = 0
        self.hear: Callable[[int, int, int], None] = lambda number, done, of: None

    def begin(self, number: int, formulas: int) -> None:
        """Start a generation in which so many formulas are expected."""
        self._number, self._asked = number, 0
        self.expect(formulas)

    def expect(self, formulas: int) -> None:
        """Correct the number of formulas that are expected in this generation."""
        self._expected = self._each * formulas
        for share in self._promote:
            formulas = math.ceil(share * formulas)
            self._expected += self._each * formulas

    def ask(self) -> None:
        """Count one more evaluation that is wanted, also one that is known already."""
        self._asked += 1

    def tell(self, waiting: int) -> None:
        """Say how far the generation is, where some that are wanted have no result yet."""
        done = self._asked - waiting
        self.hear(self._number, done, max(self._asked, self._expected))
