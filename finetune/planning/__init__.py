"""What a run will cost: `python -m finetune.planning`."""
