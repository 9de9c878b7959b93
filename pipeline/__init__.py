"""Semantic segmentation with DeconvNet, proposal by proposal, on Ray."""
