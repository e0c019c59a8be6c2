"""Train the probe networks and write the file that comes with the package.

    python benchmarks/probe_networks.py

It writes gp_prune/tasks/probe_networks.safetensors. The networks are trained as the built-in tasks
on digits are, from another seed, so that they are none of the networks of a search.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from gp_prune.base.artifacts import write_tensors
from gp_prune.tasks import load_task, probe_networks

SEED = 101
SAMPLES = 128
FOLDER = Path(__file__).resolve().parent.parent / "gp_prune" / "tasks"


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the file is written")
    folder = parser.parse_args().folder
    tensors = {}
    for name in probe_networks.PROBE_MODELS:
        task = load_task(f"{name}-digits", seed=SEED)
        print(f"{task.name}: validation error {task.dense_error:.4f}")
        for key, tensor in task.model.state_dict().items():
            tensors[f"{name}/{key}"] = tensor.clone()
        part = task.train.select(slice(SAMPLES))
    assert part.labels is not None
    images = part.inputs * probe_networks.LEVELS
    tensors[probe_networks.IMAGES] = images.round().to(torch.uint8)
    tensors[probe_networks.LABELS] = part.labels.to(torch.uint8)
    write_tensors(folder, probe_networks.FILE, tensors)
    probe_networks.read_probe_file(folder / probe_networks.FILE)


if __name__ == "__main__":
    main()
