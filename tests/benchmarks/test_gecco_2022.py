"""The task of the GECCO 2022 paper: what it keeps, how it cuts and retrains, and its page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gecco_2022
import pytest
import torch
from csv_lines import as_csv, read
from gecco_2022_networks import WHOLE, Protocol, build, costs, cut, error, retrain, widths_of
from gecco_2022_table import DENSE, RESULTS, Final, Line, page

from gp_prune import Metric
from gp_prune.pruning import predict, trace
from gp_prune.statistics.running import random_state
from gp_prune.tasks.data import Split

PROTOCOL = Protocol.load()
LAST = PROTOCOL.steps[-1]


def network(widths: dict[str, int], seed: int = 0) -> torch.nn.Module:
    with random_state(seed):
        return build(widths)


def images(count: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, 1, 28, 28, generator=generator)
    return Split(inputs, torch.randint(0, 10, (count,), generator=generator))


def test_the_plan_keeps_what_the_paper_keeps() -> None:
    whole, small = costs(WHOLE), costs(LAST)
    assert LAST == {"conv1": 5, "conv2": 11, "linear1": 40}
    assert round(100 * small.macs / whole.macs, 2) == 7.30
    assert (whole.weights, small.weights) == (430_500, 8_940)
    assert round(100 * small.weights / whole.weights, 2) == 2.08
    # With its biases, which the paper's code leaves out.
    assert (whole.params, small.params) == (431_080, 9_006)
    architecture = trace(network(WHOLE), torch.zeros(1, 1, 28, 28))
    assert predict(architecture, LAST) == (small.macs, small.params)


def test_the_lowest_scores_of_each_layer_go_layer_after_layer() -> None:
    model = network({"conv1": 8, "conv2": 9, "linear1": 12})
    smaller = cut(
        model, Metric.load("l1"), {"conv1": 5, "conv2": 4, "linear1": 12}, images(2), seed=0
    )
    assert widths_of(smaller) == {"conv1": 5, "conv2": 4, "linear1": 12}
    weight = model.get_parameter("conv1.weight").detach()
    first = weight.abs().sum((1, 2, 3)).topk(5).indices.sort().values
    assert torch.equal(smaller.get_parameter("conv1.weight"), weight[first])
    # The filters of the second layer are judged by what they still read.
    weight = model.get_parameter("conv2.weight").detach()[:, first]
    second = weight.abs().sum((1, 2, 3)).topk(4).indices.sort().values
    assert torch.equal(smaller.get_parameter("conv2.weight"), weight[second])
    assert widths_of(model) == {"conv1": 8, "conv2": 9, "linear1": 12}


@pytest.mark.slow
def test_all_metrics_of_the_settings_reach_the_widths_of_a_step() -> None:
    few = images(40)
    for metric in PROTOCOL.metrics.values():
        small = {"conv1": 3, "conv2": 3, "linear1": 4}
        model = cut(network({"conv1": 4, "conv2": 5, "linear1": 6}), metric, small, few, seed=1)
        assert widths_of(model) == small


def test_the_network_of_the_best_check_is_kept() -> None:
    train, validation = images(64), images(40, seed=1)
    settings = {"batches": 4, "batch_size": 16, "checks": 4, "learning_rate": 3e-3,
                "weight_decay": 0.0}  # fmt: skip
    found = []
    for checks in (1, 4):
        model = network({"conv1": 2, "conv2": 2, "linear1": 4})
        changed = {**settings, "checks": checks, "batches": 4 * checks}
        check, least = retrain(model, train, validation, changed, seed=3)
        assert 1 <= check <= checks and error(model, validation) == least
        found.append(least)
    assert found[1] <= found[0]


def test_settings_are_of_the_paper_and_a_new_formula_leaves_the_lines_valid() -> None:
    assert [tuple(step.values()) for step in PROTOCOL.steps] == [
        (10, 20, 100), (5, 12, 45), (5, 11, 40),
    ]  # fmt: skip
    content: dict[str, Any] = dict(PROTOCOL.content)
    more = Protocol({
        **content, "metrics": {**content["metrics"], "later": ["new"]},
        "formulas": {"new": "sum[i,k](W^2)"},
    })  # fmt: skip
    assert more.digest == PROTOCOL.digest and more.metrics["new"].name == "new"
    other = Protocol({**content, "retraining": {**content["retraining"], "batches": 1}})
    assert other.digest != PROTOCOL.digest
    cells = PROTOCOL.cells()
    assert len(set(cells)) == len(cells) and (0, "random", 2) in cells


def test_lines_of_other_settings_are_refused(tmp_path: Path) -> None:
    line = Line("l1", 0, 0, 1, 50.0, 5.0, 1, 1.0, PROTOCOL.digest)
    path = tmp_path / gecco_2022.LINES
    path.write_text(as_csv([line]))
    assert gecco_2022.finished(PROTOCOL, tmp_path) == [line]
    path.write_text(as_csv([line, replace(line, step=2, settings="other")]))
    with pytest.raises(SystemExit, match="other settings"):
        gecco_2022.finished(PROTOCOL, tmp_path)


def test_the_metrics_that_a_network_still_lacks() -> None:
    lines = [
        Line(name, draw, 1, step, 9.0, 2.0, 1, 1.0, PROTOCOL.digest)
        for name in PROTOCOL.metrics
        for draw in range(PROTOCOL.draws(name))
        for step in (1, 2, 3)
    ]
    assert gecco_2022.unfinished(PROTOCOL, lines, 1) == []
    fewer = [line for line in lines if line.key not in {("snr", 0, 1, 3), ("random", 2, 1, 1)}]
    assert gecco_2022.unfinished(PROTOCOL, fewer, 1) == ["snr", "random"]
    assert gecco_2022.unfinished(PROTOCOL, lines, 0) == list(PROTOCOL.metrics)


def made_up(errors: dict[str, float]) -> list[Final]:
    """Return lines in which the error of a metric is that of the step and the seed, and more."""
    lines = [
        Final.of(Line(DENSE, 0, seed, 0, 1.0, 1.0, 0, 0.0, ""), 0.7, 0.7) for seed in PROTOCOL.seeds
    ]
    for name, more in errors.items():
        for seed in PROTOCOL.seeds:
            for draw in range(PROTOCOL.draws(name)):
                for step in (1, 2, 3):
                    line = Line(name, draw, seed, step, 60.0, 5.0, 2, 60.0, "")
                    test = step + 0.1 * seed + more + (0.3 * draw if name == "random" else 0)
                    lines.append(Final.of(line, 10 * test, test))
    return lines


def test_the_page_ranks_and_compares() -> None:
    text = page(
        made_up({"l1": 0.5, "gecco_1": 0.2, "gecco_2": 0.1, "random": 1.0}), PROTOCOL, "abc1234"
    )
    assert "7.30 % of the MACs and 2.09 % of the 431,080 parameters" in text
    assert "or 2.08 % of the 430,500 without biases" in text
    assert "**Not finished:** snr, fdr," in text and "the network of seed" not in text
    rows = [line for line in text.splitlines() if line.startswith("| gecco_2 |")]
    assert "| 1.0 | 1.20 ± 0.10 | 2.20 ± 0.10 | 3.20 ± 0.10 | 1.0 | 12.0 ± 1.0 |" in rows[0]
    assert "-0.40 (9 of 9)" in rows[1] and "to `gecco_2`" in text
    random = [line for line in text.splitlines() if line.startswith("| random |")]
    # The mean of three draws, 0, 0.3 and 0.6 above the first.
    assert "2.40 ± 0.10 | 3.40 ± 0.10 | 4.40 ± 0.10" in random[0]
    assert "standard deviation of 0.30 points" in text
    text = " ".join(text.split())
    assert "Places of 4: `l1` 3, `gecco_2` 1, `random` 4." in text
    assert "cannot give less than p = 0.0039, or 0.012 after" in text
    # Draws of the same network are equal here, so that there is no noise at all.
    assert "0 of the 3 others are within" in text and "2 have less error and 1 more." in text


def test_the_page_leaves_out_networks_whose_test_errors_were_not_read() -> None:
    lines = [line for line in made_up({"l1": 0.5, "gecco_1": 0.2}) if line.seed != 1]
    text = page(lines, PROTOCOL, "abc1234")
    assert "mean_activation_energy, the network of seed 1." in text
    assert "over the networks of 2 seeds" in text and "| gecco_1 | functions" in text


def test_the_page_in_the_repository_is_made_from_its_lines() -> None:
    lines = read(RESULTS / "gecco_2022.csv", Final)
    assert len({line.key for line in lines}) == len(lines)
    assert {line.settings for line in lines} == {PROTOCOL.digest}
    text = (RESULTS / "gecco_2022.md").read_text(encoding="utf-8")
    commit = text.split("commit ")[1].split(")")[0]
    assert text == page(lines, PROTOCOL, commit)
