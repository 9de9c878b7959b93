"""Settings of Google Cloud Storage and Azure Blob Storage from the environment: the variables that obstore reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import StorageError


@dataclass(frozen=True)
class Cloud:
    """One of the two, by the names of its variables."""

    scheme: str
    container: str
    """What it calls a bucket."""
    endpoint: tuple[str, ...]
    """Where its requests go; without one, to the company's own servers."""
    identity: tuple[str, ...]
    """Say who sends requests; the machine's own role does, if none of these is set."""
    others: tuple[str, ...]
    """Further settings."""
    to_set: str
    """What to set, for somebody who has set nothing."""
    default_file: str = ""
    """A file with credentials that is looked for below the home folder."""

    @property
    def variables(self) -> tuple[str, ...]:
        """All names."""
        return (*self.endpoint, *self.identity, *self.others)

    def address(self) -> str:
        """Return the endpoint that is set, or "".

        Raises:
            StorageError: it is no address.
        """
        name = next((name for name in self.endpoint if os.environ.get(name)), "")
        address = os.environ.get(name, "")
        if address and not _is_server(address):
            raise StorageError(f"{name} must be an address such as https://host:port")
        return address

    def is_known(self) -> bool:
        """Say whether anything says who sends requests; the role of a machine may, where the endpoint is the usual."""
        if any(os.environ.get(name) for name in self.identity):
            return True
        return not self.address() or bool(self.default_file and (Path.home() / self.default_file).is_file())


def _is_server(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its port is no number, or too large
        return False


CLOUDS = {
    "gs": Cloud(
        scheme="gs",
        container="bucket",
        endpoint=("GOOGLE_BASE_URL",),
        identity=(
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_SERVICE_ACCOUNT",
            "GOOGLE_SERVICE_ACCOUNT_PATH",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "GOOGLE_BEARER_TOKEN",
            "GOOGLE_SKIP_SIGNATURE",
        ),
        others=(),
        to_set="GOOGLE_APPLICATION_CREDENTIALS to a service account's file, or GOOGLE_SKIP_SIGNATURE=true for reading "
        "a public bucket",
        default_file=".config/gcloud/application_default_credentials.json",
    ),
    "az": Cloud(
        scheme="az",
        container="container",
        endpoint=("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
        identity=(
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_ACCESS_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_SAS_KEY",
            "AZURE_STORAGE_TOKEN",
            "AZURE_STORAGE_CLIENT_SECRET",
            "AZURE_CLIENT_SECRET",
            "AZURE_USE_AZURE_CLI",
            "AZURE_SKIP_SIGNATURE",
        ),
        others=(
            "AZURE_STORAGE_ACCOUNT_NAME",
            "AZURE_STORAGE_CLIENT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_STORAGE_TENANT_ID",
            "AZURE_TENANT_ID",
            "AZURE_STORAGE_AUTHORITY_HOST",
            "AZURE_AUTHORITY_HOST",
        ),
        to_set="AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or "
        "AZURE_SKIP_SIGNATURE=true for reading a public container",
    ),
}

SECRET = (
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_BEARER_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
)
"""Variables whose values are credentials."""


def worker_environment() -> dict[str, str]:
    """Return those of the variables that are set. The values may be credentials: never log them."""
    names = [name for cloud in CLOUDS.values() for name in cloud.variables]
    return {name: os.environ[name] for name in names if name in os.environ}
