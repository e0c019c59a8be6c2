"""Describe exactly what is removed, as plain data."""
