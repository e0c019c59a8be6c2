"""Plans as exchanged files: exact round trips and clear refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.errors import UserError
from gp_prune.pruning import Achieved, Budget, ChannelPlan

PLAN = ChannelPlan({"a": (0, 2), "b": (5,)}, Budget("macs", 0.5), Achieved(0.6, 0.52, 0.4), 0.25)

shares = st.floats(0, 1)
plans = st.builds(
    ChannelPlan,
    removed=st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.sets(st.integers(0, 99), min_size=1, max_size=5).map(lambda s: tuple(sorted(s))),
        max_size=3,
    ),
    asked=st.builds(Budget, st.sampled_from(["channels", "macs", "params"]), st.floats(1e-9, 1)),
    achieved=st.builds(Achieved, shares, shares, shares),
    ties=shares,
)


@given(plan=plans)
def test_round_trip(plan: Any) -> None:
    assert ChannelPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@given(one=plans, other=plans)
def test_digest_is_that_of_what_is_removed(one: Any, other: Any) -> None:
    assert (one.digest() == other.digest()) == (one.removed == other.removed)


def test_digest_does_not_depend_on_the_order_of_groups() -> None:
    turned = dict(reversed(PLAN.removed.items()))
    again = ChannelPlan(turned, Budget("params", 0.1), PLAN.achieved)
    assert again.digest() == PLAN.digest()


def test_met_and_shortfall() -> None:
    assert PLAN.shortfall == pytest.approx(0.02)
    assert PLAN.met()
    assert not PLAN.met(0.01)


def changed(path: str, value: object) -> dict[str, object]:
    data = json.loads(json.dumps(PLAN.to_json()))
    *parents, last = path.split(".")
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    return data  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", 1, "unknown field 'colour'"),
        ("asked.colour", 1, "asked has an unknown field 'colour'"),
        ("kind", "weight plan", "holds a 'weight plan'"),
        ("schema_version", 2, "schema_version 2"),
        ("schema_version", True, "must be a whole number"),
        ("removed", [], "'removed' of channel plan is"),
        ("removed.a", "01", "group 'a' is '01'; it must be a list"),
        ("removed.a", [0, "1"], "group 'a' is '1'; it must be a whole number"),
        ("removed.a", [2, 0], "must be ascending"),
        ("removed.a", [0, 0], "must be ascending"),
        ("removed.a", [-1], "must be ascending"),
        ("removed.a", [], "at least one"),
        ("removed.a", [0, 3], "does not fit its digest"),
        ("asked.keep", 0, "greater than 0"),
        ("asked.kind", "flops", "must be one of channels, macs, params"),
        ("achieved.macs", 1.5, "'macs' is 1.5"),
        ("achieved.macs", None, "'macs' of achieved is None"),
        ("ties", float("nan"), "'ties' of channel plan is nan"),
        ("digest", 5, "'digest' of channel plan is 5"),
    ],
)
def test_damaged_files_are_refused(path: Any, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ChannelPlan.from_json(changed(path, value))


@pytest.mark.parametrize("field", ["schema_version", "removed", "asked", "achieved", "digest"])
def test_missing_fields_are_named(field: str) -> None:
    data = PLAN.to_json()
    del data[field]
    with pytest.raises(UserError, match=f"no field '{field}'"):
        ChannelPlan.from_json(data)


@pytest.mark.parametrize("data", [None, [], "plan", 3])
def test_not_an_object(data: Any) -> None:
    with pytest.raises(UserError, match="must be an object"):
        ChannelPlan.from_json(data)
