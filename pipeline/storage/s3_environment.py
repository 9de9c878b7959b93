"""S3 settings from the environment: the standard AWS variables, and defaults that go with them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

# These identify the machine and are not the user's choice: another machine has its own.
_OF_ONE_MACHINE = ("AWS_CONTAINER_", "AWS_LAMBDA_", "AWS_EXECUTION_ENV", "AWS_WEB_IDENTITY_TOKEN_FILE")
SECRET = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
"""Variables whose values are credentials."""


@dataclass(frozen=True)
class Settings:
    """The settings that clients are made with."""

    variables: tuple[tuple[str, str], ...] = field(repr=False)
    """Names and values of `worker_environment`, sorted. The values may be credentials."""

    @classmethod
    def of_environment(cls) -> Settings:
        """Return the current settings."""
        return cls(tuple(sorted(worker_environment().items())))

    def value(self, name: str) -> str:
        """Return a variable's value; "" if it is not set."""
        return dict(self.variables).get(name, "")

    @property
    def anonymous(self) -> bool:
        """Whether requests are unsigned, for public buckets (`AWS_NO_SIGN_REQUEST`, as in GDAL)."""
        return self.value("AWS_NO_SIGN_REQUEST").lower() in ("yes", "true", "1")


def request_payer() -> str:
    """Return the value of the header x-amz-request-payer: who pays for requests (`AWS_REQUEST_PAYER`, as in GDAL)."""
    return os.environ.get("AWS_REQUEST_PAYER", "")


def set_defaults() -> None:
    """Add `defaults` to this process's environment, which Arrow's client and s3fs read."""
    os.environ.update(defaults(os.environ))


def is_aws(endpoint: str) -> bool:
    """Say whether an endpoint is Amazon's own."""
    return bool(re.search(r"\.amazonaws\.com(\.cn)?$", urlsplit(endpoint).hostname or ""))


def defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that the given ones imply and that are not set."""
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    wanted = {}
    if endpoint and not is_aws(endpoint):
        # Current SDKs send uploads in chunks with trailing checksums, which many other stores refuse.
        wanted["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
        wanted["AWS_RESPONSE_CHECKSUM_VALIDATION"] = "when_required"
    if endpoint or environment.get("AWS_ACCESS_KEY_ID") or environment.get("AWS_NO_SIGN_REQUEST"):
        # The EC2 metadata service is then not asked for credentials; where there is none, that takes seconds.
        wanted["AWS_EC2_METADATA_DISABLED"] = "true"
    return {name: value for name, value in wanted.items() if name not in environment}


def worker_environment() -> dict[str, str]:
    """Return the `AWS_*` variables that processes on other machines need to find the same store.

    These are all that this process has, except those that belong to one machine, plus `defaults`. The values may be
    credentials: never log them.
    """
    mine = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("AWS_") and not name.startswith(_OF_ONE_MACHINE)
    }
    return mine | defaults(mine)
