"""Synthetic scenes in VOC's layout: data to train and show the project with on a machine that has none."""
