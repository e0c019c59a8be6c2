"""Search for metrics by genetic programming with DEAP.

May import ``runs`` and the packages below it; open ``run.py`` first.
``nsga2.py`` draws formulas, ``assessor.py`` scores, submits and promotes them, ``evaluation.py``
prunes and measures.
"""
