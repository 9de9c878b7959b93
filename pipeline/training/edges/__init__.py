"""Training of the edge detector."""
