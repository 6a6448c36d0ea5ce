"""What a job is given: start command, configuration, channels, hyperparameters."""

from __future__ import annotations

from runtime.check.clause import API, GUIDE, SDK_V2, SDK_V3, Clause, Judgement, broken, holds
from runtime.check.clauses.common import judge_again, judge_hyperparameters
from runtime.check.lab import BASE_CHANNELS, BASE_HYPERPARAMETERS, Lab, Setup

EXACT = {"commit": "1234e5", "nothing": "null", "zip": "007", "switch": "true", "rate": "1e-4"}
"""Strings that a reader which guesses types changes."""
AWKWARD = {"optimizer": "adam", "text": "two words", "shell": "a \"b\" $HOME; `id` 'c' *", "unicode": "größer 你好"}
ENCODED = {"optimizer": "adam", "text": "two words", "lr": "0.1", "epochs": "3"}
ODD_CHANNELS = {name: {"rows.txt": name} for name in ("val.2026", "my-data", "Train_2", "7")}
MOST_HYPERPARAMETERS = 100
LONGEST_VALUE = 2500
VARIABLES = ("SM_HOSTS", "SM_CURRENT_HOST", "SM_MODEL_DIR", "SM_CHANNEL_TRAINING", "SM_HPS", "SM_OUTPUT_DATA_DIR")


def _start(lab: Lab) -> Judgement:
    trial = lab.base()
    if lab.job:
        return holds("the job that you gave ran to its end") if trial.exit_code == 0 else broken(trial.ending)
    if trial.seen is not None:
        return holds(f"our program ran, Python {trial.seen['python']}")
    if lab.own:
        return holds("exit code 0 and a model without our program: the image runs an algorithm of its own")
    return broken(f"our program did not run: {trial.ending}")


def _config(lab: Lab) -> Judgement:
    trial = lab.base()
    config = (trial.seen or {}).get("config", {})
    wanted = {"hyperparameters.json", "inputdataconfig.json", "resourceconfig.json"}
    if not wanted <= set(config):
        return broken(f"the program found {sorted(config)} in /opt/ml/input/config, not {sorted(wanted)}")
    told = config["hyperparameters.json"]
    changed = [name for name, value in BASE_HYPERPARAMETERS.items() if told.get(name) != value]
    if changed:
        return broken(f"hyperparameters.json was changed: {', '.join(changed)}")
    return holds("all three files as the platform wrote them")


def _variables(lab: Lab) -> Judgement:
    environ = (lab.base().seen or {}).get("environ", {})
    missing = [name for name in VARIABLES if name not in environ]
    if missing:
        return broken(f"{len(environ)} SM_* variables, not among them {', '.join(missing)}")
    return holds(f"{len(environ)} SM_* variables")


def _channels(lab: Lab) -> Judgement:
    found = (lab.base().seen or {}).get("channels", {})
    for name, files in BASE_CHANNELS.items():
        if found.get(name) != files:
            return broken(f"channel {name}: sent {sorted(files)}, the program read {found.get(name)!r}")
    return holds("every file of the channel, byte for byte")


def _odd_channels(lab: Lab) -> Judgement:
    trial = lab.run(Setup(channels=ODD_CHANNELS))
    if trial.seen is None:
        return broken(trial.ending)
    wrong = [name for name, files in ODD_CHANNELS.items() if trial.seen["channels"].get(name) != files]
    return broken(f"not read: {', '.join(wrong)}") if wrong else holds(f"read: {', '.join(ODD_CHANNELS)}")


def _plain(lab: Lab) -> Judgement:
    return judge_hyperparameters(lab.run(Setup(hyperparameters=AWKWARD)), AWKWARD)


def _encoded(lab: Lab) -> Judgement:
    return judge_hyperparameters(lab.run(Setup(hyperparameters=ENCODED, encode=True)), ENCODED)


def _exact(lab: Lab) -> Judgement:
    return judge_hyperparameters(lab.run(Setup(hyperparameters=EXACT)), EXACT)


def _large(lab: Lab) -> Judgement:
    rest = MOST_HYPERPARAMETERS - len(BASE_HYPERPARAMETERS) - 2  # program and directory are hyperparameters too
    values = {f"option_{number}": f"{number}-" + "x" * (LONGEST_VALUE - 4) for number in range(rest)}
    return judge_hyperparameters(lab.run(Setup(hyperparameters=values)), values)


def _host_suffix(lab: Lab) -> Judgement:
    host = "algo-1-x7jf7"
    return judge_again(lab, "host-suffix", Setup(host=host, hosts=(host,)), f"ran as {host}")


