"""Axes: sets of letters in one order, each set one object."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.language.axes import AXIS_MEANING, LEGAL_AXES, Axes, broadcast

letters = st.sets(st.sampled_from(sorted(AXIS_MEANING)))
axes = letters.map("".join).map(Axes)


@given(letters, st.randoms(use_true_random=False))
def test_order_of_writing_does_not_matter(chosen: set[str], rng: object) -> None:
    shuffled = sorted(chosen)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Axes(", ".join(shuffled)) is Axes(chosen)
    assert set(Axes(chosen)) == chosen
    assert list(Axes(chosen)) == [letter for letter in AXIS_MEANING if letter in chosen]


@given(axes, axes)
def test_they_are_sets(a: Axes, b: Axes) -> None:
    assert set(a | b) == set(a) | set(b)
    assert set(a - b) == set(a) - set(b)
    assert a.issubset(b) == (set(a) <= set(b))
    assert (a is b) == (set(a) == set(b)) == (a == b)
    assert len(a) == len(set(a))
    assert all(a.index(letter) == place for place, letter in enumerate(a))


@given(st.lists(axes))
def test_order_is_total(some: list[Axes]) -> None:
    ordered = sorted(some)
    assert ordered == sorted(reversed(some))
    assert all(not b < a for a, b in itertools.pairwise(ordered))


@given(axes)
def test_copies_are_the_same_object(a: Axes) -> None:
    assert copy.deepcopy(a) is a
    assert pickle.loads(pickle.dumps(a)) is a
    assert Axes(a) is a


def test_they_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Axes("o").letters = "i"


@pytest.mark.parametrize(
    ("text", "message"), [("x", "unknown axis 'x'"), ("oo", "twice"), ("o,i,o", "twice")]
)
def test_wrong_letters(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Axes(text)


def test_legal_list_is_the_one_of_the_design() -> None:
    design = "o,i,c,oi,ik,ok,oik,oj,on,os,ons,in,ins,oc,ocs,op"
    assert set(LEGAL_AXES) == {Axes(""), *map(Axes, design.split(","))}
    assert len(LEGAL_AXES) == len(set(LEGAL_AXES)) == 17
    assert all(one.legal for one in LEGAL_AXES)
    assert not Axes("oikn").legal


@given(st.lists(st.sampled_from(LEGAL_AXES), max_size=3))
def test_broadcast_is_the_legal_union(types: list[Axes]) -> None:
    union = Axes(set().union(*types))
    assert broadcast(*types) is (union if union in LEGAL_AXES else None)


def test_text_forms() -> None:
    assert str(Axes("kio")) == "{o,i,k}"
    assert repr(Axes("kio")) == "Axes('oik')"
    assert "i" in Axes("oik")
    assert "n" not in Axes("oik")
