"""Read a small file of a FastFile channel, and the head of a large one."""

# pyright: basic
import json

CHANNEL = "/opt/ml/input/data/training/"
with open(CHANNEL + "a/small.txt", "rb") as stream:
    small = stream.read().decode()
with open(CHANNEL + "large.bin", "rb", buffering=0) as stream:
    head = len(stream.read(1000))
with open("/opt/ml/model/seen.json", "w", encoding="utf-8") as stream:
    json.dump({"small": small, "head": head}, stream)
