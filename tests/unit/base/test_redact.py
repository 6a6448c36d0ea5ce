"""Secrets stay out of what we say, and everything else stays in."""

import random
import string
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from runtime.base.redact import (
    MASK,
    forget,
    is_secret,
    is_secret_name,
    learn,
    redact,
    redact_values,
    redact_words,
)


@pytest.fixture(autouse=True)
def _nothing_learnt() -> Iterator[None]:
    forget()
    yield
    forget()


def drawn(count: int, signs: str = string.ascii_letters + string.digits) -> str:
    """Draw a credential's body: none may stand in this file."""
    return "".join(random.Random(count).choices(signs, k=count))


UPPER = string.ascii_uppercase + string.digits
SHAPES = {
    "AWS access key": "AKIA" + drawn(16, UPPER),
    "AWS temporary key": "ASIA" + drawn(16, UPPER),
    "AWS session token": "IQoJ" + drawn(300),
    "GitHub classic": "ghp_" + drawn(36),
    "GitHub fine-grained": "github_pat_" + drawn(60),
    "Hugging Face": "hf_" + drawn(34),
    "OpenAI": "sk-proj-" + drawn(40),
    "Slack": "xoxb-" + drawn(11, string.digits) + "-" + drawn(24),
    "PyPI": "pypi-" + drawn(80),
    "JWT": "eyJ" + drawn(30) + "." + drawn(40) + "." + drawn(43),
    "PEM": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + drawn(64) + "\n-----END RSA " + "PRIVATE KEY-----",
    "PEM, cut off": "-----BEGIN " + "PRIVATE KEY-----\n" + drawn(64),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_credential_is_known_by_its_shape(shape: str) -> None:
    secret = SHAPES[shape]
    told = redact(f"cannot read with {secret}")
    assert told == f"cannot read with {MASK}"
    for piece in secret.split("\n"):
        assert piece[12:40] not in told


@pytest.mark.parametrize("shape", [name for name in SHAPES if not name.startswith("PEM")])
def test_it_is_found_inside_json_quotes_and_urls_too(shape: str) -> None:
    secret = SHAPES[shape]
    for text in (f'{{"x": "{secret}"}}', f"https://host/p?x={secret}&y=1", f"('{secret}',)"):
        assert secret not in redact(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pip: https://me:hunter22@host/simple/ failed", f"pip: https://{MASK}@host/simple/ failed"),
        ("postgres://u:p%40ss@db:5432/x", f"postgres://{MASK}@db:5432/x"),
        (
            "https://aws:tok@d.codeartifact.eu-west-1.amazonaws.com/",
            f"https://{MASK}@d.codeartifact.eu-west-1.amazonaws",
        ),
        ("Authorization: Bearer abCDEF0123456789xyZ", MASK),
        ("password=hunter2", f"password={MASK}"),
        ("db_password: 'two words'", f"db_password: '{MASK}'"),
        ('{"api_key": "short", "lr": "0.1"}', f'{{"api_key": "{MASK}", "lr": "0.1"}}'),
        ("curl --token=abc x", f"curl --token={MASK} x"),
    ],
)
def test_a_value_beside_a_secrets_name_is_masked(text: str, shown: str) -> None:
    assert shown in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "ValueError: invalid literal for int() with base 10: 'key'",
        "SyntaxError: unexpected token: '}'",
        "KeyError: 'token'",
        "the tokenizer has 50257 tokens, pad_token=<pad>, max_tokens=2048, eos_token_id=2",
        "saved step-00000400 to s3://bucket/key/prefix (1.2 GiB, 3.4 s)",
        "git clone git@github.com:me/repo and https://git@host/x",
        "FileNotFoundError: '/opt/ml/input/data/train/asia-task-sk-learn.csv'",
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6) at train.py:27",
        "commit 1234e5 of branch disk-cache",
        "ShardedByS3Key: FullyReplicated; key: value; sort_key=name",
        "digest=sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "Bearer of bad news",
    ],
)
def test_an_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "hf-token",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
        "dbPassword",
        "PGPASSWORD_X",
        "client_secret",
        "private_key",
        "ssh_key",
        "storage_account_key",
        "credentials",
        "SM_HP_API_KEY",
        "access_tokens",
        "passphrase",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "pad_token",
        "eos_token",
        "max_tokens",
        "num_tokens",
        "tokenizer",
        "token_type",
        "key",
        "keys",
        "sort_key",
        "key_column",
        "s3_key",
        "kms_key_id",
        "secret_arn",
        "password_file",
        "token_url",
        "keyboard",
        "monkey",
        "lr",
        "epochs",
        "sagemaker_program",
    ],
)
def test_names_that_only_look_like_it(name: str) -> None:
    assert not is_secret_name(name)


