"""Which keys a request may have, and what becomes of those that mean nothing on one machine. Pure.

Source: botocore's model of CreateTrainingJob and CreateProcessingJob, 1.44.
"""

from collections.abc import Mapping
from typing import cast

from runtime.base.errors import UserError, did_you_mean

Keys = Mapping[str, str]
"""Name of a key that holds an object, or a list of them, to the keys inside; the request itself is ``""``.
Maps with free names, such as ``Environment``, are not in it."""

_SHARED: Keys = {
    "Tags": "Key Value",
    "ExperimentConfig": "ExperimentName TrialName TrialComponentDisplayName RunName",
    "VpcConfig": "SecurityGroupIds Subnets",
}
_RULE = "RuleConfigurationName LocalPath S3OutputPath RuleEvaluatorImage InstanceType VolumeSizeInGB RuleParameters"
_QUERY = "ClusterId Database DbUser QueryString ClusterRoleArn OutputS3Uri KmsKeyId OutputFormat OutputCompression"

TRAINING_KEYS: Keys = {
    **_SHARED,
    "": """
        TrainingJobName HyperParameters AlgorithmSpecification RoleArn InputDataConfig OutputDataConfig ResourceConfig
        VpcConfig StoppingCondition Tags EnableNetworkIsolation EnableInterContainerTrafficEncryption
        EnableManagedSpotTraining CheckpointConfig DebugHookConfig DebugRuleConfigurations TensorBoardOutputConfig
        ExperimentConfig ProfilerConfig ProfilerRuleConfigurations Environment RetryStrategy RemoteDebugConfig
        InfraCheckConfig SessionChainingConfig ServerlessJobConfig MlflowConfig ModelPackageConfig
    """,
    "AlgorithmSpecification": """
        TrainingImage AlgorithmName TrainingInputMode MetricDefinitions EnableSageMakerMetricsTimeSeries
        ContainerEntrypoint ContainerArguments TrainingImageConfig
    """,
    "MetricDefinitions": "Name Regex",
    "TrainingImageConfig": "TrainingRepositoryAccessMode TrainingRepositoryAuthConfig",
    "TrainingRepositoryAuthConfig": "TrainingRepositoryCredentialsProviderArn",
    "InputDataConfig": "ChannelName DataSource ContentType CompressionType RecordWrapperType InputMode ShuffleConfig",
    "DataSource": "S3DataSource FileSystemDataSource DatasetSource",
    "S3DataSource": """
        S3DataType S3Uri S3DataDistributionType AttributeNames InstanceGroupNames ModelAccessConfig HubAccessConfig
    """,
    "ModelAccessConfig": "AcceptEula",
    "HubAccessConfig": "HubContentArn",
    "FileSystemDataSource": "FileSystemId FileSystemAccessMode FileSystemType DirectoryPath",
    "DatasetSource": "DatasetArn",
    "ShuffleConfig": "Seed",
    "OutputDataConfig": "KmsKeyId S3OutputPath CompressionType",
    "ResourceConfig": """
        InstanceType InstanceCount VolumeSizeInGB VolumeKmsKeyId KeepAlivePeriodInSeconds InstanceGroups
        TrainingPlanArn InstancePlacementConfig InstancePreferences SelectedInstanceType SelectedInstanceCount
    """,
    "InstancePreferences": "InstanceType InstanceCount TrainingPlanArns",
    "InstanceGroups": "InstanceType InstanceCount InstanceGroupName",
    "InstancePlacementConfig": "EnableMultipleJobs PlacementSpecifications",
    "PlacementSpecifications": "UltraServerId InstanceCount",
    "StoppingCondition": "MaxRuntimeInSeconds MaxWaitTimeInSeconds MaxPendingTimeInSeconds",
    "CheckpointConfig": "S3Uri LocalPath",
    "DebugHookConfig": "LocalPath S3OutputPath HookParameters CollectionConfigurations",
    "CollectionConfigurations": "CollectionName CollectionParameters",
    "DebugRuleConfigurations": _RULE,
    "ProfilerRuleConfigurations": _RULE,
    "TensorBoardOutputConfig": "LocalPath S3OutputPath",
    "ProfilerConfig": "S3OutputPath ProfilingIntervalInMilliseconds ProfilingParameters DisableProfiler",
    "RetryStrategy": "MaximumRetryAttempts",
    "RemoteDebugConfig": "EnableRemoteDebug",
    "InfraCheckConfig": "EnableInfraCheck",
    "SessionChainingConfig": "EnableSessionTagChaining",
    "ServerlessJobConfig": """
        BaseModelArn AcceptEula JobType CustomizationTechnique Peft EvaluationType EvaluatorArn SequenceLength
    """,
    "MlflowConfig": "MlflowResourceArn MlflowExperimentName MlflowRunName",
    "ModelPackageConfig": "ModelPackageGroupArn SourceModelPackageArn",
}
PROCESSING_KEYS: Keys = {
    **_SHARED,
    "": """
        ProcessingInputs ProcessingOutputConfig ProcessingJobName ProcessingResources StoppingCondition
        AppSpecification Environment NetworkConfig RoleArn Tags ExperimentConfig
    """,
    "ProcessingInputs": "InputName AppManaged S3Input DatasetDefinition",
    "S3Input": "S3Uri LocalPath S3DataType S3InputMode S3DataDistributionType S3CompressionType",
    "DatasetDefinition": """
        AthenaDatasetDefinition RedshiftDatasetDefinition LocalPath DataDistributionType InputMode
    """,
    "AthenaDatasetDefinition": """
        Catalog Database QueryString WorkGroup OutputS3Uri KmsKeyId OutputFormat OutputCompression
    """,
    "RedshiftDatasetDefinition": _QUERY,
    "ProcessingOutputConfig": "Outputs KmsKeyId",
    "Outputs": "OutputName S3Output FeatureStoreOutput AppManaged",
    "S3Output": "S3Uri LocalPath S3UploadMode",
    "FeatureStoreOutput": "FeatureGroupName",
    "ProcessingResources": "ClusterConfig",
    "ClusterConfig": """
        InstanceCount InstanceType VolumeSizeInGB VolumeKmsKeyId InstancePreferences SelectedInstanceType
        SelectedInstanceCount
    """,
    "StoppingCondition": "MaxRuntimeInSeconds",
    "InstancePreferences": "InstanceType InstanceCount",
    "AppSpecification": "ImageUri ContainerEntrypoint ContainerArguments",
    "NetworkConfig": "EnableInterContainerTrafficEncryption EnableNetworkIsolation VpcConfig",
}

