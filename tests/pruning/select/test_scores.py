"""One score per channel: normalising, joining, and the errors that name a layer."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gp_prune.metric.file import JOINS, NORMALISERS, Conventions
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelGroup,
    DegenerateScores,
    Slot,
    group_scores,
    select_channels,
)
from gp_prune.pruning.select.scores import UNRANKED, keep_unranked

HALF = Budget("channels", 0.5)


def bare(*widths: int) -> Architecture:
    """Groups a, b, ... of the given sizes, with one producer each and no costs."""
    slots = [Slot(n, "out", tuple(range(w))) for n, w in zip("abcd", widths, strict=False)]
    return Architecture(tuple(ChannelGroup(s.module, len(s.channels), (s,)) for s in slots), ())


def test_degenerate_scores_survive_pickling() -> None:
    error = DegenerateScores("constant", "conv1", "all 6 values are 1.0")
    again = pickle.loads(pickle.dumps(error))
    assert (again.reason, again.layer, str(again)) == ("constant", "conv1", str(error))


PAIR = Architecture(
    (
        ChannelGroup("a", 2, (Slot("a", "out", (0, 1)), Slot("b", "depthwise", (-1, 1, 0, -1)))),
        ChannelGroup("c", 2, (Slot("c", "out", (0, 0, 1, 1)),)),
        ChannelGroup("d", 3, (Slot("d", "out", (0, 1, 2)),), "network output"),
    ),
    (),
)
PAIR_SCORES = {"a": [1.0, 7.0], "b": [9.0, 4.0, 5.0, 9.0], "c": [1.0, 3.0, -7.0, 2.0]}


class TestGroupScores:
    @pytest.mark.parametrize(
        ("join", "a", "c"),
        [
            ("sum", [6.0, 11.0], [4.0, -5.0]),
            ("mean", [3.0, 5.5], [2.0, -2.5]),
            ("max", [5.0, 7.0], [3.0, 2.0]),
            ("first", [1.0, 7.0], [2.0, -2.5]),
        ],
    )
    def test_joins(self, join: str, a: Any, c: Any) -> None:
        found = group_scores(PAIR, PAIR_SCORES, Conventions(normaliser="none", join=join))
        assert {name: values.tolist() for name, values in found.items()} == {"a": a, "c": c}

    def test_scores_that_cancel_are_degenerate(self) -> None:
        scores = {**PAIR_SCORES, "a": [1.0, 2.0]}  # with those of b: 6 and 6
        with pytest.raises(DegenerateScores, match=r"'a' .*joined"):
            group_scores(PAIR, scores, Conventions(normaliser="none", join="sum"))

    @pytest.mark.parametrize(
        ("normaliser", "divisor"), [("sum", 10.0), ("mean", 2.5), ("max", 5.0)]
    )
    def test_normalisers(self, normaliser: str, divisor: Any) -> None:
        architecture = bare(4)
        found = group_scores(
            architecture, {"a": [1.0, -5.0, 4.0, 0.0]}, Conventions(normaliser=normaliser)
        )
        assert found["a"].tolist() == pytest.approx([v / divisor for v in (1.0, -5.0, 4.0, 0.0)])

    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("scale", [1e-300, 1.0, 1.7e308])
    def test_normalising_keeps_the_order_at_any_scale(self, normaliser: str, scale: float) -> None:
        values = np.array([1.0, -1.0, 0.5, 0.25]) * scale
        found = group_scores(bare(4), {"a": values}, Conventions(normaliser=normaliser))["a"]
        assert np.argsort(found.numpy()).tolist() == [1, 3, 2, 0]
        assert bool(torch.isfinite(found).all())

    def test_a_single_channel_is_not_constant(self) -> None:
        for value in (0.0, 3.0):
            plan = select_channels(bare(1, 2), {"a": [value], "b": [1.0, 2.0]}, Conventions(), HALF)
            assert "a" not in plan.removed

    @pytest.mark.parametrize("join", JOINS)
    @pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
    def test_a_layer_that_ranks_nothing_leaves_it_to_the_others(
        self, join: str, value: float, network: Callable[[str], Any]
    ) -> None:
        architecture = network("resnet18").architecture
        group = architecture.by_name["layer2.0.conv2"]
        numbers = np.random.default_rng(0).normal(size=(len(architecture.free), 600))
        scores = {
            layer: row[: member.width]
            for g, row in zip(architecture.free, numbers, strict=True)
            for member in g.members
            for layer in [member.layer]
        }
        alone = {**scores, **dict.fromkeys(group.producers[:-1], np.full(group.size, value))}
        found = group_scores(architecture, alone, Conventions(normaliser="none", join=join))
        expected = scores[group.producers[-1]]
        np.testing.assert_allclose(found["layer2.0.conv2"].numpy(), expected)

    def test_others_that_miss_a_channel_do_not_rank_them(self) -> None:
        scores = {**PAIR_SCORES, "a": [2.0, 2.0]}
        found = group_scores(PAIR, scores, Conventions(normaliser="none", join="sum"))
        assert found["a"].tolist() == [5.0, 4.0]
        apart = Architecture(
            (ChannelGroup("a", 2, (Slot("a", "out", (0, -1)), Slot("b", "out", (0, 1)))),), ()
        )
        with pytest.raises(DegenerateScores, match=r"'b'.*all 2 values are 5.0"):
            group_scores(apart, {"a": [1.0, 2.0], "b": [5.0, 5.0]}, Conventions(join="sum"))

    @pytest.mark.parametrize("join", JOINS)
    def test_real_groups(
        self,
        join: str,
        network: Callable[[str], Any],
        channel_scores: Callable[..., dict[str, Tensor]],
    ) -> None:
        architecture = network("resnet18").architecture
        scores = channel_scores(architecture, 1)
        found = group_scores(architecture, scores, Conventions(normaliser="none", join=join))
        parts = torch.stack([scores[n] for n in architecture.by_name["layer2.0.conv2"].producers])
        expected = {
            "sum": parts.sum(0), "mean": parts.mean(0), "max": parts.amax(0), "first": parts[0]
        }[join]  # fmt: skip
        assert torch.allclose(found["layer2.0.conv2"], expected)


UNEQUAL = {"a": [1.0, 1.0], "b": [1.0, 2.0, 3.0]}
"""Scores of two groups, of which the first is not ranked."""


class TestKeepUnranked:
    def test_groups_that_are_not_ranked_stay(self) -> None:
        kept = keep_unranked(bare(2, 3), UNEQUAL, Conventions())
        assert [group.fixed for group in kept.groups] == [UNRANKED, ""]
        plan = select_channels(kept, UNEQUAL, Conventions(), HALF)
        assert plan.removed == {"b": (0, 1)}

    def test_groups_that_must_be_ranked_are_refused(self) -> None:
        with pytest.raises(DegenerateScores, match=r"'a'.*all 2 values are 1.0"):
            keep_unranked(bare(2, 3), UNEQUAL, Conventions(), but=["a"])

    def test_nothing_ranked_is_refused(self) -> None:
        with pytest.raises(DegenerateScores, match=r"'a'"):
            keep_unranked(bare(2, 3), {**UNEQUAL, "b": [0.0] * 3}, Conventions())

    def test_scores_that_are_not_finite_are_refused(self) -> None:
        with pytest.raises(DegenerateScores, match=r"'b'.*NaN"):
            keep_unranked(bare(2, 3), {**UNEQUAL, "b": [0.0, np.nan, 1.0]}, Conventions())
