"""What an image is, before any job runs."""

from __future__ import annotations

from runtime.check.clause import API, BOTH, GUIDE, SDK_V3, TRAINING, Clause, Judgement, broken, holds, untried
from runtime.check.lab import Lab
from runtime.check.layers import scan_layers, secrets_of_configuration

MOST_LABELS = 10
"""AWS Deep Learning Containers keep to it: services that copy labels to tags drop what is above."""
CLIENT_WORDS = ("bash", "chmod", "cat", "tar")
SHELLS = ("sh", "bash", "dash", "ash")


def _entrypoint(lab: Lab) -> Judgement:
    words = lab.facts.entrypoint
    if len(words) >= 2 and words[0].rpartition("/")[2] in SHELLS and words[1] == "-c":
        return broken(f"ENTRYPOINT is {list(words)}: a shell is PID 1, and swallows arguments and signals")
    return holds(f"ENTRYPOINT {list(words)}" if words else "no ENTRYPOINT")


def _default_command(lab: Lab) -> Judgement:
    from runtime.check.clauses.common import judge_again
    from runtime.check.lab import Setup

    return judge_again(lab, "default-command", Setup(command=()), f"CMD {list(lab.facts.command)} runs the job")


def _other_commands(lab: Lab) -> Judgement:
    from runtime.check.lab import Setup

    if not lab.facts.shell:
        return untried("the image has no sh")
    trial = lab.run(Setup(command=("sh", "-c", "echo said by $0; exit 5", "us")))
    if trial.exit_code == 5 and "said by us" in trial.log:
        return holds("sh -c 'exit 5' printed its line and gave exit code 5")
    return broken(f"sh -c 'exit 5': {trial.ending}")


def _client_words(lab: Lab) -> Judgement:
    if not lab.facts.shell:
        return broken("the image has no sh, so no script of a client runs in it")
    have = lab.facts.commands
    missing = [word for word in CLIENT_WORDS if word not in have]
    missing += [f"{word} or {word}3" for word in ("python", "pip") if not {word, f"{word}3"} & have]
    return broken(f"not on PATH: {', '.join(missing)}") if missing else holds("all on PATH")


def _workdir(lab: Lab) -> Judgement:
    if not lab.facts.shell:
        return untried("the image has no sh")
    where, user = lab.facts.config.get("WorkingDir") or "/", lab.facts.user or "?"
    if lab.facts.writes_here:
        return holds(f"uid {user} writes to {where}")
    return broken(f"uid {user} may not write to {where}")


def _baked(lab: Lab) -> Judgement:
    if not lab.facts.shell:
        return untried("the image has no sh to look around with")
    # The toolkit's documentation has users copy their program to /opt/ml/code; nothing is mounted there.
    hidden = [path for path in lab.facts.baked if not path.startswith("/opt/ml/code/")]
    if hidden:
        return broken(f"{len(hidden)} files under /opt/ml, such as {', '.join(hidden[:3])}")
    return holds("no file where the platform mounts")


def _labels(lab: Lab) -> Judgement:
    number = len(lab.facts.labels)
    return holds(f"{number} labels") if number <= MOST_LABELS else broken(f"{number} labels, at most {MOST_LABELS}")


def _size(lab: Lab) -> Judgement:
    biggest = max(lab.facts.history, key=lambda layer: layer.size, default=None)
    told = f"{lab.facts.size / 1e9:.2f} GB in {lab.facts.layers} layers"
    if biggest is not None and biggest.size:
        step = " ".join(biggest.created_by.split())[:80] or "an imported file system"
        told += f"; the biggest, {biggest.size / 1e9:.2f} GB: {step}"
    return holds(told) if lab.facts.size <= lab.max_gb * 1e9 else broken(f"{told}; allowed {lab.max_gb:g} GB")


def _layer_secrets(lab: Lab) -> Judgement:
    scan = scan_layers(lab.image)
    if scan.problem:
        return untried(scan.problem)
    if scan.found:
        return broken(f"{'; '.join(scan.found[:5])}{f' and {len(scan.found) - 5} more' if scan.found[5:] else ''}")
    return holds(f"{scan.files} files in {scan.layers} layers, none a key or a credential")


def _configured_secrets(lab: Lab) -> Judgement:
    steps = [layer.created_by for layer in lab.facts.history]
    found = secrets_of_configuration(lab.facts.environment, lab.facts.labels, steps)
    return broken("; ".join(found[:5])) if found else holds("nothing in ENV, LABEL or the build's history")


