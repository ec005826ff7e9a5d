"""The stages: wiring only. Read train.py first; run.py chains them."""
