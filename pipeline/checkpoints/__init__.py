"""The checkpoints that come with the project."""
