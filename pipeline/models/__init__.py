"""Networks: their layers, initial weights and checkpoints. No Ray here."""
