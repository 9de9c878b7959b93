"""Synthetic scenes in VOC's layout: data for training and demos on a machine without a data set."""
