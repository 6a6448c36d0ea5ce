"""Runs inside SDK v3: jobs as JSON in argv; before each a line that names it, what the SDK gave us back in the last."""

import json
import sys
import time

from sagemaker.core.training.configs import Compute, InputData, SourceCode
from sagemaker.train.model_trainer import Mode, ModelTrainer


# Imports that one kind of job needs stand where it is made: benchmarks/local.py times a usual user's program.
def train(job):
    words = {}
    if job.get("source"):
        program = {"command": job["command"]} if job.get("command") else {"entry_script": "train.py"}
        if job.get("requirements"):
            program["requirements"] = job["requirements"]
        words["source_code"] = SourceCode(source_dir=job["source"], **program)
    if job.get("torchrun"):
        from sagemaker.train.distributed import Torchrun

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
    trainer.train([InputData(channel_name=name, data_source=path) for name, path in job["channels"].items()])
    return {"model": f"file://{job['root']}/compressed_artifacts/model.tar.gz"}


def process(job):
    from sagemaker.core.local.local_session import LocalSession
    from sagemaker.core.processing import Processor, ScriptProcessor
    from sagemaker.core.shapes import ProcessingInput, ProcessingOutput, ProcessingS3Input, ProcessingS3Output

    session = LocalSession(default_bucket=job["bucket"], disable_local_code=True)
    session.config = {"local": {"container_root": job["root"]}}
    words = {
        "role": "arn:aws:iam::123456789012:role/x",
        "image_uri": job["image"],
        "instance_count": job["hosts"],
        "instance_type": "local",
        "sagemaker_session": session,
        "env": job["environment"],
    }
    inputs = [
        ProcessingInput(
            input_name=name,
            s3_input=ProcessingS3Input(
                s3_uri=uri,
                s3_data_type="S3Prefix",
                local_path=f"/opt/ml/processing/input/{name}",
                s3_input_mode="File",
                s3_data_distribution_type="FullyReplicated",
                s3_compression_type="None",
            ),
        )
        for name, uri in job["inputs"].items()
    ]
    target = ProcessingS3Output(s3_uri=job["output"], local_path="/opt/ml/processing/output", s3_upload_mode="EndOfJob")
    outputs = [ProcessingOutput(output_name="out", s3_output=target)]
    if job["kind"] == "script":
        made = ScriptProcessor(command=["python3"], **words)
        made.run(code=job["code"], inputs=inputs, outputs=outputs, arguments=job["arguments"])
    else:
        made = Processor(entrypoint=job.get("entrypoint"), **words)
        made.run(inputs=inputs, outputs=outputs, arguments=job.get("arguments"))
    return {}


def run(name, job):
    print(f"=== {name}", flush=True)
    end = {"raised": "", "called": time.monotonic_ns()}
    try:
        end |= (process if job["kind"] in ("script", "processor") else train)(job)
    except Exception as error:  # whatever the SDK says is what its user sees
        end["raised"] = f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    return end


ends = {name: run(name, job) for name, job in json.loads(sys.argv[1]).items()}
print()
print(json.dumps(ends))
