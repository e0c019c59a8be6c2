"""Say what a formula is: axes, primitives, typed trees, and their value on a layer.

May import ``base``, ``errors`` and ``_compat``; open ``expression.py`` and ``interpreter.py``.
"""
