"""How users launch each workload, and the demo."""
