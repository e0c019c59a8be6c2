"""The second use of a metric: prune any model with it.

``models`` finds the network, ``data`` the calibration samples, ``prune`` makes the smaller network
and ``saving`` keeps it. The public names stand in :mod:`gp_prune` itself.
"""
