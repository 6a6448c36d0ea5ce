"""Images for `slipway check`: three good ones, and for each clause a bad one that differs from a good one by a line."""

import os
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pip

from images import rootfs
from images.build import Workplace
from images.catalog import HOME, read_catalog
from images.engine import Engine, find_client
from tests.container.slim import SLIM

HERE = Path(__file__).parent
GOOD = "slipway-check-good:test"
TOOLKIT = "slipway-check-toolkit:test"
OWN = "slipway-check-own:test"
SHELL = "slipway-check-shell:test"
ENTRYPOINT = "slipway-check-entrypoint:test"
PIP = "import sys; from pip._internal.cli.main import main; sys.exit(main())"


def build(tag: str, dockerfile: str, context: Path | None = None) -> str:
    """Build an image and return its tag."""
    with tempfile.TemporaryDirectory(prefix="slipway-check-build-") as scratch:
        path = Path(scratch) / "Dockerfile"
        path.write_text(dockerfile, encoding="utf-8")
        words = [
            find_client(os.environ["PATH"]),
            "build",
            "--quiet",
            "--tag",
            tag,
            "--file",
            str(path),
            str(context or scratch),
        ]
        environ = os.environ | {"DOCKER_BUILDKIT": "1"}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, f"{tag}: {done.stderr}"
    return tag


def write_file(path: str, *lines: str) -> str:
    """A Dockerfile's instruction that writes an executable."""
    text = " ".join(shlex.quote(line) for line in lines)
    return f"RUN printf '%s\\n' {text} > {path} && chmod +x {path}"


def build_good() -> str:
    """Our runtime on the small base, with pip as the real images have it."""
    return build(
        GOOD,
        f"FROM {SLIM}\nCOPY . /opt/venv/lib/python3.11/site-packages/pip\n"
        + write_file("/opt/venv/bin/pip3", "#!/opt/venv/bin/python", PIP),
        Path(pip.__file__).parent,
    )


def base_image() -> str:
    """Debian and its Python, nothing of ours."""
    engine = Engine.connect(Workplace(HOME.parent, HOME.parent / ".cache").logs)
    return rootfs.ensure(read_catalog().rootfs, engine)[0]


def build_toolkit(oracle: Path) -> str:
    """sagemaker-training as it is published, from the environment that the differential tests made."""
    start = "import sys; from sagemaker_training.cli.train import main; sys.exit(main())"
    return build(
        TOOLKIT,
        f"FROM {base_image()}\nCOPY . /usr/local/lib/python3.11/dist-packages\n"
        + write_file("/usr/local/bin/train", "#!/usr/bin/python3", start)
        + "\n"
        + write_file("/usr/local/bin/pip3", "#!/usr/bin/python3", PIP)
        + '\nWORKDIR /tmp\nCMD ["train"]\n',
        oracle / "lib" / "python3.11" / "site-packages",
    )


def build_own() -> str:
    """Plain Python with an algorithm of its own."""
    return build(
        OWN,
        f'FROM {base_image()}\nCOPY --chmod=755 own_algorithm.py /usr/local/bin/train\nWORKDIR /tmp\nCMD ["train"]\n',
        HERE / "images",
    )


def build_shell() -> str:
    """No Python at all; the algorithm handles what it is sent."""
    return build(
        SHELL,
        f"FROM {base_image()}\nRUN rm -r /usr/bin/python3* /usr/lib/python3*\n"
        'COPY --chmod=755 shell_algorithm.sh /usr/local/bin/train\nWORKDIR /tmp\nCMD ["train"]\n',
        HERE / "images",
    )


def build_entrypoint() -> str:
    """A Python in a prefix of its own, and the program as the image's ENTRYPOINT."""
    path = "/opt/conda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return build(
        ENTRYPOINT,
        f"FROM {base_image()}\nRUN mkdir -p /opt/conda/bin && mv /usr/bin/python3* /opt/conda/bin"
        " && ln -s python3 /opt/conda/bin/python\n"
        f"COPY entrypoint_algorithm.py /opt/program/train.py\nENV PATH={path}\nWORKDIR /opt/program\n"
        'ENTRYPOINT ["python", "train.py"]\n',
        HERE / "images",
    )


BIN = "/opt/venv/bin"
CONFIG = "/opt/ml/input/config"
REAL = f"{BIN}/real-train"
PROGRAM = "/opt/ml/input/data/code/job.py"


def wrapped(*lines: str) -> str:
    """The good image with a shell script as its `train`; the good one is `real-train` there."""
    return f"RUN mv {BIN}/train {REAL}\n" + write_file(f"{BIN}/train", "#!/bin/bash", *lines)


def before(line: str) -> str:
    """A line of shell before the good `train`."""
    return wrapped(line, f"exec {REAL}")


def python_before(*lines: str) -> str:
    """Some Python before the good `train`; when it fails, nothing starts."""
    code = "; ".join(("import json", f"read = lambda name: json.load(open('{CONFIG}/' + name + '.json'))", *lines))
    return before(f"{BIN}/python -c {shlex.quote(code)} || exit 1")


