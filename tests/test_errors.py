"""Rules accept what they say, and a refusal names the field, the value and the remedy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from gp_prune.errors import (
    Rule,
    UserError,
    check_fields,
    first_line,
    number,
    one_of,
    pluralize,
    root_cause,
    whole,
)


@pytest.mark.parametrize(
    ("rule", "accepted", "refused", "words"),
    [
        (
            whole(1), [1, 10**9], [0, 10**9 + 1, 10**400, 10**5000, True, 1.0, "1", None],
            "a whole number, at least 1 and at most 1,000,000,000",
        ),
        (whole(0, 9), [0, 9], [-1, 10], "a whole number from 0 to 9"),
        (
            number(least=0), [0, 0.0, 1e9], [-1e-9, 10**400, 1e300, math.nan, math.inf],
            "a number, at least 0 and at most 1e+09",
        ),
        (
            number(above=0), [1e-9], [0.0, -math.inf, False],
            "a number greater than 0 and at most 1e+09",
        ),
        (
            number(above=0, most=1), [0.5, 1], [0, 1.1, "a"],
            "a number greater than 0 and at most 1",
        ),
        (number(least=0, below=1), [0, 0.5], [1, -1], "a number, at least 0 and less than 1"),
        (one_of("a", "b"), ["a", "b"], ["c", "", 1, ["a"]], "one of a, b"),
    ],
)  # fmt: skip
def test_a_rule_accepts_what_it_says(
    rule: Rule, accepted: list[Any], refused: list[Any], words: str
) -> None:
    assert all(map(rule.accepts, accepted))
    assert not any(map(rule.accepts, refused))
    assert rule.words == words


@dataclass
class Fields:
    count: int = 1
    shares: tuple[float, ...] = (0.5, 1.0)


def test_a_refusal_names_field_value_and_remedy() -> None:
    rules = {"count": whole(1), "shares": number(above=0, most=1)}
    check_fields(Fields(), rules)
    with pytest.raises(UserError, match=r"^count is 0; it must be a whole number, at least 1 and"):
        check_fields(Fields(count=0), rules)
    with pytest.raises(UserError, match=r"^shares of x holds 2\.0; it must be a number greater"):
        check_fields(Fields(shares=(1.0, 2.0)), rules, " of x")


def test_a_list_stands_for_a_tuple_and_a_tuple_for_no_number() -> None:
    rules = {"count": whole(1), "shares": number(above=0, most=1)}
    several: Any = [0.5, 2.0]
    check_fields(Fields(shares=several[:1]), rules)
    with pytest.raises(UserError, match=r"^shares holds 2\.0; it must be"):
        check_fields(Fields(shares=several), rules)
    single: Any = (1,)
    with pytest.raises(UserError, match=r"^count is \(1,\); it must be a whole number"):
        check_fields(Fields(count=single), rules)


@pytest.mark.parametrize(("message", "line"), [("\n one\ntwo", "one"), (" \n", "RuntimeError")])
def test_the_first_line_of_an_error_is_its_type_where_it_says_nothing(
    message: str, line: str
) -> None:
    assert first_line(RuntimeError(message)) == line


def test_the_root_cause_is_the_error_that_the_others_were_raised_from() -> None:
    first, second, third = ValueError("a"), KeyError("b"), UserError("c")
    second.__cause__, third.__cause__ = first, second
    third.__context__ = OSError("handled meanwhile")
    assert root_cause(third) is first and root_cause(first) is first


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "epoch", "1 epoch"),
        (2, "epoch", "2 epochs"),
        (3, "mini-batch", "3 mini-batches"),
        (1_000, "search", "1,000 searches"),
        (0, "class", "0 classes"),
    ],
)
def test_counts_have_their_noun(number: int, noun: str, text: str) -> None:
    assert pluralize(number, noun) == text
