"""Prune any model by a metric, tune it, measure it, save it and export it.

May import ``tasks`` and the packages below it; open ``pipeline.py`` first.
"""
