"""A size is a number with its unit, and every other text is refused with what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.base.sizes import (
    MAX_MEMORY,
    UNITS,
    format_size,
    machine_memory,
    normalise_size,
    parse_size,
    remark_on_size,
)
from gp_prune.errors import UserError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9), ("500MB", 5 * 10**8), ("1.5 GiB", 3 * 2**29), (" 2\tgb ", 2 * 10**9),
        (".5TiB", 2**39), ("1B", 1), ("12.kB", 12_000), ("+3mib", 3 * 2**20), (7, 7),
    ],
)  # fmt: skip
def test_a_size_has_a_number_and_a_unit(text: int | str, size: int) -> None:
    assert parse_size(text, "limit") == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2", "limit is '2', which has no unit; write one, such as 2GB"),
        ("2 XYZ", "'XYZ' is no unit of memory; the units are B, kB, MB"),
        ("2G", "'G' is no unit of memory; did you mean GB?"),
        ("0GB", "limit is '0GB'; it must be at least 1 byte"),
        ("-1 GB", "limit is '-1 GB'; it must be at least 1 byte"),
        ("0.4B", "it must be at least 1 byte"),
        ("9" * 500 + "GB", "...'; it must be less than 9 million TB"),
        ("lots", "limit is 'lots', which is no size; write a number and its unit"),
        ("", "limit is '', which is no size"),
        ("GB", "which is no size"), ("2,5GB", "which is no size"), ("1e3MB", "which is no size"),
        ("nan GB", "which is no size"), ("٢GB", "which is no size"), ("2GB 1MB", "no size"),
        (0, "limit is 0; it must be at least 1 byte"), (-5, "limit is -5"), (2**63, "less than"),
        (True, "limit is True; give a size with its unit"), (1.5, "limit is 1.5; give a size"),
        (None, "limit is None"), ([1], r"limit is \[1\]"),
    ],
)  # fmt: skip
def test_what_is_no_size_is_refused(text: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_size(text, "limit")


@given(st.integers(1, 2**63 - 1), st.sampled_from([*UNITS]))
def test_a_formatted_size_is_read_back_exactly(size: int, unit: str) -> None:
    for each in (size, min(size, 2**20) * UNITS[unit]):
        assert parse_size(format_size(each), "limit") == each


def test_equal_sizes_have_one_text() -> None:
    texts = {normalise_size(text, "limit") for text in ("2GB", "2000 MB", 2 * 10**9, "0.002tb")}
    assert texts == {"2GB"} == {normalise_size(MAX_MEMORY, "limit")}
    assert normalise_size("1536MiB", "limit") == "1.5GiB"


def test_more_than_the_machine_has_is_remarked() -> None:
    machine = machine_memory()
    assert machine is not None and machine > 2**27
    assert remark_on_size(None) == ""
    assert remark_on_size(machine) == ""
    remark = remark_on_size(1000 * machine)
    assert (
        remark.startswith("max_memory (--max-memory) is ")
        and f"has {machine / 10**9:.1f}GB" in remark
    )
