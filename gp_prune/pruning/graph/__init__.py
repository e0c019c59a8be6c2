"""Trace which channels of a network can only be cut together."""
