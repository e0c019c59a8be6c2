"""Write a run as one web page that needs no network; open ``write.py`` first.

What a page says of a run is made of the parts in ``parts.py``, by a module for each kind of run.
"""
