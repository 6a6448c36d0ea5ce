"""Read a Pipe channel for two epochs."""

# pyright: basic
import hashlib
import json
import os
import time

FIFO = "/opt/ml/input/data/training_%d"
PATIENCE_S = 120.0
sums = []
for epoch in range(2):
    path = FIFO % epoch
    end = time.monotonic() + PATIENCE_S
    while not os.path.exists(path):  # the next one appears after the one before was closed
        if time.monotonic() > end:
            raise TimeoutError(path + " did not appear")
        time.sleep(0.05)
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        block = stream.read(65536)
        while block:
            digest.update(block)
            block = stream.read(65536)
    sums.append(digest.hexdigest())
with open("/opt/ml/model/seen.json", "w", encoding="utf-8") as stream:
    json.dump({"sums": sums}, stream)
