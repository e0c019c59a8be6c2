"""Floor 9: the search for metrics, with DEAP."""
