"""``slipway doctor``: what is wrong with this container, or this job in it, before a GPU minute is spent.

The quick checks of `runtime.launch.checks`, and those that ask the network or the packages: names, ports, S3, the
clock, the NVIDIA driver against the CUDA build. Every wait is bounded; torch is never imported.
"""

from __future__ import annotations

import os
import sys
import time

from runtime.base.errors import SlipwayError
from runtime.base.frozen import asdict, frozen, replace
from runtime.base.redact import learn, redact
from runtime.contract.job import read_job
from runtime.contract.settings import resolve
from runtime.install.provision import check_there
from runtime.launch import checks
from runtime.launch.checks import OK, STOP, WARNING, Finding
from runtime.planning.program import find_program
from runtime.planning.topology import parse_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from runtime.base.env import Environ
    from runtime.contract.job import Job
    from runtime.contract.paths import Paths

NETWORK_S = 3.0
"""All questions to the network together; they are asked at once."""
CLOCK_S = 5.0
"""A file that the platform has just written may be that much younger than our clock."""
EARLIEST = 1_735_689_600
"""1 January 2025: no clock that shows less is right."""
DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}
"""Oldest Linux driver of each CUDA major version. Source: CUDA release notes, table of minor version compatibility."""
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_PROFILE",
)
"""Any of them says where credentials are. Source: AWS SDKs reference guide, "Standardized credential providers"."""


@frozen
class Report:
    """All findings."""

    findings: tuple[Finding, ...]
    """Secrets are masked in them."""

    @property
    def stops(self) -> bool:
        """Whether something would stop a job."""
        return any(finding.level == STOP for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """Return what ``slipway doctor --json`` prints."""
        verdict = "stop" if self.stops else "ready"
        return {"verdict": verdict, "findings": [asdict(finding) for finding in self.findings]}


def examine(paths: Paths, environ: Environ, root: str = "", *, network: bool = True) -> Report:
    """Look at everything.

    Args:
        paths: of the job, if there is one.
        environ: of this process.
        root: where /proc, /sys and /dev are.
        network: also ask the network, for at most `NETWORK_S`.
    """
    learn(environ)
    found: list[Finding] = []
    job = _read(paths, environ, found)
    found += checks.shared_memory(root)
    found += checks.limits(root)
    found += checks.interface(job, root)
    found += checks.mangled(environ)
    found += checks.first_process(root)
    found += cuda(environ, root)
    found += clock(paths)
    if job is not None and job.under_contract:
        found += checks.writable(job)
        found += checks.gpus(job, root)
        found += checks.checkpoint_mount(job, root)
        found += checks.leftovers(job)
        found += checks.file_channels(job)
        found += checks.mangled(job.hyperparameters, "hyperparameter")
        found += channels(job)
        found += program(job, environ)
    if network:
        found += ask_network(job, environ, root)
    return Report(tuple(replace(finding, found=redact(finding.found)) for finding in found))


def _read(paths: Paths, environ: Environ, found: list[Finding]) -> Job | None:
    if not os.path.isdir(paths.config):
        found.append(Finding(OK, "job", f"none: {paths.config} is not there; only the container is looked at"))
        return None
    try:
        job = read_job(paths, environ)
        learn(job.hyperparameters)
        resolve(job.hyperparameters, environ)
    except SlipwayError as error:
        found.append(Finding(STOP, "job", str(error), "`train` ends with this message", "see the message"))
        return None
    hosts = ", ".join(host.name for host in job.hosts)
    found.append(Finding(OK, "job", f"{job.name}, host {job.current_host} of {hosts}"))
    return job


# --- the job ------------------------------------------------------------------------------------------------------


def channels(job: Job) -> Iterator[Finding]:
    """Look at the channels as `train` does before it starts."""
    for channel in job.channels.values():
        there = os.path.exists(channel.directory)
        mode = channel.input_mode
        if not there and mode != "Pipe":
            yield Finding(
                STOP,
                f"channel {channel.name}",
                f"{channel.directory} is not there",
                "`train` ends before it starts anything",
                "check the channel's S3 URI or --channel path",
            )
        elif there and mode != "Pipe" and os.path.isdir(channel.directory) and not os.listdir(channel.directory):
            sharded = channel.distribution == "ShardedByS3Key"
            yield Finding(
                WARNING if sharded else STOP,
                f"channel {channel.name}",
                f"{channel.directory} is empty",
                "this host has no data: fewer files than hosts" if sharded else "there is nothing to train on",
                "check the channel's S3 URI or --channel path",
            )
        else:
            yield Finding(OK, f"channel {channel.name}", f"{mode}, {channel.distribution}")


def program(job: Job, environ: Environ) -> Iterator[Finding]:
    """Look for the program, and for credentials when it must be fetched."""
    try:
        named = find_program(job, resolve(job.hyperparameters, environ), environ)
        if named.submit_directory is None:
            check_there(named)
        where = f"to be fetched from {named.submit_directory}" if named.submit_directory else named.path or named.name
        yield Finding(OK, "program", where)
    except SlipwayError as error:
        yield Finding(STOP, "program", str(error), "`train` ends with this message", "see the message")
    source = code_uri(job)
    if source and not any(environ.get(name) for name in CREDENTIALS):
        own = os.path.expanduser("~/.aws/credentials")
        if not os.path.exists(own):
            yield Finding(
                WARNING,
                "credentials",
                f"the code is at {source}, and no variable or file names credentials",
                "it cannot be fetched, unless this instance has a role",
                "give the job an execution role; on your own machine pass AWS_PROFILE or the AWS_* variables",
            )
        if not any(environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")):
            yield Finding(WARNING, "region", "AWS_REGION is not set", "S3 is asked in us-east-1", "set AWS_REGION")


def code_uri(job: Job | None) -> str:
    """Return where the job's code is fetched from; empty when it is here already."""
    text = job.hyperparameters.get("sagemaker_submit_directory", "").strip('"') if job is not None else ""
    return text if text.startswith("s3://") else ""


# --- the machine --------------------------------------------------------------------------------------------------


def clock(paths: Paths) -> Iterator[Finding]:
    """Compare our clock with the files that the platform has written; other hosts are compared while a job runs."""
    now = time.time()
    newest = max((_written(f"{paths.config}/{name}") for name in _listed(paths.config)), default=0.0)
    if now < EARLIEST or newest > now + CLOCK_S:
        behind = f"{newest - now:.0f} s behind the job's files" if newest > now else "years behind"
        yield Finding(
            WARNING,
            "clock",
            f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(now))}, {behind}",
            "signed requests to S3 are refused beyond 15 minutes, and the order of failures over hosts is wrong",
            "let the machine keep time (chrony)",
        )
    else:
        yield Finding(OK, "clock", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))


