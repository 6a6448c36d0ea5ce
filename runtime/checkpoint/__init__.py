"""Checkpoints that exist only when complete, and the newest complete one, agreed by all ranks."""
