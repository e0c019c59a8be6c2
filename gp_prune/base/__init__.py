"""Files, names and sizes, on which every package stands and which need neither torch nor sympy.

May import ``errors`` and ``_compat`` alone. Open ``files.py`` first, then ``json_fields.py``.
"""