def cuda(environ: Environ, root: str = "") -> Iterator[Finding]:
    """Compare the driver of the machine with the CUDA that torch was built for, from their files."""
    del environ
    driver = driver_version(checks.read_text(f"{root}/proc/driver/nvidia/version"))
    version, built = torch_build()
    told = f"torch {version or 'none'}, CUDA build {built or 'none'}, driver {driver or 'none'}"
    least = DRIVERS.get(built.split(".")[0], "")
    if driver and version and not built:
        yield Finding(
            WARNING,
            "GPU",
            told,
            "the machine has GPUs, and this torch is built for the CPU",
            "use the CUDA flavour of the image",
        )
    elif driver and least and _numbers(driver) < _numbers(least):
        compat = os.path.isdir(f"{root}/usr/local/cuda/compat")
        yield Finding(
            WARNING if compat else STOP,
            "GPU",
            f"{told}; CUDA {built} needs driver {least} or newer",
            "CUDA does not start with it" + (", unless the compat libraries of this image bridge it" if compat else ""),
            "use an image with an older CUDA, or a newer instance type or AMI",
        )
    else:
        yield Finding(OK, "GPU", told)


def driver_version(text: str) -> str:
    """Read /proc/driver/nvidia/version.

    >>> driver_version("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5")
    '550.54.15'
    >>> driver_version("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build")
    '580.65.06'
    """
    line = text.partition("\n")[0]
    return next((word for word in line.split() if word[:1].isdigit() and word.count(".") >= 1), "")


