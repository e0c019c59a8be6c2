"""Prune whole heads of attention layers."""
