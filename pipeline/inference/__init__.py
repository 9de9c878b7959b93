"""From an image and its proposals to class probabilities: torch on any device, no Ray here."""
