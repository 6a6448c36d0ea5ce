"""What one job has in S3: inputs are brought here, hosts are let in, results are brought there."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from runtime.base.env import Environ
from runtime.base.errors import UserError
from runtime.base.log import Log
from runtime.local.inputs.manifest import LARGEST, parse_manifest
from runtime.local.outputs import merged
from runtime.local.record import JobRecord
from runtime.local.request import ChannelSpec, JobSpec, ProcessingJobSpec, TrainingJobSpec
from runtime.local.s3.cache import S3Cache, cache_directory
from runtime.local.s3.client import S3Client
from runtime.local.s3.grant import S3Grant
from runtime.local.s3.uri import S3Uri, is_s3, parse_s3_uri

if TYPE_CHECKING:
    from runtime.testing.s3_faults import S3FaultProxy, S3Faults

log = Log("local")

Spec = TypeVar("Spec", bound=JobSpec)
UPLOADS = 8
HEADS = 16
"""Objects of a manifest that are looked at at one time."""
SUBMIT = "sagemaker_submit_directory"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


class JobS3:
    """S3 for one job; nothing of it is imported or asked for a job that names none."""

    def __init__(self, environ: Environ, faults: "S3Faults | None" = None) -> None:
        """Remember where settings come from; nothing is connected.

        Args:
            environ: of this process.
            faults: what happens to requests, those of the hosts included; None: nothing.
        """
        self._environ = environ
        self._faults = faults
        self._proxy: S3FaultProxy | None = None
        self._client: S3Client | None = None

    @property
    def client(self) -> S3Client:
        """The connection; made on first use.

        Raises:
            UserError: boto3 is not installed, or its settings are wrong.
        """
        if self._client is None:
            self._client = S3Client(self._environ)
            if self._faults is not None:
                if not self._client.endpoint:
                    raise UserError(
                        "--s3-faults without an endpoint of your own",
                        allowed="AWS takes no requests that came through a proxy under another name",
                        fix="set AWS_ENDPOINT_URL_S3 to a server for tests, such as moto or MinIO",
                    )
                from runtime.testing.s3_faults import S3FaultProxy

                self._proxy = S3FaultProxy(self._client.endpoint, self._faults)
                self._client.close()
                self._client = S3Client(self._environ, self._proxy.url)
        return self._client

    def played(self) -> dict[str, int]:
        """Return how often each fault was played; empty without faults."""
        return dict(self._proxy.played) if self._proxy is not None else {}

    def prepare(self, spec: JobSpec) -> None:
        """See that what the job will need can be had, before anything is started.

        Args:
            spec: the job.

        Raises:
            UserError: a bucket is not there; code in S3 under network isolation.
        """
        code = submitted(spec)
        if code and spec.network_isolation:
            # A container fetches its code itself, and an isolated one reaches nothing.
            raise UserError(
                f"{SUBMIT} is {code!r}, which an isolated container cannot fetch",
                fix="pass the archive as the channel 'code', as the SDK does with enable_network_isolation",
            )
        checkpoints = spec.checkpoint.store if spec.checkpoint is not None else None
        for uri in (*destinations(spec), checkpoints):
            if isinstance(uri, S3Uri):
                self.client.require_bucket(uri)

    def fetch(self, spec: Spec, check: Callable[[], object]) -> Spec:
        """Bring the inputs here that are to lie on the disk.

        Args:
            spec: the job.
            check: called often; raises when somebody wants no more.

        Returns:
            The job with channels of this machine.

        Raises:
            UserError: nothing matches a prefix, no access, no space.
            PlatformError: S3 does not answer.
        """
        remote = to_fetch(spec)
        if not remote:
            return spec
        cache = S3Cache(cache_directory(self._environ), self.client, check)
        here: dict[str, ChannelSpec] = {}
        for channel in remote:
            assert channel.remote is not None  # noqa: S101 - as chosen above
            if channel.data_type == "ManifestFile":
                source = self._fetch_manifest(cache, channel, channel.remote)
                here[channel.name] = replace(channel, source=source, data_type="S3Prefix")
                continue
            here[channel.name] = replace(channel, source=cache.fetch(channel.remote, f"Channel {channel.name!r}"))
        return replace(spec, channels=tuple(here.get(channel.name, channel) for channel in spec.channels))

    def routed(self, spec: Spec) -> Spec:
        """Let channels that are read while the job runs go the way on which faults are played."""
        if self._faults is None:
            return spec
        url = self.client.endpoint
        channels = [replace(channel, endpoint=url) if channel.remote else channel for channel in spec.channels]
        return replace(spec, channels=tuple(channels))

    def _fetch_manifest(self, cache: S3Cache, channel: ChannelSpec, uri: S3Uri) -> Path:
        item = self.client.head(uri)
        if item.size > LARGEST:
            raise UserError(f"Manifest {uri} has {item.size} bytes", allowed=f"at most {LARGEST}")
        try:
            text = self.client.read(uri.bucket, item, 0, item.size).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"Manifest {uri} is no UTF-8: {error}") from error
        manifest = parse_manifest(text, str(uri))
        where = f"Channel {channel.name!r}: the prefix of manifest {uri}"
        keys = [parse_s3_uri(manifest.prefix + name, where) for name in manifest.names]
        with ThreadPoolExecutor(HEADS) as pool:
            found = list(pool.map(self.client.head, keys))
        # The prefix, and so the bucket, is the same for all.
        return cache.fetch_objects(keys[0].bucket, dict(zip(manifest.paths, found, strict=True)))

    def grant(self, spec: JobSpec) -> S3Grant | None:
        """Return what lets the hosts of a job in; None for a job that needs nothing, or may have nothing.

        A job that names S3 anywhere gets it, as the service gives every job its role; one that brings credentials of
        its own keeps them.
        """
        named = submitted(spec) or any(channel.remote is not None for channel in spec.channels)
        if spec.checkpoint is not None:
            named = named or isinstance(spec.checkpoint.store, S3Uri)
        named = named or any(isinstance(uri, S3Uri) for uri in destinations(spec))
        if not named or spec.network_isolation:
            return None
        grant = self.client.grant()
        environ, endpoint = grant.environ, grant.endpoint
        if any(name in spec.environment for name in KEYS):  # half of ours and half of its own would be neither
            environ = {name: value for name, value in environ.items() if name not in KEYS}
        if any(name in spec.environment for name in ENDPOINTS):
            endpoint = ""
        return S3Grant(environ, endpoint)

    def upload_results(self, spec: JobSpec, record: JobRecord) -> None:
        """Bring the archives of a training job to where the request wants them; `record` is told."""
        if isinstance(spec, TrainingJobSpec) and isinstance(spec.output, S3Uri):
            folder = spec.output.below(spec.name, "output")
            paths = [Path(path) for name in ("model", "output") if (path := record.paths.get(name)) is not None]
            for path in paths:
                if path.is_dir():
                    self.upload(merged([path]), folder.below(path.name))
            self.upload({path.name: path for path in paths if path.is_file()}, folder)
            record.uploaded = {path.name: str(folder.below(path.name)) for path in paths}

    def upload(self, files: Mapping[str, Path], folder: S3Uri) -> dict[str, str]:
        """Bring results to S3.

        Args:
            files: name below the folder to file.
            folder: such as ``S3OutputPath``/<job name>/output.

        Returns:
            Name to address.

        Raises:
            UserError, PlatformError: S3 does not take them.
        """
        client = self.client
        with ThreadPoolExecutor(UPLOADS, "upload") as pool:
            list(pool.map(client.upload, files.values(), [folder.below(name) for name in files]))
        if files:
            size = sum(path.stat().st_size for path in files.values())
            log.info(
                f"uploaded {len(files):,} file{'s' if len(files) > 1 else ''} ({size / 2**20:,.1f} MiB) to {folder}"
            )
        return {name: str(folder.below(name)) for name in files}

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
        if self._proxy is not None:
            self._proxy.close()


def to_fetch(spec: JobSpec) -> list[ChannelSpec]:
    """Name the channels whose data must be brought here before the job starts."""
    return [channel for channel in spec.channels if channel.remote is not None and channel.on_disk]


def destinations(spec: JobSpec) -> list[Path | S3Uri | None]:
    """Name the places where the results of a job go."""
    if isinstance(spec, TrainingJobSpec):
        return [spec.output]
    return [output.target for output in spec.outputs] if isinstance(spec, ProcessingJobSpec) else []


def submitted(spec: JobSpec) -> str:
    """Return the address of code that the container fetches from S3 itself; empty when there is none."""
    text = spec.hyperparameters.get(SUBMIT, "").strip('"') or spec.environment.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
    return text if is_s3(text) else ""
