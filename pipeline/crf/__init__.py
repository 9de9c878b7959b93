"""Fully connected CRF: which labels it needs, and the refinement itself."""