def python(*lines: str) -> str:
    """The good image with another python3."""
    return f"RUN rm {BIN}/python3\n" + write_file(f"{BIN}/python3", "#!/bin/bash", *lines)


RAW = f"""
import json, os, sys
told = json.load(open("{CONFIG}/hyperparameters.json"))
words = [word for name, value in told.items() for word in ("--" + name, value)]
os.execv(sys.executable, [sys.executable, "{PROGRAM}", *words])
""".strip().replace("\n", "; ")
"""A launcher that passes every value on as it stands in the file."""


@dataclass(frozen=True)
class Bad:
    """One image that breaks one clause."""

    clause: str
    dockerfile: str
    """What follows FROM."""
    says: str
    """Part of the evidence."""
    kind: str = "training"
    max_gb: float = 20.0
    name: str = ""
    """Beside the clause, when it has several bad images."""
    hangs: bool = False
    """Its fault is that something never comes: the check waits for the whole of a limit."""

    @property
    def id(self) -> str:
        """For tests and tags."""
        return f"{self.clause}{'-' if self.name else ''}{self.name}"

    def build(self) -> str:
        """Build it and return its tag."""
        return build(f"slipway-check-bad:{self.id}", f"FROM {GOOD}\n{self.dockerfile}\n")


KEY = "\n".join(
    ("-----BEGIN RSA " + "PRIVATE KEY-----", "MIIEpAIBAAKCAQEA" + "x7Jq" * 40, "-----END RSA " + "PRIVATE KEY-----")
)
AWS_ID = "AKIA" + "QYLPMN5HBGT2WXKD"