def test_under_a_doubtful_name_the_value_decides() -> None:
    assert is_secret("key", drawn(40))
    assert is_secret("pad_token", drawn(40))
    assert not is_secret("key", "image/train/0001.jpg")
    assert not is_secret("key", "label")


def test_what_was_learnt_is_masked_wherever_it_turns_up() -> None:
    learn({"DB_PASSWORD": "correct horse", "lr": "0.1", "model": "resnet50-pretrained"})
    assert redact("login with correct horse failed for resnet50-pretrained at 0.1") == (
        f"login with {MASK} failed for resnet50-pretrained at 0.1"
    )


def test_the_working_directory_and_paths_are_no_secrets() -> None:
    learn({"PWD": "/opt/ml", "OLDPWD": "/opt/ml/code", "SSH_KEY": "/home/me/.ssh/id_rsa", "TOKEN": "/" + drawn(40)})
    text = "/opt/ml/code/train.py reads /home/me/.ssh/id_rsa"
    assert redact(text) == text
    assert redact(f"x {'/' + drawn(40)}") == f"x {MASK}"


def test_json_encoded_and_nested_values_are_learnt() -> None:
    learn(
        {"hf_token": '"my-quoted-token"', "config": '{"store": {"password": "deep-inside"}, "hosts": ["a-plain-name"]}'}
    )
    told = redact("my-quoted-token deep-inside a-plain-name")
    assert told == f"{MASK} {MASK} a-plain-name"


def test_each_line_of_a_learnt_key_file_is_masked() -> None:
    body = [drawn(60), drawn(61)]
    learn({"ssh_key": "\n".join(body)})
    assert all(line not in redact(f"line: {line}") for line in body)


@pytest.mark.parametrize("value", ["", "1", "true", "None", "12345"])
def test_a_short_secret_does_not_garble_every_text(value: str) -> None:
    learn({"password": value})
    text = f"epoch {value} of 10, true and None"
    assert redact(text) == text
    assert redact_values({"password": value or "x"})["password"] == MASK


def test_values_are_shown_by_name_and_by_shape() -> None:
    shown = redact_values(
        {"HF_TOKEN": "x", "lr": "0.1", "url": "https://u:p4ss@h/", "password": "", "pad_token": "<pad>"}
    )
    assert shown == {
        "HF_TOKEN": MASK,
        "lr": "0.1",
        "url": f"https://{MASK}@h/",
        "password": "",
        "pad_token": "<pad>",
    }


def test_a_command_line_is_shown_without_its_secrets() -> None:
    words = ["python", "train.py", "--password", "-a1b2-", "--lr", "0.1", "--use_auth_token", "--api-key=abc", "x"]
    assert redact_words(words) == [
        "python",
        "train.py",
        "--password",
        MASK,
        "--lr",
        "0.1",
        "--use_auth_token",
        f"--api-key={MASK}",
        "x",
    ]


def test_redacting_twice_changes_nothing_more() -> None:
    for secret in SHAPES.values():
        once = redact(f"password={secret} and https://a:{drawn(9)}@h and {secret}")
        assert redact(once) == once


def test_a_long_text_takes_time_in_proportion_to_its_length() -> None:
    def seconds(length: int) -> float:
        text = "token " + "a" * length + " ://" + "b" * length + "eyJ" * (length // 3) + "-" * length
        took: list[float] = []
        for _ in range(3):
            began = time.perf_counter()
            redact(text)
            took.append(time.perf_counter() - began)
        return min(took)

    # Sixteen times the text: 16x when linear, 256x when quadratic.
    assert seconds(320_000) < 64 * max(seconds(20_000), 1e-3)


def test_a_line_without_marks_compiles_nothing() -> None:
    code = (
        "from runtime.base import redact; redact.learn({'HF_TOKEN': 'abcdefgh', 'lr': '0.1'});"
        "redact.redact('world_size=4 because 2 hosts x 2'); print(redact._Compiled.run);"
        "redact.redact('password=x'); print(redact._Compiled.run)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "None"
    assert second != "None"
