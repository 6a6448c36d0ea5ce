"""Faults on demand: what they are called, when they come, and how they are done to containers and processes."""
