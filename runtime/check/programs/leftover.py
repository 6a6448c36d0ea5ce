"""End well, and leave a child that holds the output open: a loader's worker, a dashboard."""

# pyright: basic
import os
import time

if os.fork() == 0:
    os.setsid()
    time.sleep(900)
    os._exit(0)
with open("/opt/ml/model/seen.json", "w", encoding="utf-8") as stream:
    stream.write("{}")
