"""The network and its weights; no Ray here."""
