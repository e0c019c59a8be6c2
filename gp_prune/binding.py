"""Floor 2: which index symbol stands for which axis while a tree is written as a formula.

A tree is turned into sympy from the root down. Each node is written in a :class:`Scope`; an
operator that binds indices (a sum, a maximum) takes fresh ones, primed where the plain letter is
already in use around it, so that no index of a printed formula is captured by another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy

from gp_prune import symbols
from gp_prune.axes import Axes


class Scope:
    """Index symbols by axis letter, and all symbols that enclosing terms use.

    Args:
        current: the index symbol of every axis of the term that is being written.
        taken: symbols that a new bound index must not reuse.
    """

    __slots__ = ("current", "taken")

    def __init__(
        self, current: Mapping[str, sympy.Symbol], taken: frozenset[sympy.Symbol] = frozenset()
    ) -> None:
        self.current = dict(current)
        self.taken = taken | frozenset(self.current.values())

    @classmethod
    def of(cls, axes: Axes) -> Scope:
        """The scope of a root: every axis by its plain letter."""
        return cls({letter: symbols.index(letter) for letter in axes})

    def fresh(self, letter: str) -> sympy.Symbol:
        """The first of ``i``, ``i'``, ``i''`` ... that nothing around uses."""
        primes = 0
        while (candidate := symbols.index(letter, primes)) in self.taken:
            primes += 1
        return candidate

    def renamed(self, changes: Mapping[str, sympy.Symbol]) -> Scope:
        """This scope with some axes written by other symbols."""
        return Scope({**self.current, **changes}, self.taken)

    def indices(self, axes: Axes) -> tuple[sympy.Symbol, ...]:
        """The index symbols of ``axes`` in canonical order."""
        return tuple(self.current[letter] for letter in axes)


class Call:
    """One use of an operator, as its ``symbol`` function sees it.

    Args:
        arguments: for each argument, a function that writes it in a given scope.
        scope: the scope of the operator's own result.
        over: the axes named in brackets (``sum[i,k]``), empty for operators that take none.
    """

    def __init__(
        self, arguments: Sequence[Callable[[Scope], Any]], scope: Scope, over: Axes
    ) -> None:
        self._arguments = arguments
        self._scope = scope
        self.bound: tuple[sympy.Symbol, ...] = tuple(scope.fresh(letter) for letter in over)
        self._over = over

    @property
    def along(self) -> tuple[sympy.Symbol, ...]:
        """The index symbols that stand for the bracketed axes in the operator's own result."""
        return tuple(self._scope.current[letter] for letter in self._over)

    @property
    def body(self) -> Any:
        """The first argument, written with the bound indices of the bracketed axes."""
        return self.argument(0, **dict(zip(self._over, self.bound, strict=True)))

    def argument(self, position: int, **indices: sympy.Symbol) -> Any:
        """An argument of the operator, with the index of some axes replaced."""
        return self._arguments[position](self._scope.renamed(indices))

    def free(self, letter: str) -> sympy.Symbol:
        """The index symbol that stands for an axis of the operator's result."""
        return self._scope.current[letter]

    def fresh(self, letter: str) -> sympy.Symbol:
        """An index over an axis that nothing around the operator uses."""
        return self._scope.fresh(letter)
