"""What a run leaves behind: results, errors, masks, and the lease that says who may write."""
