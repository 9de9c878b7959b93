"""Training windows: the rules that make them, their index, and their way to the trainer."""
