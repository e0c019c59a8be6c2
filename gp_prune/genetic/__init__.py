"""Prune one network by a genetic algorithm (Yang et al. 2019, arXiv 1906.00399).

May import ``runs`` and the packages below it; open ``run.py`` first.
"""
