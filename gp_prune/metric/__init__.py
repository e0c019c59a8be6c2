"""Define the metric that users hold: a formula with its conventions, source and provenance.

May import ``language`` and ``formula``; open ``metric.py`` first.
``file.py`` holds the conventions of a ranking; the ranking itself is in ``pruning/select``.
"""
