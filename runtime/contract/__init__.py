"""The job as the platform describes it, read and checked: pure. Layer 1."""
