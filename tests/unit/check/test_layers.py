"""Secrets in saved images of both forms, and in their configuration."""

import gzip
import io
import json
import tarfile

from runtime.check.layers import Scan, scan_archive, secrets_of_configuration

KEY = b"-----BEGIN RSA " + b"PRIVATE KEY-----\n" + b"MIIEpAIBAAKCAQEAx7Jq" * 8 + b"\n-----END\n"
AWS_ID = b"AKIA" + b"QYLPMN5HBGT2WXKD"


def archive(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return made.getvalue()


def scan(*layers: dict[str, bytes]) -> Scan:
    held = {f"{number:064x}/layer.tar": archive(files) for number, files in enumerate(layers)}
    return scan_archive(io.BytesIO(archive({"manifest.json": b"[]", **held})))


def test_keys_and_credentials_are_found_by_name_and_by_text() -> None:
    found = scan(
        {"root/.netrc": b"machine x", "root/.aws/credentials": b"[default]", "app/id.pem": KEY},
        {"etc/ssh/ssh_host_rsa_key": b"x", "opt/ml/code/train.py": b"key = '" + AWS_ID + b"'"},
    )
    assert found.layers == 2
    assert found.files == 5
    assert found.found == (
        "/root/.netrc: logins",
        "/root/.aws/credentials: AWS credentials",
        "/app/id.pem: a private key",
        "/etc/ssh/ssh_host_rsa_key: a host's private key",
        "/opt/ml/code/train.py: an AWS access key",
    )


def test_a_file_that_a_later_layer_removes_is_found() -> None:
    assert scan({"root/.netrc": b"machine x"}, {"root/.wh..netrc": b""}).found == ("/root/.netrc: logins",)


def test_examples_of_libraries_certificates_and_public_keys_are_no_secrets() -> None:
    certificate = KEY.replace(b"RSA PRIVATE KEY", b"CERTIFICATE")
    found = scan(
        {
            "usr/lib/python3/dist-packages/tornado/test/test.key": KEY,
            "usr/share/doc/openssl/key.pem": KEY,
            "usr/lib/python3/dist-packages/botocore/auth.py": AWS_ID,
            "etc/ssl/certs/ca.pem": certificate,
            "root/.ssh/id_rsa.pub": b"ssh-rsa AAAA",
            "app/readme": b"-----BEGIN RSA " + b"PRIVATE KEY-----\n...\n",
            "root/.netrc": b"",
            "lib/big.bin": b"\0" + KEY,
        }
    )
    assert found.found == ()
    assert found.files == 8


def test_layers_of_the_oci_form_are_read_compressed_or_not() -> None:
    plain = archive({"root/.pypirc": b"[pypi]"})
    packed = gzip.compress(archive({"root/.git-credentials": b"https://me@x"}))
    blobs = {"a": plain, "b": packed, "c": json.dumps({"config": {}}).encode()}
    made = archive({f"blobs/sha256/{name}": text for name, text in blobs.items()})
    found = scan_archive(io.BytesIO(made))
    assert found.found == ("/root/.pypirc: logins", "/root/.git-credentials: logins")
    assert found.layers == 2


def test_configuration_names_secrets_and_never_their_values() -> None:
    value = "9f86d081884c7d659a2feaa0c55ad015"
    found = secrets_of_configuration(
        {"WANDB_API_KEY": value, "PATH": "/usr/bin", "LAST": AWS_ID.decode()},
        {"org.opencontainers.image.licenses": "MIT"},
        [f"|1 PIP_TOKEN={value} /bin/sh -c pip install x", "/bin/sh -c curl -H $API_TOKEN && X_TOKEN=$Y run"],
    )
    assert found == ["ENV WANDB_API_KEY", "ENV LAST", "PIP_TOKEN in the build's history"]
