"""Every performance claim as a program: ``python -m benchmarks NAME [--quick] [--json]``."""
