"""Compare metrics on networks, at equal MACs and at equal parameters (seconds).

The same as `gp-prune compare taylor_bn fpgm energy='...' --on lenet-digits --on resnet-digits`.
"""

from __future__ import annotations

import tempfile

from gp_prune import compare

METRICS = ("taylor_bn", "fpgm", "energy=var[n,s](A) * sum[j](V^2)")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = compare(
            METRICS, ["lenet-digits", "resnet-digits"], f"{folder}/compared", keep=(0.5, 0.3)
        )
    # Random scores and L1 always take part. An error is 0 for the dense network, 1 for a guess.
    for allocation in result.allocations:
        print(f"budget divided among the layers by the rule {allocation!r}")
        for standing in result.standings(allocation):
            print(f"  {standing.name:10s} rank {standing.rank:.2f}  error {standing.error:.3f}")
    best = result.recommended
    print(f"{best.name} has the least mean rank, {best.rank:.2f}")
    if best.p is not None:
        direction = "better" if best.better else "worse"
        print(f"{direction} than {result.settings.baseline}, p = {best.p:.3f} (few cells)")


if __name__ == "__main__":
    main()
