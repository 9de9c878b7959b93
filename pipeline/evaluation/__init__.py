"""Scores: metrics, results against ground truth, boundaries, edge detectors, and the VOC server's layout."""
