"""Evolutionary autoencoder training with guided pruning (Jorgensen et al., GECCO 2025).

One autoencoder, or a ring or torus of cells that exchange encoders and decoders, is trained, and
in the epochs that a schedule picks a mutation operator prunes it.
"""

from __future__ import annotations

from gp_prune.guided.autoencode.results import AutoencodeResult
from gp_prune.guided.autoencode.run import autoencode
from gp_prune.guided.autoencode.schedules import SCHEDULES, Schedule, named_schedule
from gp_prune.guided.autoencode.settings import AutoencodeSettings

__all__ = [
    "SCHEDULES",
    "AutoencodeResult",
    "AutoencodeSettings",
    "Schedule",
    "autoencode",
    "named_schedule",
]
