"""Other people's weights as this project's checkpoints."""
