"""Run the command line: ``python -m gp_prune``."""

from __future__ import annotations

from gp_prune.cli import main

main(prog_name="gp-prune")
