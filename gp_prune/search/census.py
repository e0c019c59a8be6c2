"""What the formulas of a population are made of, counted, for the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from gp_prune.language.expression import Expression

COMMON = 12
"""Subtrees that are listed, those of the most formulas."""


def take_census(formulas: Iterable[Expression]) -> dict[str, Any]:
    """Count primitives and subtrees of formulas.

    Returns:
        As JSON: ``formulas``, their number; ``operands`` and ``operators``, name -> number of
        formulas that have it; ``subtrees``, the number of subtrees with more than one node;
        ``distinct``, the number of different ones among them; ``common``, the subtrees that are in
        the most formulas, at least two, each with their number.
    """
    formulas = list(formulas)
    operands: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    holders: Counter[str] = Counter()
    subtrees = 0
    for formula in formulas:
        inner: set[str] = set()
        names: dict[bool, set[str]] = {False: set(), True: set()}
        for node in formula.nodes():
            if node.head is not None:
                names[bool(node.arguments)].add(node.head.name)
            if node.arguments:
                subtrees += 1
                inner.add(str(node))
        operands.update(names[False])
        operators.update(names[True])
        holders.update(inner)
    common = sorted(
        ((count, text) for text, count in holders.items() if count > 1),
        key=lambda entry: (-entry[0], -len(entry[1]), entry[1]),
    )
    return {
        "formulas": len(formulas),
        "operands": dict(sorted(operands.items())),
        "operators": dict(sorted(operators.items())),
        "subtrees": subtrees,
        "distinct": len(holders),
        "common": [[text, count] for count, text in common[:COMMON]],
    }
