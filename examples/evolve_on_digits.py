"""Evolve pruning metrics on the bundled digits from Python, on a small scale (about 20 seconds).

The same search on its full scale is `gp-prune evolve`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from gp_prune import SearchConfig, evolve


def main() -> None:
    config = SearchConfig(
        validate_on=(),
        tasks=("lenet-digits", "autoencoder-digits"),
        population=12,
        generations=2,
        final_seeds=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = evolve(config, Path(folder) / "run")
        print(f"{result.assessed} formulas tried, {result.behaviours} behaviours")
        for contender in result.contenders:
            error = result.comparison.mean(contender.name, "test", kind="macs")
            mark = ">>>>" if contender is result.recommended else "    "
            print(f"{mark} test error at equal MACs {error:.3f}  {contender.expression}")
        metric = result.metrics[result.recommended.name]
        print("LaTeX of the recommended metric:", metric.latex())


if __name__ == "__main__":
    main()
