"""Floor 9: what every evolutionary run shares: workers, journal, run folder, settings.

The searches (:mod:`gp_prune.search`, :mod:`gp_prune.guided`) stand on it; it knows none of them.
"""
