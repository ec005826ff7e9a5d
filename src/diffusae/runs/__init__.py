"""What a run leaves behind: run.json, a lock, metrics as JSONL, W&B as a mirror. The door to
wandb."""
