from __future__ import annotations

import language_networks
import language_searches
import numpy as np
import pytest
import torch
from language_networks import Line
from language_tables import PairedTest, by_network, claims, compare, evolved_tests, holm, table
from scipy.stats import spearmanr

from gp_prune.metric.metric import Metric
from gp_prune.tasks import Task
from gp_prune.tasks.language_models import LanguageModel, Size
from gp_prune.tasks.texts import TextData

WORDS = "\n\n".join(f"line {n} holds {n * n} and {n % 7} more words" for n in range(400)).encode()


def lines(gaps: list[float]) -> list[Line]:
    found = []
    for number, gap in enumerate(gaps):
        name = language_networks.OTHERS[number]
        found.append(Line(name, "dense", "row", 0, "0%", 1.0))
        found.append(Line(name, "magnitude", "row", 0, "50%", 2.0))
        found += [Line(name, "wanda_weight", "row", s, "50%", 2.0 + gap + s - 1) for s in (0, 1, 2)]
    return found


def test_a_network_counts_once_by_its_mean_over_the_seeds() -> None:
    found = lines([-0.1, -0.2, -0.3])
    assert by_network(found, "wanda_weight", "50%")[language_networks.OTHERS[1]] == pytest.approx(
        1.8
    )
    (test,) = compare(found, [("wanda_weight", "magnitude")])
    assert test.difference == pytest.approx(-0.2)
    assert (test.wins, test.networks) == (3, 3)
    # t = -0.2 / (0.1 / sqrt(3)) = -3.464 with two degrees of freedom
    assert test.p == test.corrected == pytest.approx(0.0742, abs=1e-3)
    assert "| `wanda_weight` | `magnitude` | row | 50% | -0.200 | 3 of 3 |" in table(found)


def test_p_values_are_corrected_by_holm() -> None:
    tests = [PairedTest("a", "b", "row", "50%", 0.0, 0, 8, p) for p in (0.02, 0.01, 0.5)]
    assert [t.corrected for t in holm(tests)] == pytest.approx([0.04, 0.03, 0.5])


@pytest.mark.parametrize("sparsity", ["50%", "2:4"])
def test_a_network_loses_half_of_the_weights_of_each_output(sparsity: str) -> None:
    data = TextData("lines", WORDS)
    model = LanguageModel(Size(8, 1, 2, 1, 12), llama=True).eval()
    task = Task(model, data.train, data.validation, data.read_test, kind="language", whole=["head"])
    metric = Metric.load("wanda_weight")
    scores = language_networks.score(task, [metric], 0)[metric.name]
    pruned = language_networks.prune_by(task, scores, "row", sparsity)
    state = pruned.state_dict()
    masks = {name: mask for name, mask in state.items() if name.endswith("weight_mask")}
    assert len(masks) == 7
    assert all(bool((mask.sum(1) == mask.shape[1] / 2).all()) for mask in masks.values())
    assert language_networks.error(task, pruned) > 0


def test_claims_are_shown_in_their_order_until_one_fails() -> None:
    """Magnitude beats random throughout; Wanda beats magnitude at 50 %, and not at 60 %."""
    lines = [
        Line(network, formula, "row", 0, sparsity, nats + 0.001 * number)
        for number, network in enumerate(language_networks.NETWORKS)
        for sparsity in language_networks.SPARSITIES
        for formula, nats in (
            ("random_weight", 3.0 + 0.0001 * (number % 3)),
            ("magnitude", 2.0),
            ("wanda_weight", (1.9 if sparsity == "50%" else 2.0) + 0.0002 * (number % 2 - 0.5)),
        )
    ]
    rows = [row.split(" | ") for row in claims(lines).split("\n")]
    assert [(row[0].strip("| `"), row[2], row[6]) for row in rows] == [
        ("magnitude", "50%", "yes"), ("wanda_weight", "50%", "yes"),
        ("magnitude", "60%", "yes"), ("wanda_weight", "60%", "no"),
        ("magnitude", "70%", "no"), ("wanda_weight", "70%", "no"),
        ("magnitude", "2:4", "no"), ("wanda_weight", "2:4", "no"),
    ]  # fmt: skip
    assert rows[0][4] == "16 of 16"


def test_evolved_formulas_are_tested_in_their_ranking_and_corrected_together() -> None:
    nats = {"dense": 1.0, "wanda_weight": 2.0, "pruner_zero_weight": 2.1, "obd_weight": 2.2}
    generator = np.random.default_rng(0)
    lines = [
        Line(network, formula, scope, 0, sparsity, value + 0.02 * generator.random())
        for network in language_networks.OTHERS
        for sparsity in language_networks.SPARSITIES
        for scope, name in language_networks.EVOLVED.items()
        for formula, value in {**nats, name: 1.9}.items()
    ]
    tests = evolved_tests(lines)
    assert len(tests) == 12
    assert {(test.better, test.scope) for test in tests} == {
        ("evolved_row", "row"), ("evolved_global", "global")
    }  # fmt: skip
    assert [t.corrected for t in tests] == pytest.approx([t.corrected for t in holm(tests)])
    text = table(lines)
    for test in tests:
        assert (test.wins, test.networks) == (10, 10)
        assert f"| {test.scope} | {test.sparsity} | {test.difference:+.3f} | 10 of 10 |" in text


def test_the_library_is_a_text_that_networks_are_trained_on() -> None:
    content = language_networks.read_library()
    assert b"class Thread" in content  # threading.py
    assert len(TextData("library", content).train) > 1000


def test_rows_that_rank_alike_have_the_correlation_one() -> None:
    """As scipy computes it, row by row."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, 7, 1, generator=generator) for _ in range(2))
    found = language_searches.rank_correlation({"a": first}, {"a": second})
    rows = zip(first.flatten(1), second.flatten(1), strict=True)
    assert found == pytest.approx(np.mean([spearmanr(x, y).statistic for x, y in rows]))
    assert language_searches.rank_correlation({"a": first}, {"a": first.exp()}) == pytest.approx(1)