_KEY = "nothing is encrypted at rest here"
_SELECTED = "the service writes it, it asks for nothing"
_PRESENT = "nothing here collects it"
WITHOUT_EFFECT: Mapping[str, str] = {
    "RoleArn": "hosts act with the credentials that you give them, not with a role",
    "VpcConfig": "the hosts have a private network of their own",
    "EnableInterContainerTrafficEncryption": "traffic between the hosts is plain: it never leaves this machine",
    "Tags": _PRESENT,
    "ExperimentConfig": _PRESENT,
    "MlflowConfig": _PRESENT,
    "ModelPackageConfig": "nothing is registered",
    "DebugRuleConfigurations": "rules run in containers of the service",
    "ProfilerRuleConfigurations": "rules run in containers of the service; `slipway report` judges what was measured",
    "RemoteDebugConfig": "use docker exec",
    "InfraCheckConfig": "the service looks after its own machines",
    "SessionChainingConfig": "there is no role whose tags could be passed on",
    "TrainingImageConfig": "the image is taken from this machine",
    "ModelAccessConfig": "no licence is checked",
    "HubAccessConfig": "the data is read from S3Uri as it is",
    "KmsKeyId": _KEY,
    "VolumeKmsKeyId": _KEY,
    "VolumeSizeInGB": "the disk is this machine's",
    "KeepAlivePeriodInSeconds": "there is no warm pool",
    "TrainingPlanArn": "no capacity is reserved",
    "InstancePlacementConfig": "all hosts are on this machine",
    "SelectedInstanceType": _SELECTED,
    "SelectedInstanceCount": _SELECTED,
    "MaxPendingTimeInSeconds": "no job waits for machines here",
}
"""Keys that are accepted and recorded in job.json, with one line why they do nothing."""


def check_keys(request: object, keys: Keys) -> dict[str, str]:
    """Look at every key of a request.

    Args:
        request: the decoded JSON.
        keys: `TRAINING_KEYS` or `PROCESSING_KEYS`.

    Returns:
        Path of every key that has no effect here, to the reason.

    Raises:
        UserError: a key is unknown.
    """
    found: dict[str, str] = {}
    _look(request, "", "", keys, found)
    return found


def _look(value: object, path: str, kind: str, keys: Keys, found: dict[str, str]) -> None:
    if isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            _look(item, f"{path}[{index}]", kind, keys, found)
    if not isinstance(value, Mapping):
        return  # what it should be is said by who reads it
    known = keys[kind].split()
    for key, inner in cast("Mapping[str, object]", value).items():
        at = f"{path}.{key}" if path else key
        if key not in known:
            raise UserError(
                f"The request has an unknown key {at}",
                allowed=did_you_mean(key, known),
                fix="correct it, or leave it out for the local run",
            )
        if key in WITHOUT_EFFECT and inner not in (None, False, "", [], {}):
            found[at] = WITHOUT_EFFECT[key]
        if key in keys:
            _look(inner, at, key, keys, found)
