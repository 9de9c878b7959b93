"""The output of a run: results, errors, masks, and the lease that says who may write."""
