"""End with an exit code of its own, the reason on the last line."""

# pyright: basic
import sys

sys.stderr.write("the disk of truth is full\n")
sys.exit(7)
