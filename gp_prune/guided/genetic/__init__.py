"""The genetic pruner: one network, three objectives (Yang et al. 2019, arXiv 1906.00399).

A plan (which channels of which convolution go, which weights of which linear layer) is the genome.
Two steps take turns: a genetic algorithm looks for plans that the network as it is survives, and
the best are retrained, from which the next population starts.
"""
