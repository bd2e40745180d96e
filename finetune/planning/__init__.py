"""Estimate the disk space, CPU and GPU time and GPU memory of a run: `python -m finetune.planning`."""
