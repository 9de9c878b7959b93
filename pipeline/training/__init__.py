"""Two-stage training (paper section 4): examples, their index, windows to arrays, and the training loop."""