BAD = (
    Bad("entrypoint-form", f"ENTRYPOINT exec {BIN}/train", "/bin/sh"),
    Bad("default-command", 'CMD ["bash"]', "exit code 0"),
    Bad("other-commands", f'ENTRYPOINT ["{BIN}/train"]', "sh -c 'exit 5'"),
    Bad("client-tools", f"RUN rm {BIN}/pip3", "pip or pip3"),
    Bad("workdir", "WORKDIR /srv/app\nUSER 1000", "may not write to /srv/app"),
    Bad("opt-ml", "RUN echo old > /opt/ml/model/weights.bin", "/opt/ml/model/weights.bin"),
    Bad("labels", "LABEL " + " ".join(f"team.label{number}=x" for number in range(11)), "at most 10"),
    Bad("size", "RUN true", "allowed 0.1 GB", max_gb=0.1),
    Bad("secrets-layers", write_file("/root/key.pem", *KEY.split("\n")), "/root/key.pem: a private key"),
    Bad(
        "secrets-layers",
        "RUN echo 'machine example.org login me password x1' > /root/.netrc\nRUN rm /root/.netrc",
        "/root/.netrc",
        name="removed",
    ),
    Bad("secrets-layers", f"RUN echo 'key = \"{AWS_ID}\"' > /opt/ml/code/train.py", "an AWS access key", name="aws"),
    Bad("secrets-environment", "ENV WANDB_API_KEY=9f86d081884c7d659a2feaa0c55ad015", "ENV WANDB_API_KEY"),
    Bad(
        "secrets-environment",
        "ARG PIP_TOKEN=9f86d081884c7d659a2feaa0\nRUN echo $PIP_TOKEN > /dev/null",
        "PIP_TOKEN in the build",
        name="argument",
    ),
    Bad("start", f"RUN rm {BIN}/train", "executable file not found"),
    Bad("start", 'ENTRYPOINT ["echo"]', "did not run", name="swallowed"),
    Bad(
        "config-files",
        python_before(
            "told = read('hyperparameters')",
            "del told['lr']",
            f"json.dump(told, open('{CONFIG}/hyperparameters.json', 'w'))",
        ),
        "changed: lr",
    ),
    Bad("variables", wrapped(f"exec {BIN}/python {PROGRAM}"), "SM_MODEL_DIR"),
    Bad("channels", before("rm -r /opt/ml/input/data/training/deep"), "deep/part-2.csv"),
    Bad(
        "channel-names",
        before('for path in /opt/ml/input/data/*; do export "DATA_$(basename "$path")=$path" || exit 1; done'),
        "not a valid identifier",
    ),
    Bad(
        "pipe",
        python_before("import os", "[os.listdir('/opt/ml/input/data/' + name) for name in read('inputdataconfig')]"),
        "FileNotFoundError",
    ),
    Bad(
        "pipe-early",
        before("if [ -p /opt/ml/input/data/training_0 ]; then exec 3< /opt/ml/input/data/training_0; fi"),
        "held it open",
        hangs=True,
    ),
    Bad("fastfile", before("find /opt/ml/input/data -type f -exec cat {} + > /dev/null"), "MB were fetched"),
    Bad(
        "manifest",
        before(
            'for c in /opt/ml/input/data/*; do [ ! -f "$c" ] || { echo "channel $c: Not a directory"; exit 1; }; done'
        ),
        "training-manifest: Not a directory",
    ),
    Bad(
        "hyperparameters-plain",
        python_before("[json.loads(v) for v in read('hyperparameters').values() if ' ' in v]"),
        "JSONDecodeError",
    ),
    Bad("hyperparameters-json", wrapped(f"exec {BIN}/python -c {shlex.quote(RAW)}"), "sent 'adam', got '\"adam\"'"),
    Bad("hyperparameters-exact", "ENV SLIPWAY_ARGV_DIALECT=toolkit", "123400000.0"),
    Bad(
        "hyperparameters-large", before(f'export ALL="$(cat {CONFIG}/hyperparameters.json)"'), "Argument list too long"
    ),
    Bad("host-suffix", python_before("int(read('resourceconfig')['current_host'].rpartition('-')[2])"), "ValueError"),
    Bad("local-mode", python_before("read('resourceconfig')['current_group_name']"), "KeyError"),
    Bad("exit-success", wrapped(REAL, "exit 3"), "exit code 3"),
    Bad("exit-failure", wrapped(f"{REAL} || true"), "Completed"),
    Bad("exit-code", wrapped(f"{REAL} || exit 1"), "exit code 1"),
    Bad(
        "failure-file",
        wrapped(REAL, "code=$?", "rm -f /opt/ml/output/failure", "exit $code"),
        "no /opt/ml/output/failure",
    ),
    Bad(
        "failure-file",
        wrapped(REAL, "code=$?", "test $code = 0 || printf 'gr\\366\\337er' > /opt/ml/output/failure", "exit $code"),
        "no UTF-8",
        name="latin-1",
    ),
    Bad(
        "failure-cause",
        wrapped(
            REAL,
            "code=$?",
            "file=/opt/ml/output/failure",
            "test $code = 0 || { { env; cat /proc/meminfo; cat $file; } > /tmp/all; cp /tmp/all $file; }",
            "exit $code",
        ),
        "not in the first 1024 characters",
    ),
    Bad("results", wrapped(REAL, "code=$?", "rm -rf /opt/ml/model/*.bin", "exit $code"), "model/weights.bin"),
    Bad("sigterm", wrapped(REAL, "exit $?"), "killed", hangs=True),
    Bad(
        "sigterm",
        wrapped(f"{BIN}/python -c \"import signal; signal.pause()\" & trap 'exit 0' TERM", f"{REAL} & wait $!"),
        "handler never ran",
        name="unheard",
    ),
    Bad("resume", before("rm -rf /opt/ml/checkpoints/*"), "did not find its checkpoint"),
    Bad("zombies", wrapped(f"exec {BIN}/python {PROGRAM}"), "stays as Z"),
    Bad(
        "leftovers",
        wrapped("set -o pipefail", f"{BIN}/python {PROGRAM} 2>&1 | cat"),
        "its child held the output",
        hangs=True,
    ),
    Bad(
        "log-immediate",
        wrapped("set -o pipefail", f"{REAL} 2>&1 | {{ cat > /tmp/log; cat /tmp/log; }}"),
        "did not come",
        hangs=True,
    ),
    Bad("log-unbuffered", wrapped(f"exec {BIN}/python {PROGRAM}"), "stayed in Python's buffer", hangs=True),
    Bad("log-exact", wrapped("set -o pipefail", f"{REAL} 2>&1 | tr -s ' '"), "0 of 2000"),
    Bad("log-secrets", before(f"cat {CONFIG}/hyperparameters.json"), "db_password"),
    Bad("log-secrets", before("env"), "WANDB_API_KEY", name="environment"),
    Bad(
        "log-secrets",
        wrapped(REAL, "code=$?", "test $code = 0 || env >> /opt/ml/output/failure", "exit $code"),
        "failure file shows",
        name="failure",
    ),
    Bad("log-bars", wrapped(f"exec {BIN}/python {PROGRAM}"), "kB of log"),
    Bad("offline", before("grep -q eth0 /proc/net/dev || { echo no index in reach; exit 1; }"), "no index in reach"),
    Bad("user", before("mkdir -p /root/.cache/hub || exit 1"), "Permission denied"),
    Bad("read-only", before("date > /var/log/started || exit 1"), "Read-only file system"),
    Bad("terminal", before("if [ -t 0 ]; then exec bash; fi"), "had not ended by the deadline", hangs=True),
    Bad("hosts", python_before("assert len(read('resourceconfig')['hosts']) == 1"), "AssertionError"),
    Bad("host-lost", wrapped(f"exec {BIN}/python {PROGRAM}"), "worked on until it was killed", hangs=True),
    Bad("process-start", f"RUN rm {BIN}/python3 /usr/bin/python3", "did not run", kind="processing"),
    Bad("process-arguments", python("exec /usr/bin/python3 $*"), "the script got", kind="processing"),
    Bad("process-code", python('/usr/bin/python3 "$@" || exit 1'), "exit code 1", kind="processing"),
    Bad(
        "process-message",
        python('/usr/bin/python3 "$@"', "code=$?", "printf 'gr\\366\\337er' > /opt/ml/output/message", "exit $code"),
        "no UTF-8",
        kind="processing",
    ),
)
"""At least one for every clause."""
