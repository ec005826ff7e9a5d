"""The erasure benchmark: defences, attacks on them, and the harm that they do."""
