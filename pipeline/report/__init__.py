"""Pictures for people: panels of a run, figures."""
