"""Judge formulas outside a search: one by its objectives, several against each other.

May import ``search`` and the packages below it; open ``judge.py`` or ``compare.py`` first.
"""
