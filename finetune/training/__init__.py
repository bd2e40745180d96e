"""Everything between a batch and a checkpoint."""
