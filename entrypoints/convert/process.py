"""Converts a dataset in a processing job: over the CPUs of a host, and over hosts.

`process convert --to tar --shuffle` takes the flags of `slipway convert`; source, output and share come from the job.
"""

import os
import sys
from collections.abc import Sequence

from runtime.base import env
from runtime.base.errors import ExitCode, UserError
from runtime.cli import main as slipway
from runtime.contract.paths import Paths
from runtime.contract.processing_job import ProcessingInput, ProcessingJob, read_processing_job, write_message

ALONE = ("--help", "-h", "--verify", "--merge")
"""Flags that need no source from the job."""


def command(job: ProcessingJob, words: Sequence[str]) -> list[str]:
    """Add what the job knows to the flags.

    Args:
        job: with its inputs, outputs and hosts.
        words: as they were given; what they name themselves is left as it is.

    Raises:
        UserError: the job has several inputs or outputs, or each host has other files.
    """
    given = {word.partition("=")[0] for word in words}
    if given & set(ALONE):
        return ["convert", *words]
    added: list[str] = []
    # Every flag of ours with a value is followed by it; a first word without a dash is the source.
    if not words or words[0].startswith("-"):
        source = _only_input(job)
        if source.distribution == "ShardedByS3Key" and len(job.hosts) > 1:
            raise UserError(
                f"Each host has other files of the input {source.name!r} (ShardedByS3Key)",
                allowed="FullyReplicated: the hosts divide the shards among them, and agree on labels and order",
                fix='set s3_data_distribution_type="FullyReplicated", or use one host',
            )
        added.append(source.path)
    if "--out" not in given:
        outputs = [item.path for item in job.outputs.values()]
        if len(outputs) != 1:
            raise UserError(f"The job has {len(outputs)} outputs", fix="name the directory: --out DIR")
        added += ["--out", outputs[0]]
    if len(job.hosts) > 1 and "--share" not in given:
        added += ["--share", f"{job.hosts.index(job.current_host) + 1}/{len(job.hosts)}"]
    return ["convert", *added, *words]


def _only_input(job: ProcessingJob) -> ProcessingInput:
    found = [item for name, item in job.inputs.items() if name not in ("code", "entrypoint")]
    named = [item for item in found if item.name == "source"]
    if len(named or found) != 1:
        names = ", ".join(item.name for item in found) or "none"
        raise UserError(
            f"The job has {len(found)} inputs: {names}",
            allowed="one input, or one that is called source",
            fix="name the directory as the first argument",
        )
    return (named or found)[0]


def main(words: Sequence[str]) -> int:
    """Convert; return the exit code."""
    paths = Paths.from_environ(env.process_environ())
    try:
        return slipway(command(read_processing_job(paths), words))
    except UserError as error:
        sys.stderr.write(f"process convert: {error}\n")
        if os.path.isdir(f"{paths.base}/config"):
            write_message(paths, str(error))
        return int(ExitCode.USER_ERROR)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
