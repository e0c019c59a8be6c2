"""Hold a formula with its ranking, source and provenance: the object that users exchange.

May import ``language`` and ``formula``; open ``metric.py`` first.
"""
