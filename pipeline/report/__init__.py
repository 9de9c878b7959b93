"""Pictures for people: panels of a run, figures, activations of the network."""
