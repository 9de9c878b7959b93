"""Fully connected CRF: the refinement of probabilities, and the backends that compute it."""
