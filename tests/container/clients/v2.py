"""Runs inside SDK v2: a job as JSON in argv, what the SDK gave us back as JSON in the last line."""

import json
import sys

from sagemaker.estimator import Estimator
from sagemaker.local import LocalSession
from sagemaker.pytorch import PyTorch

job = json.loads(sys.argv[1])
session = LocalSession()
session.config = {"local": {"local_code": True, "container_root": job["root"]}}
words = {
    "image_uri": job["image"],
    "role": "arn:aws:iam::123456789012:role/x",
    "instance_count": job["hosts"],
    "instance_type": "local",
    "sagemaker_session": session,
    "output_path": f"file://{job['root']}/out",
    "hyperparameters": job["hyperparameters"],
    "environment": job["environment"],
}
if job["kind"] == "pytorch":
    words |= {
        "py_version": "py311",
        "framework_version": "2.11",
        "distribution": {"torch_distributed": {"enabled": True}},
    }
if job.get("source"):
    words |= {"entry_point": "train.py", "source_dir": job["source"]}
estimator = (PyTorch if job["kind"] == "pytorch" else Estimator)(**words)
raised = ""
try:
    estimator.fit({name: f"file://{path}" for name, path in job["channels"].items()})
except RuntimeError as error:
    raised = str(error)
sys.stdout.flush()
print()
print(json.dumps({"raised": raised, "model": "" if raised else estimator.model_data}))
