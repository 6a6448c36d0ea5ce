"""Channels that are no plain directory: the FIFOs of Pipe mode, the mount of FastFile, and what lies beside."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from runtime.base.env import process_environ
from runtime.base.errors import UserError
from runtime.check.clause import GUIDE, Clause, Judgement, broken, holds, untried
from runtime.check.lab import BASE_CHANNELS, SERVICE_CHANNEL, Lab, Setup, Trial
from runtime.local.inputs.mounts import check_fuse
from runtime.local.inputs.pipe import PipeFeeder
from runtime.local.inputs.service import Inputs
from runtime.local.request import ChannelSpec, TrainingJobSpec

PIPE_BYTES = 3_000_000
PIPE_EPOCHS = 2
LARGE_BYTES = 256 << 20
READ_BYTES = 16 << 20
"""What may be fetched of `LARGE_BYTES` for a program that reads a thousand bytes: the kernel reads ahead."""


def _pipe(lab: Lab) -> Judgement:
    if _elsewhere():
        return untried(_elsewhere())
    trial, sums = _stream(lab, "pipe")
    if trial.seen is None:
        return broken(f"the program did not read its FIFOs: {trial.ending}")
    if trial.seen["sums"] != sums:
        return broken("the bytes that the program read are not those that were sent")
    return holds(f"{PIPE_EPOCHS} epochs of {PIPE_BYTES / 1e6:g} MB, byte for byte")


def _pipe_early(lab: Lab) -> Judgement:
    trial, sums = _stream(lab, "early")
    left = trial.record("left.json")
    if left is None:
        return broken(f"the program did not read its FIFO: {trial.ending}")
    if trial.seen is None:
        return broken(
            f"training_0 was left early and training_1 never came: another process held it open; {trial.ending}"
        )
    if trial.seen["sums"] != sums[1:]:
        return broken("the bytes of training_1 are not those that were sent")
    return holds(f"training_0 left after {left['bytes']} bytes, training_1 read byte for byte")


def _stream(lab: Lab, program: str) -> tuple[Trial, list[str]]:
    """Run a program of ours beside the feeder of its FIFOs; also returns the sums of what was sent in each epoch."""
    blocks = [os.urandom(PIPE_BYTES) for _ in range(PIPE_EPOCHS)]
    feeders: list[PipeFeeder] = []

    def feed(base: Path) -> None:
        data = base / "input" / "data"
        feeders.append(PipeFeeder("training", data, lambda epoch: iter(blocks[epoch : epoch + 1]), lambda: 1))
        feeders[0].start()

    inputs = {"training": SERVICE_CHANNEL | {"TrainingInputMode": "Pipe"}, "code": SERVICE_CHANNEL}
    try:
        trial = lab.run(Setup(program=program, usual={}, inputs=inputs, prepare=feed))
    finally:
        for feeder in feeders:
            feeder.stop()
    return trial, [hashlib.sha256(block).hexdigest() for block in blocks]


def _fastfile(lab: Lab) -> Judgement:
    try:
        check_fuse(other_users=True)
    except UserError as error:
        return untried(str(error))
    if _elsewhere():
        return untried(_elsewhere())
    home = lab.new_directory()
    data = home / "data"
    (data / "a").mkdir(parents=True)
    (data / "a" / "small.txt").write_text("small", encoding="utf-8")
    with (data / "large.bin").open("wb") as file:
        file.truncate(LARGE_BYTES)
    channel = ChannelSpec("training", data, input_mode="FastFile")
    spec = TrainingJobSpec("check", channels=(channel,))
    mounted = Inputs()
    try:
        mounted.mount(spec, home, other_users=True)
        place = mounted.path_of(spec.hosts[0], channel)
        volume = f"{place}:/opt/ml/input/data/training:ro"
        inputs = {"training": SERVICE_CHANNEL | {"TrainingInputMode": "FastFile"}, "code": SERVICE_CHANNEL}
        trial = lab.run(Setup(program="fast", usual={}, inputs=inputs, options=("--volume", volume)))
    finally:
        mounted.close()
    return _judge_fastfile(trial, mounted.delivered[0].mount)


def _judge_fastfile(trial: Trial, mount: Mapping[str, int]) -> Judgement:
    if trial.seen is None:
        return broken(f"the program did not read its channel: {trial.ending}")
    if (trial.seen["small"], trial.seen["head"]) != ("small", 1000):
        return broken("the bytes that the program read are not those of the channel")
    fetched = mount["fetched_bytes"]
    told = f"{fetched / 1e6:.1f} of {LARGE_BYTES / 1e6:.0f} MB were fetched for a program that reads a thousand bytes"
    return holds(told) if fetched <= READ_BYTES else broken(told)


def _manifest(lab: Lab) -> Judgement:
    path = lab.new_directory() / "training-manifest"
    names = [{"prefix": "s3://bucket/training/"}, *BASE_CHANNELS["training"]]
    path.write_text(json.dumps(names), encoding="utf-8")
    path.chmod(0o644)
    volume = f"{path}:/opt/ml/input/data/training-manifest:ro"
    trial = lab.run(Setup(options=("--volume", volume)))
    if trial.seen is None:
        return broken(trial.ending)
    if trial.seen["channels"].get("training") != BASE_CHANNELS["training"]:
        return broken(f"the program read {trial.seen['channels'].get('training')!r} of its channel")
    return holds("a file beside the channels was left alone")


def _elsewhere() -> str:
    """Say why FIFOs and mounts do not reach the engine; empty where they do."""
    host = process_environ().get("DOCKER_HOST", "")
    if sys.platform != "linux" or not (host == "" or host.startswith("unix://")):
        return f"FIFOs and mounts do not reach an engine that runs elsewhere ({host or sys.platform})"
    return ""


CLAUSES = (
    Clause(
        id="pipe",
        title="a Pipe channel can be read",
        level="must",
        why="no directory exists for it, only a FIFO per epoch, and whoever opens one takes the data",
        source=f"{GUIDE}, Pipe mode",
        tried=f"FIFOs training_0 and training_1 with {PIPE_BYTES / 1e6:g} MB each",
        change="neither demand a directory per channel nor open what lies there before the program does",
        judge=_pipe,
    ),
    Clause(
        id="pipe-early",
        title="a program may leave an epoch of a Pipe channel early",
        level="must",
        why="the next FIFO comes when the one before is closed by everybody who has it open",
        source=f"{GUIDE}, Pipe mode",
        tried="our program closes training_0 after a thousand bytes, and wants training_1",
        change="open no FIFO outside of the program, and pass none on to it",
        judge=_pipe_early,
        needs=("start", "pipe"),
    ),
    Clause(
        id="fastfile",
        title="a FastFile channel is read in place",
        level="should",
        why="whatever walks through the data first, to copy, hash or count it, fetches all of it from S3",
        source=f"{GUIDE}, fast file mode",
        tried=f"a mount that counts; of a file of {LARGE_BYTES >> 20} MiB our program reads a thousand bytes",
        change="neither copy nor read the channels before the program runs; chmod and chown do not work there",
        judge=_fastfile,
    ),
    Clause(
        id="manifest",
        title="a file beside the channels does no harm",
        level="must",
        why="the service puts NAME-manifest beside the directory of a channel",
        source="listings of real jobs",
        tried="a file training-manifest in /opt/ml/input/data",
        change="take the channels from inputdataconfig.json, not from what lies in /opt/ml/input/data",
        judge=_manifest,
    ),
)
