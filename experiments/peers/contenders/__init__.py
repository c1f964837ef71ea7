"""Who takes part, one way to train a file; found by being there."""
