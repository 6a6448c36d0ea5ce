"""Draw a progress bar as libraries do: carriage returns, no ends of lines."""

# pyright: basic
import sys

WIDTH = 80
UPDATES = 4000
for number in range(UPDATES + 1):
    done = number * WIDTH // UPDATES
    sys.stderr.write("\rtraining %s%s %d/%d" % ("#" * done, "." * (WIDTH - done), number, UPDATES))
    sys.stderr.flush()
sys.stderr.write("\nbar over\n")
with open("/opt/ml/model/seen.json", "w", encoding="utf-8") as stream:
    stream.write("{}")
