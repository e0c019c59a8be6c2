"""Search for metrics by genetic programming with DEAP.

May import ``runs`` and the packages below it; open ``run.py`` first.
"""
