"""Training: windows, the loop of a stage, and the same on Ray Train."""
