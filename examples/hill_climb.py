"""Search for a metric with an optimiser of your own, here a hill climber (seconds).

It writes products of factors as texts, which `gp_prune.Judge` parses and judges as a search does.
"""

from __future__ import annotations

import random

from gp_prune import DegenerateFormula, Judge

FACTORS = [
    "sum[i,k](abs(W))", "sum[i,k](W^2)", "max[i,k](abs(W))", "sum[j](V^2)", "sum[j](abs(V))",
    "mean[n,s](abs(A))", "var[n,s](A)", "var[c](muP)", "abs(gamma)",
]  # fmt: skip
STEPS = 80


def neighbour(factors: list[str], rng: random.Random) -> list[str]:
    """Add a factor, or replace or drop one."""
    changed = list(factors)
    if rng.random() < 0.4 or not changed:
        return [*changed, rng.choice(FACTORS)]
    changed[rng.randrange(len(changed))] = rng.choice(FACTORS)
    return changed[:-1] if rng.random() < 0.3 and len(changed) > 1 else changed


def main() -> None:
    judge = Judge(["lenet-digits"], keep=[0.5, 0.3])
    rng = random.Random(0)
    best, least = ["sum[i,k](abs(W))"], judge("sum[i,k](abs(W))").error
    print(f"{least:.3f}  {' * '.join(best)}")
    for _ in range(STEPS):
        tried = neighbour(best, rng)
        try:
            error = judge(" * ".join(tried)).error
        except DegenerateFormula:  # it ranks nothing here, as abs(gamma) without batch norm
            continue
        if error < least:
            best, least = tried, error
            print(f"{least:.3f}  {' * '.join(best)}")


if __name__ == "__main__":
    main()
