"""Declare the vocabulary of formulas: operands and operators, one file per family.

``operands``, ``elementwise``, ``reductions``, ``normalisers``, and ``filters`` (filters as points).
"""
