"""Say what a formula is: axes, primitives, typed trees, and their value on a layer.

May import ``errors``, ``_io`` and ``_compat`` alone; open ``expression.py`` and ``interpreter.py``.
"""
