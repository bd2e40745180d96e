"""Batches, loss, optimizer, training loop, validation and checkpoints."""