CLAUSES = (
    Clause(
        id="entrypoint-form",
        title="ENTRYPOINT is no shell",
        level="must",
        why="A shell as PID 1 gets `train` as its own argument and SIGTERM instead of the program",
        source=f"{GUIDE}, how SageMaker runs your training image: exec form",
        tried="docker image inspect",
        change='write ENTRYPOINT ["program", "argument"], or none at all',
        judge=_entrypoint,
        kinds=BOTH,
        needs=(),
        ours=False,
    ),
    Clause(
        id="default-command",
        title="the image alone runs the job",
        level="should",
        why="local mode of SDK v3 without source code sends neither command nor entrypoint",
        source=SDK_V3,
        tried="docker run IMAGE, without a command",
        change='CMD ["train"]',
        judge=_default_command,
        kinds=TRAINING,
        ours=False,
    ),
    Clause(
        id="other-commands",
        title="any other command runs as it is",
        level="should",
        why="clients clean up with `docker run IMAGE chmod ...`, users look around with a shell",
        source=SDK_V3,
        tried="docker run IMAGE sh -c 'echo ...; exit 5'",
        change='no ENTRYPOINT, or one that ends with exec "$@" for what it does not know',
        judge=_other_commands,
        needs=(),
        ours=False,
    ),
    Clause(
        id="client-tools",
        title="bash, chmod, cat, tar, python and pip are on PATH",
        level="should",
        why="the start script of ModelTrainer looks for them before it runs anything of yours",
        source=SDK_V3,
        tried="command -v in a container",
        change="install what is missing, and set PATH by ENV and not in a login file",
        judge=_client_words,
        kinds=BOTH,
        needs=(),
        ours=False,
    ),
    Clause(
        id="workdir",
        title="the working directory can be written",
        level="should",
        why="programs write caches and logs where they are started",
        source="usual practice; remote functions of SDK v3 unpack their workspace there",
        tried="touch in a container",
        change="WORKDIR to a directory that the image's user owns",
        judge=_workdir,
        kinds=BOTH,
        needs=(),
        ours=False,
    ),
    Clause(
        id="opt-ml",
        title="/opt/ml holds no file of the image",
        level="must",
        why="the platform mounts its own directories there: what the image has is hidden or mixed into the model",
        source=f"{GUIDE}: /opt/ml and all its directories are reserved",
        tried="find in a container; /opt/ml/code is left to the image",
        change="keep programs in /opt/ml/code or elsewhere, weights outside /opt/ml",
        judge=_baked,
        kinds=BOTH,
        needs=(),
        ours=False,
    ),
    Clause(
        id="labels",
        title=f"at most {MOST_LABELS} labels",
        level="should",
        why="registries and services that copy labels cut the list off",
        source="AWS Deep Learning Containers keep this limit",
        tried="docker image inspect",
        change="drop labels, or join them",
        judge=_labels,
        kinds=BOTH,
        needs=(),
        ours=False,
    ),
    Clause(
        id="size",
        title="the size is what you allow",
        level="should",
        why="every job start pulls the image on every host, and bills the time",
        source=f"{API}: billable seconds begin after the pull of warm hosts only; your --max-size",
        tried="docker image inspect and history",
        change="look at the biggest layer first; caches, compilers and a second CUDA go",
        judge=_size,
        kinds=BOTH,
        needs=(),
        ours=False,
    ),
    Clause(
        id="secrets-layers",
        title="no secret lies in a layer",
        level="must",
        why="whoever may pull the image has it, also when a later layer removes the file",
        source="security of images; AWS Deep Learning Containers shipped an SSH key once",
        tried="docker save; every layer's names and small files, removed ones too",
        change="mount secrets at build time (RUN --mount=type=secret), make keys at start, revoke what was in there",
        judge=_layer_secrets,
        kinds=BOTH,
        needs=(),
        ours=False,
    ),
    Clause(
        id="secrets-environment",
        title="no secret stands in the image's configuration",
        level="must",
        why="ENV, LABEL and build arguments can be read by all who may pull, and by every process of the job",
        source="security of images",
        tried="docker image inspect and history",
        change="give it to the job (Environment, Secrets Manager), and revoke what was in there",
        judge=_configured_secrets,
        kinds=BOTH,
        needs=(),
        ours=False,
    ),
)
