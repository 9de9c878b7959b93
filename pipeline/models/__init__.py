"""What a network is: its layers, its first weights, and its checkpoints. No Ray here."""
