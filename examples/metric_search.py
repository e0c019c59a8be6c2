"""Search for a metric in the manner of scikit-learn, and prune a network with it (seconds).

The search is far too short to find much; raise `population` and `generations` for more.
"""

from __future__ import annotations

import tempfile

from gp_prune import MetricSearch, load_task


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        search = MetricSearch(
            tasks=["lenet-digits"],
            population=6,
            generations=2,
            validate_on=[],
            settings={"final_seeds": 1, "final_steps": 10, "fine_tune_steps": 5},
            folder=f"{folder}/run",
            random_state=0,
            callbacks=[lambda generation: print(f"hypervolume {generation.hypervolume:.3f}")],
        )
        search.fit()
        print(search.front_[["name", "size", "formula"]].to_string())
        again = MetricSearch.load(f"{folder}/run")
        assert again.best_ == search.best_
    task = load_task("lenet-digits")
    data = [(task.train.inputs[:256], task.train.target[:256])]  # the best formula may need some
    pruned = search.best_.prune(
        task.model, task.example_inputs, keep_macs=0.5, data=data, loss=task.loss
    )
    print(search.best_)
    print(pruned)


if __name__ == "__main__":
    main()
