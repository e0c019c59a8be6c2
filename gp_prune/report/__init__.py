"""Show results to users: tables on a screen, plots, Markdown and LaTeX documents.

May import every package but ``cli``; open ``console.py`` first.
"""