def torch_build(path: Sequence[str] | None = None) -> tuple[str, str]:
    """Return torch's version and the CUDA that it was built for, from its version file; empty for none.

    Args:
        path: where packages are looked for; default: where Python does.
    """
    for directory in sys.path if path is None else path:
        text = checks.read_text(f"{directory}/torch/version.py")
        if text:
            told = {
                line.partition("=")[0].partition(":")[0].strip(): line.partition("=")[2].strip()
                for line in text.splitlines()
                if "=" in line and not line.startswith((" ", "#"))
            }
            quoted = {name: value.strip("'\"") for name, value in told.items() if value[:1] in "'\""}
            return quoted.get("__version__", "unknown"), quoted.get("cuda", "")
    return "", ""


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _written(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


# --- the network --------------------------------------------------------------------------------------------------


def ask_network(job: Job | None, environ: Environ, root: str = "") -> Iterator[Finding]:
    """Ask for every host, file system and S3 at once, for at most `NETWORK_S` in all."""
    questions: dict[str, Callable[[], Finding]] = {}
    known = parse_addresses(environ.get("SLIPWAY_HOST_ADDRESSES", ""))
    hosts = [host.name for host in job.hosts] if job is not None and len(job.hosts) > 1 else []
    for host in hosts:
        if host not in known:
            questions[f"host {host}"] = _about(_ask_host, host)
    for point, kind, source in checks.mounts(root):
        port = checks.NETWORK_FILE_SYSTEMS.get(kind)
        if port is not None:
            questions[f"file system {point}"] = _about(_ask_file_system, point, kind, source, port)
    if job is not None and job.under_contract:
        questions["S3"] = _about(_ask_s3, environ, code_uri(job))
    answers = _all_at_once(questions)
    for name in questions:
        yield answers.get(name) or Finding(
            WARNING,
            name,
            f"no answer within {NETWORK_S:g} s",
            "`train` waits for hosts, and programs for file systems and S3",
            "check the name service, security groups and routes of the subnet",
        )


def _about(ask: Callable[..., Finding], *words: object) -> Callable[[], Finding]:
    return lambda: ask(*words)


def _all_at_once(questions: dict[str, Callable[[], Finding]]) -> dict[str, Finding]:
    """Ask in threads that nobody waits for beyond the limit: a name service may not answer for minutes."""
    import threading

    answers: dict[str, Finding] = {}

    def ask(name: str, question: Callable[[], Finding]) -> None:
        answers[name] = question()

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in questions.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + NETWORK_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)


def _ask_host(host: str) -> Finding:
    import socket

    try:
        infos = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        return Finding(
            WARNING,
            f"host {host}",
            f"has no address: {error.strerror or error}",
            "names may come minutes after a container; `train` waits slipway_host_wait_s",
            "on your own machine all containers must be on one user-defined network, with these names",
        )
    addresses = sorted({str(info[4][0]) for info in infos})
    if len(addresses) > 1:
        return Finding(
            STOP,
            f"host {host}",
            f"has {len(addresses)} addresses: {', '.join(addresses)}",
            "two jobs share one network, and their ranks would meet each other",
            "give each job a network of its own",
        )
    return Finding(OK, f"host {host}", addresses[0])


def _ask_file_system(point: str, kind: str, source: str, port: int) -> Finding:
    server = source.partition("@")[0] if kind == "lustre" else source.partition(":")[0]
    name = f"file system {point}"
    try:
        _connect(server, port)
    except OSError as error:
        return Finding(
            WARNING,
            name,
            f"{kind} server {server} does not answer on port {port}: {error}",
            "reads from the mount hang",
            f"allow TCP {port} between the job's security group and the file system's",
        )
    return Finding(OK, name, f"{kind} from {server}, port {port} answers")


def _ask_s3(environ: Environ, source: str) -> Finding:
    from urllib.parse import urlsplit

    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    given = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("S3_ENDPOINT_URL") or environ.get("AWS_ENDPOINT_URL")
    where = urlsplit(given or f"https://s3.{region}.amazonaws.com")
    host, port = where.hostname or "", where.port or (80 if where.scheme == "http" else 443)
    try:
        _connect(host, port)
    except OSError as error:
        return Finding(
            STOP if source else OK,
            "S3",
            f"{host} is out of reach: {error}",
            f"the code is to be fetched from {source}" if source else "",
            "bring the code in through a channel, or add a VPC endpoint for S3" if source else "",
        )
    return Finding(OK, "S3", f"{host} answers")


def _connect(host: str, port: int) -> None:
    import socket

    with socket.create_connection((host, port), timeout=NETWORK_S):
        return


# --- on a screen --------------------------------------------------------------------------------------------------


def describe(report: Report) -> str:
    """Lay the findings out for a person, those that need one first."""
    signs = {STOP: "STOP", WARNING: "warn", OK: "ok"}
    width = max(len(finding.name) for finding in report.findings)
    lines: list[str] = []
    for finding in sorted(report.findings, key=lambda finding: (STOP, WARNING, OK).index(finding.level)):
        lines.append(f"{signs[finding.level]:<4}  {finding.name:<{width}}  {finding.found}")
        if finding.why and finding.level != OK:
            lines.append(f"{'':<4}  {'':<{width}}  why: {finding.why}")
        if finding.fix and finding.level != OK:
            lines.append(f"{'':<4}  {'':<{width}}  fix: {finding.fix}")
    counted = [sum(finding.level == level for finding in report.findings) for level in (STOP, WARNING)]
    stops = f"{counted[0]} would stop a job" if counted[0] else "nothing would stop a job"
    return "\n".join([*lines, f"\n{stops}, {counted[1]} worth knowing"])
