"""The records of the genetic pruner on MNIST: settings, lines of the results, and their table."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csv_lines import as_csv

from gp_prune import GeneticSettings
from gp_prune.base.files import write_text
from gp_prune.genetic.front import FrontEntry, GeneticResult

SETTINGS = Path(__file__).with_suffix(".toml")

LITERATURE = (
    ("LeNet-5 (Caffe)", "LWC, Han et al. 2015", "0.77", "12x", "", "memory"),
    ("LeNet-5 (Caffe)", "DNS, Guo et al. 2016", "0.91", "108x", "", "memory"),
    ("LeNet-5 (Caffe)", "SWS, Ullrich et al. 2017", "0.97", "200x", "", "memory"),
    ("LeNet-5 (Caffe)", "Sparse VD, Molchanov et al. 2017", "0.75", "280x", "", "memory"),
    ("LeNet-5 (Caffe)", "ADMM, Zhang et al. 2018", "", "246x", "", "memory"),
    ("LeNet-5 (Caffe)", "GSM, Ding et al. 2019", "", "300x", "", "memory"),
    ("LeNet-5 (Caffe)", "BC-GHS, Louizos et al. 2017: 5-10-76-16", "1.0", "156x",
     "all MACs 15x, of the convolutions 12.4x", "memory"),
    ("LeNet-5 (Caffe)", "SBP, Neklyudov et al. 2017: 3-18-284-283", "0.86", "",
     "of the convolutions 14.6x", "memory"),
    ("LeNet-5 (Caffe)", "SSL, Wen et al. 2016, by filter shapes", "1.0", "",
     "of the convolutions about 39x", "memory"),
    ("LeNet-5 (Caffe)", "Yang et al. 2019 (arXiv 1906.00399)", "", "21.8x",
     "in another run 16x of the convolutions", "abstract"),
    ("LeNet-300-100", "DNS, Guo et al. 2016", "1.99", "56x", "", "memory"),
    ("LeNet-300-100", "Sparse VD, Molchanov et al. 2017", "1.92", "68x", "", "memory"),
    ("LeNet-300-100", "GSM, Ding et al. 2019", "", "60x", "", "memory"),
    ("LeNet-300-100", "RigL+, Evci et al. 2020: 375-62-51", "1.57", "", "6.2 KFLOPs", "memory"),
)  # fmt: skip
"""Network, procedure, test error in percent, parameters, computation, and where it was read."""

WORDS = {
    "params": "at least {:g} times fewer parameters that are not zero",
    "all_macs": "at least {:g} times fewer MACs, zeros counted as MACs",
    "conv_macs": "at least {:g} times fewer MACs of the convolutions",
    "flops": "at most {:,.0f} FLOPs, two for each weight that is not zero",
    "error": "a test error of at most {:.2f} %",
    "difference": "at most {:.2f} points more test error than the dense network",
}


def load_protocol() -> dict[str, Any]:
    """Return the settings: ``seeds``, ``common``, and a table for each kind of record."""
    content: dict[str, Any] = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    return content


def kinds(protocol: Mapping[str, Any]) -> list[str]:
    """List the kinds of record."""
    return [name for name in protocol if name not in ("seeds", "common")]


def seeds_of(protocol: Mapping[str, Any], kind: str) -> list[int]:
    """Return the seeds of a kind, of networks and of runs: its own ones or those of all."""
    seeds: list[int] = protocol[kind].get("seeds", protocol["seeds"])
    return seeds


def settings_of(
    protocol: Mapping[str, Any], kind: str, seed: int, *, read_test: bool
) -> GeneticSettings:
    """Return the settings of one run.

    Args:
        protocol: what :func:`load_protocol` returned.
        kind: of record.
        seed: of the run and of the dense network.
        read_test: whether the test split is read at the end.
    """
    fields = {**protocol["common"], **protocol[kind]["settings"]}
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return GeneticSettings(
        **{**fields, **lists}, seed=seed, model_seed=seed, read_test=read_test
    )  # fmt: skip


def settings_digest(protocol: Mapping[str, Any], kind: str) -> str:
    """Return a digest of all that decides the runs of a kind."""
    text = repr([protocol["common"], protocol[kind]])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Record:
    """One run; errors in percent of the samples.

    Attributes:
        kind: of record.
        seed: of the run and of the dense network.
        point: name of the network in the run.
        dense_validation, dense_test: errors of the dense network.
        validation, test: errors of the pruned one.
        params: parameters of the dense network by those of the pruned one that are not zero.
        conv_macs: MACs of the convolutions, dense by pruned; a weight that is zero costs none.
        all_macs: MACs, dense by pruned, of the smaller network, whose zeros are multiplied.
        sparse_macs: likewise, but a weight that is zero costs none.
        flops: two for each MAC of the pruned network that is not with a zero.
        conv_time: time of the convolutions, dense by pruned; 0 where it was not measured.
        bytes_dense, bytes_csr: as stored, with all zeros or in sparse rows.
        widths: channels that are left.
        evaluations: plans that were tried.
        settings: digest of the settings.
        commit: in which they were committed.
    """

    kind: str
    seed: int
    point: str
    dense_validation: float
    dense_test: float
    validation: float
    test: float
    params: float
    conv_macs: float
    all_macs: float
    sparse_macs: float
    flops: int
    conv_time: float
    bytes_dense: int
    bytes_csr: int
    widths: str
    evaluations: int
    settings: str
    commit: str

    @classmethod
    def of(
        cls,
        kind: str,
        seed: int,
        result: GeneticResult,
        needed: Mapping[str, float],
        settings: str,
        commit: str,
    ) -> Record:
        """Return what a run came to.

        Of the points that are as small as is asked for, the one with the least validation error;
        where none is, the recommended one, or the first.
        """
        able = [p for p in result.points if _is_small(_sizes(p, result.dense), needed)]
        chosen = min(able, key=lambda p: p.validation, default=None)
        point = chosen or result.recommended or result.points[0]
        dense = result.dense
        return cls(
            kind=kind,
            seed=seed,
            point=point.name,
            dense_validation=round(100 * dense.validation, 3),
            dense_test=round(100 * dense.report, 3),
            validation=round(100 * point.validation, 3),
            test=round(100 * point.report, 3),
            **_sizes(point, dense),
            conv_time=1 / point.conv_time.share if point.conv_time else 0.0,
            bytes_dense=point.size.dense,
            bytes_csr=point.size.csr,
            widths="-".join(map(str, point.channels.values())),
            evaluations=result.evaluations,
            settings=settings,
            commit=commit,
        )

    def holds(self, needed: Mapping[str, float]) -> bool:
        """Return whether the run reaches what is asked for."""
        sizes = {name: getattr(self, name) for name in ("params", "all_macs", "conv_macs", "flops")}
        return (
            _is_small(sizes, needed)
            and self.test <= needed.get("error", 100.0) + 1e-9
            and self.test - self.dense_test <= needed.get("difference", 100.0) + 1e-9
        )


def _sizes(point: FrontEntry, dense: FrontEntry) -> dict[str, Any]:
    return {
        "params": dense.cost.nonzero / point.cost.nonzero,
        "conv_macs": dense.conv_macs / point.conv_macs if point.conv_macs else 0.0,
        "all_macs": dense.cost.macs / point.cost.macs,
        "sparse_macs": dense.macs / point.macs,
        "flops": 2 * point.macs,
    }


def _is_small(sizes: Mapping[str, Any], needed: Mapping[str, float]) -> bool:
    """Return whether a network is as small as is asked for."""
    least = all(sizes[n] >= needed[n] for n in ("params", "all_macs", "conv_macs") if n in needed)
    return bool(least and sizes["flops"] <= needed.get("flops", float("inf")))


def write_records(path: Path, lines: Sequence[Record], protocol: Mapping[str, Any]) -> None:
    """Write one line for every run, the newest, and the table."""
    newest = {(line.kind, line.seed): line for line in lines}
    kept = [newest[key] for key in sorted(newest)]
    write_text(path, as_csv(kept))
    write_text(path.with_suffix(".md"), records_page(kept, protocol))


def records_page(lines: Sequence[Record], protocol: Mapping[str, Any]) -> str:
    """Return the records by kind, and the figures of the literature."""
    parts = [_HEAD]
    for kind in kinds(protocol):
        needed, model = protocol[kind]["needed"], protocol[kind]["settings"]["model"]
        asked = "; ".join(WORDS[name].format(value) for name, value in needed.items())
        parts += [f"## {kind} ({model})", "", f"Asked for: {asked}.", ""]
        digest = settings_digest(protocol, kind)
        own = [line for line in lines if line.kind == kind and line.settings == digest]
        earlier = [line for line in lines if line.kind == kind and line.settings != digest]
        if own:
            parts += _table(own, needed)
        missing = sorted(set(seeds_of(protocol, kind)) - {line.seed for line in own})
        if missing:
            parts += [f"Not run yet: seed {', '.join(map(str, missing))}.", ""]
        if earlier:
            parts += ["By earlier settings:", "", *_table(earlier, needed)]
    parts += ["## Figures of the literature", "", _NOTE, "", *_LITERATURE_TABLE]
    parts += [f"| {' | '.join(row)} |" for row in LITERATURE]
    return "\n".join([*parts, ""])


def _table(lines: Sequence[Record], needed: Mapping[str, float]) -> list[str]:
    commits = ", ".join(sorted({line.commit for line in lines}))
    return [*_TABLE, *(_row(line, needed) for line in lines), "", f"Commit {commits}.", ""]


def _row(line: Record, needed: Mapping[str, float]) -> str:
    time = f"{line.conv_time:.1f}x" if line.conv_time else "-"
    convolutions = f"{line.conv_macs:.1f}x" if line.conv_macs else "-"
    cells = [
        str(line.seed), f"{line.dense_test:.2f} %", f"{line.test:.2f} %",
        f"{line.validation:.2f} %", f"{line.params:.1f}x", convolutions,
        f"{line.all_macs:.1f}x ({line.sparse_macs:.1f}x)", f"{line.flops:,}", time,
        f"{line.bytes_dense:,} ({line.bytes_csr:,})", line.widths,
        "yes" if line.holds(needed) else "no",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


_TABLE = (
    "| seed | dense | error | validation | parameters | conv MACs | all MACs (without zeros) | "
    "FLOPs | conv time | bytes (CSR) | widths | holds |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)
_LITERATURE_TABLE = (
    "| network | procedure | error | parameters | computation | read from |",
    "|---|---|---|---|---|---|",
)
_HEAD = """# Records of the genetic pruner on MNIST

The settings ([genetic_records.toml](../genetic_records.toml)) were chosen on validation errors
of the network of seed 0; some, as the training of the dense network before the rounds, in
parts of runs and not for every kind. The goals of MACs were not tried there: they are what is
asked for, and were set when runs had gone beyond it. Then each run below was made once
with a fresh seed, of the network and of the run, and the 10,000 test samples were read once, at
its end. Settings that were changed after that have other seeds; what was measured by the
earlier ones stays below. Of the points of a run that are as small as is asked for, the one with
the least validation error counts. Ratios are dense by pruned: parameters that are not zero,
biases included; MACs of the convolutions, without those with a zero; all MACs of the smaller
network, and in brackets without those with a zero; time of the convolutions on one thread,
batch of 256, in the faster of torch's two ways. Bytes are as 32-bit floats, in brackets with
matrices in compressed sparse rows.

    python benchmarks/genetic_lenet.py records --data-root FOLDER --runs FOLDER
"""
_NOTE = """Errors in percent of the test samples. They count parameters that are not zero; an empty
cell was not found. "memory": the figure was not read again in the paper. The networks of the papers
have other dense errors, and Caffe's own LeNet has no ReLU after its convolutions."""
