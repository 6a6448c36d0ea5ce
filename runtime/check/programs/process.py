"""A processing job: write down the arguments, leave a message, end with a code of its own when asked."""

# pyright: basic
import json
import os
import sys

ML = "/opt/ml"
os.makedirs(ML + "/output", exist_ok=True)
with open(ML + "/output/message", "w", encoding="utf-8") as stream:
    stream.write("größer als 1000: 12 rows")
os.makedirs(ML + "/model", exist_ok=True)
with open(ML + "/config/processingjobconfig.json", encoding="utf-8") as stream:
    name = json.load(stream)["ProcessingJobName"]
with open(ML + "/model/seen.json", "w", encoding="utf-8") as stream:
    json.dump({"argv": sys.argv[1:], "uid": os.getuid(), "job": name}, stream)
sys.exit(int(os.environ.get("CHECK_EXIT", "0")))
