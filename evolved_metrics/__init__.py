"""Saved metrics: ``reference/`` from the literature, ``evolved/`` found by this project."""
