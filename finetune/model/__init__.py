"""Stable Diffusion as diffusers stores it: loading, configuration, sampling, determinism."""
