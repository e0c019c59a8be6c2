"""Print metrics as LaTeX, and a metric of your own that is saved and loaded as a file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gp_prune import Metric


def main() -> None:
    for name in ("l1", "fpgm", "taylor_bn", "lamp"):
        metric = Metric.load(name)
        print(f"{name:10s} {metric.expression}\n{'':10s} {metric.latex()}")

    own = Metric.parse("mul(l2[i,k](W), std[n,s](A))", name="norm_times_spread")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "norm_times_spread.json"
        own.save(path)
        loaded = Metric.load(path)
    print(f"{loaded.name}: needs {', '.join(sorted(loaded.needs))}")
    print("as sympy: ", loaded.sympy())
    print("as LaTeX: ", loaded.latex())


if __name__ == "__main__":
    main()
