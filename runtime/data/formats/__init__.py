"""Formats of datasets: bytes to samples and back, one module per format.

Nothing here imports torch, and the framings (`window`, `recordio`, `tfrecord`, `tar`) need no NumPy: the local
platform uses them too. Malformed input gives a `FormatError` with file and offset, never a crash, a hang or a sample
less; no length that a file claims is allocated before its bytes have come.
"""
