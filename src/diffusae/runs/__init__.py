"""What a run leaves behind: run.json, the directory's lock, metrics as JSONL, and W&B as a mirror. The only door to wandb."""
