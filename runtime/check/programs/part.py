"""Two hosts, of which the last one fails once both are at work; the first would work on for ever."""

# pyright: basic
import json
import os
import sys
import time

ML = "/opt/ml"
PATIENCE_S = 900.0
with open(ML + "/input/config/resourceconfig.json", encoding="utf-8") as stream:
    told = json.load(stream)
with open(ML + "/model/began.json", "w", encoding="utf-8") as stream:
    stream.write("{}")
end = time.monotonic() + PATIENCE_S
last = told["current_host"] == sorted(told["hosts"])[-1]
while time.monotonic() < end:
    if last and os.path.exists(ML + "/output/part"):
        sys.exit("this host ran out of luck")
    time.sleep(0.05)
sys.exit("nobody ended this job")
