"""What would be launched, and why: pure. Layer 2."""
