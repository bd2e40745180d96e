"""Stable Diffusion as diffusers stores it: loading, configuration, fp16, sampling, determinism."""
