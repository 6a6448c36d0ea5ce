"""Runs inside SDK v3: a job as JSON in argv, what the SDK gave us back as JSON in the last line."""

import json
import sys

from sagemaker.core.training.configs import Compute, InputData, SourceCode
from sagemaker.train.distributed import Torchrun
from sagemaker.train.model_trainer import Mode, ModelTrainer

job = json.loads(sys.argv[1])
words = {}
if job.get("source"):
    program = {"command": job["command"]} if job.get("command") else {"entry_script": "train.py"}
    words["source_code"] = SourceCode(source_dir=job["source"], **program)
if job.get("torchrun"):
    words["distributed"] = Torchrun(process_count_per_node=job["torchrun"])
trainer = ModelTrainer(
    training_image=job["image"],
    training_mode=Mode.LOCAL_CONTAINER,
    base_job_name="v3",
    compute=Compute(instance_type="local_cpu", instance_count=job["hosts"]),
    hyperparameters=job["hyperparameters"],
    environment=job["environment"],
    local_container_root=job["root"],
    **words,
)
raised = ""
try:
    trainer.train([InputData(channel_name=name, data_source=path) for name, path in job["channels"].items()])
except RuntimeError as error:
    raised = str(error)
sys.stdout.flush()
print()
print(json.dumps({"raised": raised, "model": f"file://{job['root']}/compressed_artifacts/model.tar.gz"}))
