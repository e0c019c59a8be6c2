"""``python -m gp_prune.cli``."""

from __future__ import annotations

from gp_prune.cli import main

main(prog_name="gp-prune")
