"""Files of a run: run.json, lock, metrics as JSONL, checkpoints; W&B as a mirror (uses wandb)."""
