"""The user's code and packages, brought to where the ranks find them. Layer 3."""
