"""Launch `image_classification` on SageMaker or on this machine, by the client of your choice.

Each function builds what its client wants from the same values and needs that client's package only when it is called.
"""

from collections.abc import Mapping
from typing import Any

HYPERPARAMETERS = {"slipway_entrypoint": "image_classification", "network": "resnet50", "epochs": "90"}
METRICS = [
    {"Name": "validation_accuracy", "Regex": r"validation_accuracy=([0-9.e+-]+)"},
    {"Name": "loss", "Regex": r" loss=([0-9.e+-]+)"},
]


def with_sdk_v2(image_uri: str, role: str, inputs: Mapping[str, str], checkpoints: str) -> None:
    """Launch through the SageMaker Python SDK v2 on managed spot capacity."""
    from sagemaker.estimator import Estimator  # pyright: ignore[reportMissingImports]

    estimator = Estimator(
        image_uri=image_uri,
        role=role,
        instance_count=2,
        instance_type="ml.p4d.24xlarge",
        hyperparameters=HYPERPARAMETERS,
        metric_definitions=METRICS,
        use_spot_instances=True,
        max_run=24 * 3600,
        max_wait=36 * 3600,
        checkpoint_s3_uri=checkpoints,
    )
    estimator.fit(dict(inputs))


def with_sdk_v3(image_uri: str, role: str, inputs: Mapping[str, str]) -> None:
    """Launch through ModelTrainer of the SageMaker Python SDK v3."""
    from sagemaker.train import ModelTrainer  # pyright: ignore[reportMissingImports]
    from sagemaker.train.configs import Compute, InputData  # pyright: ignore[reportMissingImports]

    trainer = ModelTrainer(
        training_image=image_uri,
        role=role,
        compute=Compute(instance_type="ml.p4d.24xlarge", instance_count=2),
        hyperparameters=HYPERPARAMETERS,
    )
    trainer.train([InputData(channel_name=name, data_source=uri) for name, uri in inputs.items()])


def request(image_uri: str, role: str, inputs: Mapping[str, str], output: str) -> dict[str, Any]:
    """Describe the job for ``boto3.client("sagemaker").create_training_job(**request(...))``.

    The same object as JSON, with ``file://`` URIs, is what ``slipway run REQUEST.json`` takes.
    """
    channels = [
        {
            "ChannelName": name,
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix",
                    "S3Uri": uri,
                    "S3DataDistributionType": "FullyReplicated",
                }
            },
        }
        for name, uri in inputs.items()
    ]
    return {
        "TrainingJobName": "image-classification",
        "RoleArn": role,
        "AlgorithmSpecification": {
            "TrainingImage": image_uri,
            "TrainingInputMode": "File",
            "MetricDefinitions": METRICS,
        },
        "HyperParameters": HYPERPARAMETERS,
        "InputDataConfig": channels,
        "OutputDataConfig": {"S3OutputPath": output},
        "ResourceConfig": {"InstanceType": "ml.p4d.24xlarge", "InstanceCount": 2, "VolumeSizeInGB": 500},
        "StoppingCondition": {"MaxRuntimeInSeconds": 24 * 3600},
    }
