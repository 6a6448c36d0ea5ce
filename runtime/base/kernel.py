"""Small files of the kernel: what is not there, or not for us, is empty."""

from __future__ import annotations

import os


def names(directory: str) -> list[str]:
    """List a directory, sorted; empty when it is not there."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def text(path: str) -> str:
    """Read a file; empty when it is not there or cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
