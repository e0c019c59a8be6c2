"""Provide what every long run needs: settings, run folder, journal, workers and limits.

May import ``apply`` and the packages below it; open ``journal.py`` first.
"""
