"""Choose what is removed, from scores."""
