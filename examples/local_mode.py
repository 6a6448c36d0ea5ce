"""Run a script on this machine by local mode of a SageMaker SDK, unchanged: SDK v2 or v3, whichever is installed.

    python examples/local_mode.py slipway-pytorch:cpu ./src ./data                              # docker-compose
    PATH="$(slipway compose --path):$PATH" python examples/local_mode.py slipway-pytorch:cpu ./src ./data   # slipway

`./src` holds `train.py`. It needs no AWS account: SDK v2 asks for credentials and a region, and any will do.
"""

import argparse
import importlib.util
import os
from pathlib import Path


def with_sdk_v2(image: str, source: Path, data: Path, output: Path, hosts: int) -> str:
    """Train by `Estimator.fit()`; returns where the model is."""
    from sagemaker.estimator import Estimator  # pyright: ignore
    from sagemaker.local import LocalSession  # pyright: ignore

    for name, value in (("ACCESS_KEY_ID", "none"), ("SECRET_ACCESS_KEY", "none"), ("DEFAULT_REGION", "eu-west-1")):
        os.environ.setdefault(f"AWS_{name}", value)
    session = LocalSession()
    # Else it uploads the code to S3; the directory is mounted instead.
    session.config = {"local": {"local_code": True, "container_root": str(output)}}
    estimator = Estimator(
        image_uri=image,
        role="arn:aws:iam::123456789012:role/nobody",  # never assumed
        instance_count=hosts,
        instance_type="local",
        sagemaker_session=session,
        entry_point="train.py",
        source_dir=str(source),
        hyperparameters={"lr": 0.1},
        output_path=f"file://{output}",
    )
    estimator.fit({"train": f"file://{data}"})
    return str(output / "model.tar.gz")


def with_sdk_v3(image: str, source: Path, data: Path, output: Path, hosts: int) -> str:
    """Train by `ModelTrainer.train()`; returns where the model is."""
    from sagemaker.core.training.configs import Compute, InputData, SourceCode  # pyright: ignore
    from sagemaker.train.model_trainer import Mode, ModelTrainer  # pyright: ignore

    trainer = ModelTrainer(
        training_image=image,
        training_mode=Mode.LOCAL_CONTAINER,
        base_job_name="local",
        compute=Compute(instance_type="local_cpu", instance_count=hosts),
        # `exec`: bash becomes `train`, which then gets the SIGTERM of a stop.
        source_code=SourceCode(source_dir=str(source), command="exec train"),
        hyperparameters={"sagemaker_program": "train.py", "lr": 0.1},
        local_container_root=str(output),
    )
    trainer.train([InputData(channel_name="train", data_source=str(data))])
    return str(output / "compressed_artifacts" / "model.tar.gz")


def main() -> None:
    """Read the words, choose the SDK that is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("source", type=Path, help="directory with train.py")
    parser.add_argument("data", type=Path, help="directory of the channel `train`")
    parser.add_argument("--output", type=Path, default=Path("local-mode"))
    parser.add_argument("--hosts", type=int, default=1)
    words = parser.parse_args()
    output = words.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    train = with_sdk_v3 if importlib.util.find_spec("sagemaker.train") else with_sdk_v2
    print(train(words.image, words.source.absolute(), words.data.absolute(), output, words.hosts))  # noqa: T201


if __name__ == "__main__":
    main()
