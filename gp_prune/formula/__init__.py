"""Treat a tree as mathematics: sympy and back, simplification, LaTeX, MathML.

May import ``language``; open ``latex.py`` first.
"""
