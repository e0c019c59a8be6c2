"""Evolve on a Dask cluster, here two workers on this machine (about 20 seconds).

Needs `pip install 'gp-prune[dask]'`. Whoever reaches a port of a scheduler or worker can run any
code there, so they listen on 127.0.0.1 alone; docs/evolve.md has clusters of several machines.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from distributed import LocalCluster

from gp_prune import SearchConfig, evolve


def main() -> None:
    # Quick: it begins with two published metrics alone, and compares with none at the end.
    config = SearchConfig(
        tasks=("lenet-digits",), population=6, generations=2, validate_on=(), calibration=128,
        comparison=False, no_start_formulas=True, start_formulas=("l1", "taylor_bn"),
    )  # fmt: skip
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        tempfile.TemporaryDirectory() as folder,
    ):
        print("scheduler at", cluster.scheduler_address)
        result = evolve(config, Path(folder) / "run", cluster=cluster.scheduler_address)
        alone = evolve(config, Path(folder) / "alone")
    for contender in result.contenders:
        mark = ">>>>" if contender is result.recommended else "    "
        print(mark, contender.expression)
    same = [c.expression for c in result.contenders] == [c.expression for c in alone.contenders]
    print("the same front as with one process:", same)


if __name__ == "__main__":
    main()
