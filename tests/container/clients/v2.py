"""Runs inside SDK v2: jobs as JSON in argv; before each a line that names it, what the SDK gave us back in the last."""

import json
import sys
import time

from sagemaker.estimator import Estimator
from sagemaker.local import LocalSession

ROLE = "arn:aws:iam::123456789012:role/x"


def place(path):
    return path if "://" in path else f"file://{path}"


# Imports that one kind of job needs stand where it is made: benchmarks/local.py times a usual user's program.
def estimator(job, session):
    words = {
        "image_uri": job["image"],
        "role": ROLE,
        "instance_count": job["hosts"],
        "instance_type": "local",
        "sagemaker_session": session,
        "output_path": place(job.get("output") or f"{job['root']}/out"),
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
    if job["kind"] == "pytorch":
        from sagemaker.pytorch import PyTorch

        return PyTorch(**words)
    return Estimator(**words)


def train(job, session):
    made = estimator(job, session)
    made.fit({name: place(path) for name, path in job["channels"].items()})
    return {"model": made.model_data}


def process(job, session):
    from sagemaker.processing import ProcessingInput, ProcessingOutput, Processor, ScriptProcessor

    words = {
        "role": ROLE,
        "image_uri": job["image"],
        "instance_count": job["hosts"],
        "instance_type": "local",
        "sagemaker_session": session,
        "env": job["environment"],
    }
    inputs = [
        ProcessingInput(source=uri, destination=f"/opt/ml/processing/input/{name}", input_name=name)
        for name, uri in job["inputs"].items()
    ]
    outputs = [ProcessingOutput(source="/opt/ml/processing/output", destination=job["output"], output_name="out")]
    if job["kind"] == "script":
        made = ScriptProcessor(command=["python3"], **words)
        made.run(code=job["code"], inputs=inputs, outputs=outputs, arguments=job["arguments"])
    else:
        made = Processor(entrypoint=job.get("entrypoint"), **words)
        made.run(inputs=inputs, outputs=outputs, arguments=job.get("arguments"))
    return {}


def run(name, job):
    print(f"=== {name}", flush=True)
    session = LocalSession(default_bucket=job.get("bucket"))
    local = {"local_code": not job.get("bucket"), "container_root": job["root"], **job.get("local", {})}
    session.config = {"local": local}
    end = {"raised": "", "called": time.monotonic_ns()}
    try:
        end |= (process if job["kind"] in ("script", "processor") else train)(job, session)
    except Exception as error:  # whatever the SDK says is what its user sees
        end["raised"] = f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    return end


ends = {name: run(name, job) for name, job in json.loads(sys.argv[1]).items()}
print()
print(json.dumps(ends))
