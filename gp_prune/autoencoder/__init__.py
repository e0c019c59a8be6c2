"""Train autoencoders by evolution and prune them during training (Jorgensen et al., GECCO 2025).

May import ``runs`` and the packages below it; open ``run.py`` first.
"""
