"""What the pipeline keeps between stages: transforms, tar shards, cached latents, the dataset card."""
