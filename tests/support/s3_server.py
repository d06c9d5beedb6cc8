"""A server of the tests' own that speaks S3 and checks signatures: moto, in an environment that uv makes for it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from paths import TESTS
from python_clients import install_packages

_FOLDER = TESTS / "s3"


@dataclass(frozen=True)
class S3Server:
    """Where it is, and who may use its bucket `payloads`; the bucket `others` is there for others."""

    endpoint: str
    key: str
    secret: str
    process: subprocess.Popen[str]

    @property
    def variables(self) -> dict[str, str]:
        """What a program that speaks S3 wants in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }


@contextlib.contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """A server for as long as it is needed; the test is skipped where its packages cannot be had."""
    try:
        python = install_packages(_FOLDER / "requirements.lock")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the packages of tests/s3/requirements.lock cannot be installed here: {error}")
    process = subprocess.Popen(
        [str(python), str(_FOLDER / "server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        try:
            line = process.stdout.readline()
            assert line, "the S3 server did not start"
            yield S3Server(**json.loads(line), process=process)
        finally:
            process.stdin.close()
            process.kill()
