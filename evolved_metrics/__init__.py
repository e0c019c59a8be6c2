"""Saved metrics as JSON.

``reference/`` is from the literature, ``handwritten/`` written by hand by this project, and
``evolved/`` found by its searches.
"""
