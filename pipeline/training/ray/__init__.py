"""A training stage on Ray Train."""