def _local_mode(lab: Lab) -> Judgement:
    setup = Setup(
        resources={
            "current_host": "algo-1",
            "hosts": ["algo-1"],
            "network_interface_name": "ethwe",
            "current_instance_type": "local",
        },
        inputs={key: {"TrainingInputMode": "File"} for key in (*BASE_CHANNELS, "code")},
    )
    return judge_again(lab, "local-mode", setup, "ran with four keys and an interface that is not there")


CLAUSES = (
    Clause(
        id="start",
        title="`docker run IMAGE train` runs the job",
        level="must",
        why="this is what the platform calls; everything else rests on it",
        source=f"{GUIDE}, how SageMaker runs your training image",
        tried="a job of one host: sagemaker_program with code in a channel, or the job that you gave",
        change="an executable `train` on PATH that runs the job's program; for an algorithm of the image's own, give "
        "it a job that it accepts (--job, --hp, --channel)",
        judge=_start,
        needs=(),
        ours=False,
    ),
    Clause(
        id="config-files",
        title="the program finds the platform's configuration",
        level="must",
        why="programs read /opt/ml/input/config themselves",
        source=f"{GUIDE}, how SageMaker provides training information",
        tried="our program reads hyperparameters, channels and hosts",
        change="leave /opt/ml/input as it is",
        judge=_config,
    ),
    Clause(
        id="variables",
        title="the program gets the SM_* variables",
        level="should",
        why="scripts written for SageMaker read SM_MODEL_DIR and SM_CHANNEL_*",
        source="sagemaker-training toolkit; SDK v3 drivers",
        tried="our program lists its environment",
        change="export them before the program, or use a launcher that does",
        judge=_variables,
    ),
    Clause(
        id="channels",
        title="a File channel can be read",
        level="must",
        why="this is the job's data",
        source=f"{GUIDE}: /opt/ml/input/data/CHANNEL",
        tried="our program reads every file, one in a directory below",
        change="neither move nor copy the channels before the program runs",
        judge=_channels,
    ),
    Clause(
        id="channel-names",
        title="unusual channel names work",
        level="must",
        why="dots, dashes and digits are allowed, and shells trip over them",
        source=f"{API}: ChannelName [A-Za-z0-9.-_]+",
        tried=f"channels {', '.join(ODD_CHANNELS)}",
        change="make no shell variables from channel names",
        judge=_odd_channels,
    ),
    Clause(
        id="hyperparameters-plain",
        title="plain strings reach the program",
        level="must",
        why="boto3, the console, pipelines and tuning jobs send them so",
        source=f"{API}; sagemaker-containers issue 179",
        tried="words, blanks, quotes, shell signs, other alphabets",
        change="take what is no JSON as it is, and start programs with a list of arguments, never through a shell",
        judge=_plain,
    ),
    Clause(
        id="hyperparameters-json",
        title="JSON-encoded values reach the program decoded",
        level="must",
        why='the framework estimators of SDK v2 send "\\"adam\\"", and the program wants adam',
        source=SDK_V2,
        tried="every value as JSON, the program's name too",
        change="decode a value that is a JSON string",
        judge=_encoded,
    ),
    Clause(
        id="hyperparameters-exact",
        title="strings that look like numbers stay what they are",
        level="should",
        why="1234e5 may be a commit; guessing makes it 123400000.0",
        source="sagemaker-training 5.1.4, measured",
        tried=", ".join(EXACT.values()),
        change="pass plain strings on as they are; let the program choose the type",
        judge=_exact,
        toolkit="every value is read as JSON and printed again",
    ),
    Clause(
        id="hyperparameters-large",
        title="a hundred long hyperparameters work",
        level="must",
        why="the API allows them; as one variable they are longer than Linux lets a variable be (128 KiB)",
        source=f"{API}: 100 values of 2500 characters",
        tried="just that",
        change="keep long values out of the environment; the file has them",
        judge=_large,
        toolkit="SM_HPS and SM_TRAINING_ENV hold all values at once",
    ),
    Clause(
        id="host-suffix",
        title="host names with a suffix work",
        level="must",
        why="local mode of SDK v2 calls hosts algo-1-x7jf7",
        source=SDK_V2,
        tried="current_host algo-1-x7jf7",
        change="take names and their order from resourceconfig.json, and expect no pattern",
        judge=_host_suffix,
        ours=False,
    ),
    Clause(
        id="local-mode",
        title="the short files of local mode are enough",
        level="must",
        why="SDKs write neither groups nor distribution types, and name an interface that does not exist",
        source=SDK_V3,
        tried="resourceconfig.json with four keys and interface ethwe, channels with TrainingInputMode alone",
        change="treat every key but current_host and hosts as optional",
        judge=_local_mode,
        ours=False,
    ),
)
