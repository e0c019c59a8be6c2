"""Train autoencoders by evolution and prune them meanwhile (Jorgensen et al., GECCO 2025).

May import ``runs`` and the packages below it; open ``run.py`` first.
"""

from __future__ import annotations

from gp_prune.autoencoder.run import AutoencodeResult, autoencode
from gp_prune.autoencoder.schedule import SCHEDULES, Schedule, named_schedule
from gp_prune.autoencoder.settings import AutoencodeSettings

__all__ = [
    "SCHEDULES",
    "AutoencodeResult",
    "AutoencodeSettings",
    "Schedule",
    "autoencode",
    "named_schedule",
]
