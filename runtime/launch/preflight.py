"""What is checked on this host before a process is started: places that must be writable, channels that must be there.

Standard library only, and quick: a wrong job should fail in milliseconds, not after four imports of torch.
"""

from __future__ import annotations

import os

from runtime.base.errors import UserError
from runtime.base.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.base.env import Environ
    from runtime.contract.job import Channel, Job

log = Log("preflight")

LEAST_CHECKPOINT_BYTES = 1 << 20
"""Room without which not even the smallest checkpoint can be written."""


def check(job: Job) -> list[str]:
    """Check channels and directories.

    Returns:
        What lies where the model goes, for `warn`.

    Raises:
        UserError: a declared channel is missing or empty, a directory cannot be written, the disk is full.
    """
    for channel in job.channels.values():
        _check_channel(channel)
    for directory in (job.paths.model, job.paths.output_data, job.paths.state, job.paths.profiler):
        _make(directory)
    if job.checkpoint_path is not None:
        _make(job.checkpoint_path)
        _check_room(job.checkpoint_path)
    try:
        return sorted(os.listdir(job.paths.model))
    except OSError:
        return []  # it can be written, and that is what counts


def warn(job: Job, environ: Environ, in_model: Sequence[str]) -> None:
    """Warn of what `runtime.launch.checks` sees in passing, and will not stop the job.

    Args:
        job: the contract, as read.
        environ: of this process; its values are looked at too.
        in_model: what `check` found: by now the ranks may be at work, and what lies there theirs.
    """
    from runtime.launch.checks import quick

    for finding in quick(job, environ, in_model=in_model):
        log.warning(finding.text())
    if job.checkpoint_path is None and job.under_contract:
        log.warning("the job has no CheckpointConfig: an interruption or a restart begins from scratch")


def _check_channel(channel: Channel) -> None:
    if channel.input_mode == "Pipe":
        return  # its FIFOs appear when the writer is ready
    if os.path.isfile(channel.directory):
        return  # local mode of SDK v3 mounts a channel of one file as that file
    if not os.path.isdir(channel.directory):
        raise UserError(
            f"Channel {channel.name!r} is declared in inputdataconfig.json, but {channel.directory} is not there",
            fix="check the channel's S3 URI or --channel path",
        )
    with os.scandir(channel.directory) as entries:
        empty = next(entries, None) is None
    if empty and channel.distribution == "ShardedByS3Key":
        log.warning(f"channel {channel.name!r} is empty on this host: it has fewer files than the job has hosts")
    elif empty:
        raise UserError(
            f"Channel {channel.name!r} is empty: {channel.directory} holds no file",
            fix="check the channel's S3 URI or --channel path",
        )


def _make(directory: str) -> None:
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory} cannot be made: {error.strerror}", fix="mount it writable") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"{directory} is not writable for uid {os.getuid()}", fix="mount it writable")


def _check_room(directory: str) -> None:
    facts = os.statvfs(directory)
    free = facts.f_bavail * facts.f_frsize
    if free < LEAST_CHECKPOINT_BYTES:
        raise UserError(
            f"No space left for a checkpoint: {directory} has {free} bytes free",
            fix="use a larger volume (VolumeSizeInGB), or clear old checkpoints",
        )
