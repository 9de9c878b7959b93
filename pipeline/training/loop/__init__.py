"""The training loop of a stage: steps, metrics, optimizer, checkpoints. No Ray here."""
