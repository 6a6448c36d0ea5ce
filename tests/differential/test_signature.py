"""Our signature against botocore's, which comes with the oracle's environment."""

import json
import subprocess
from typing import Any

import pytest

from runtime.install.aws import Credentials, Request, sign
from tests.differential.oracle import find_oracle

MOMENT = "20240102T030405Z"
ASK = """
import datetime, json, sys
import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
moment = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
for name in ("get_current_datetime", ):
    setattr(botocore.auth, name, lambda *_, **__: moment.replace(tzinfo=None))
answers = []
for service, region, host, path, query, method, access, secret, token in json.load(sys.stdin):
    kind = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
    url = f"https://{host}{path}" + (f"?{query}" if query else "")
    headers = {} if service == "s3" else {"X-Amz-Content-SHA256":
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    request = AWSRequest(method=method, url=url, headers=headers)
    kind(Credentials(access, secret, token or None), service, region).add_auth(request)
    answers.append({name.lower(): value for name, value in request.headers.items()})
json.dump(answers, sys.stdout)
"""
CASES: list[tuple[str, ...]] = [
    ("s3", "us-east-1", "b.s3.us-east-1.amazonaws.com", "/key", "", "GET", "AKID", "secret", ""),
    ("s3", "eu-west-1", "s3.eu-west-1.amazonaws.com", "/b.c/a%20b/%C3%BC~.tar.gz", "", "GET", "AKID", "s/+c=", "tok=="),
    ("s3", "cn-north-1", "127.0.0.1:9000", "/bucket/deep/er/key", "", "GET", "minio", "minio123", ""),
    (
        "codeartifact", "eu-west-1", "codeartifact.eu-west-1.amazonaws.com", "/v1/authorization-token",
        "domain=d&domain-owner=123456789012", "POST", "AKID", "secret", "session",
    ),
]  # fmt: skip


def test_the_signature_is_botocores() -> None:
    python, reason = find_oracle()
    if python is None:
        pytest.skip(reason)
    done = subprocess.run(
        [str(python), "-c", ASK], input=json.dumps(CASES), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    for case, theirs in zip(CASES, answers, strict=True):
        *asked, access, secret, token = case
        ours = sign(Request(*asked), Credentials(access, secret, token), MOMENT)
        assert ours == {name: theirs[name] for name in ours}
