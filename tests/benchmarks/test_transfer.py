"""The tables of evolved formulas beside published metrics."""

from __future__ import annotations

import transfer


def line(metric: str, allocation: str, network: str, error: float) -> transfer.Line:
    return transfer.Line(metric, allocation, network, "macs", 0.5, error, 0)


def test_contenders_are_ranked_on_the_cells_that_all_named_ones_have() -> None:
    lines = [
        line("pair", "own", "a", 0.1), line("pair", "own", "b", 0.2),
        line("l1", "by gecco_2", "a", 0.4), line("l1", "by gecco_2", "b", 0.1),
        line("l1", "uniform", "a", 0.3), line("l1", "uniform", "b", 0.3),
        line("pair", "own", "c", 9.0), line("l1", "global", "a", 0.0),
        line("flap", "global", "a", 0.2), line("flap", "global", "b", 0.4),
    ]  # fmt: skip
    wanted = {
        "first": "pair, own", "extra": ["l1, by gecco_2"], "allocations": ["global", "uniform"]
    }  # fmt: skip
    found = transfer.contender_table(lines, wanted)
    assert found[1].endswith("(2 cells)")  # c is not of both that are named
    rows = [row.strip("| ").split(" | ") for row in found[7:]]
    assert [row[1:4] for row in rows] == [
        ["**pair, own**", "1.5", "0.150"],
        ["**l1, by gecco_2**", "2.5", "0.250"],
        ["flap, global", "3.0", "0.300"],
        ["l1, uniform", "3.0", "0.300"],
    ]  # "l1, global" lacks a cell


def test_every_network_counts_once() -> None:
    ranks = [{"ours": 2.0 + 0.1 * i, "flap": 3.0, "l1": 1.0 if i else 9.0} for i in range(8)]
    rows = [
        row.strip("| ").split(" | ")
        for row in transfer.network_tests(ranks, ["ours"], ["flap", "l1"])[5:]
    ]
    # All 8 differences have one sign: 2 of 2^8 assignments are as far out, and Holm doubles
    # that. Beside l1 the largest has the other sign: 25 sets of ranks add up to 8 or less, so 50.
    assert rows == [["ours", "flap", "8 of 8", "0.0156"], ["ours", "l1", "1 of 8", "0.1953"]]
    assert transfer.network_tests(ranks[:1], ["ours"], ["flap"]) == []
