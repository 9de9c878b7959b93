"""The client that talks to S3: made from the environment, with errors of Python's own kinds, tried again here.

botocore does not retry here: `retrying` does, so that retries are counted and a body that breaks off is among them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any, TypeVar

import botocore.session
import pyarrow.fs as pafs
from botocore import UNSIGNED
from botocore import exceptions as boto
from botocore.config import Config

from pipeline.storage import s3_environment
from pipeline.storage.retrying import StoreAwayError, TransientError, max_attempts, retrying

T = TypeVar("T")

CONNECT_SECONDS = 10
READ_SECONDS = 30
"""A connection on which nothing arrives for so long has failed."""
_CONNECTIONS = 64

BUSY = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException",
         "RequestLimitExceeded", "BandwidthLimitExceeded", "OperationAborted"}  # fmt: skip
_STRANGER = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_NO_CREDENTIALS = ("no usable credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
                   "or AWS_NO_SIGN_REQUEST=YES for a public bucket")  # fmt: skip

_making = Lock()


class CredentialsError(PermissionError, StoreAwayError):
    """The store does not know who asks, or not any more: tokens expire in the middle of a run."""


def _client() -> Any:
    with _making:  # making clients is not thread-safe, using them is
        return _client_for(tuple(sorted(s3_environment.worker_environment().items())))


@lru_cache(maxsize=4)
def _client_for(_environment: tuple[tuple[str, str], ...]) -> Any:
    os.environ.update(s3_environment.defaults(os.environ))  # Arrow's client and Ray's read them, too
    session = botocore.session.Session()
    # Dates are never read, and parsing them is half of the time of a listing.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    config = Config(
        signature_version=UNSIGNED if s3_environment.is_anonymous() else None,
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=_CONNECTIONS,
    )
    return session.create_client("s3", config=config)


def arrow_filesystem(bucket: str) -> pafs.FileSystem:
    """Return Arrow's file system for a bucket, with the same endpoint, region and patience as this module."""
    client = _client()
    endpoint, region = client.meta.endpoint_url, client.meta.region_name
    on_aws = s3_environment.is_aws(endpoint)
    return _arrow_filesystem(
        endpoint="" if on_aws else endpoint,
        region=_bucket_region(bucket, region) if on_aws else region,
        anonymous=s3_environment.is_anonymous(),
        virtual=(client.meta.config.s3 or {}).get("addressing_style") == "virtual",
        attempts=max_attempts(),
        environment=tuple(sorted(s3_environment.worker_environment().items())),
    )


@lru_cache
def _bucket_region(bucket: str, otherwise: str) -> str:
    try:
        return str(pafs.resolve_s3_region(bucket))
    except OSError:  # a private network may hide what this asks
        return otherwise


@lru_cache(maxsize=16)
def _arrow_filesystem(
    *,
    endpoint: str,
    region: str,
    anonymous: bool,
    virtual: bool,
    attempts: int,
    environment: tuple[tuple[str, str], ...],  # noqa: ARG001  (part of the cache's key)
) -> pafs.FileSystem:
    return pafs.S3FileSystem(
        endpoint_override=endpoint or None,
        region="us-east-1" if region == "aws-global" else region,
        anonymous=anonymous,
        force_virtual_addressing=virtual,
        allow_delayed_open=True,  # makes a small file one PUT
        connect_timeout=CONNECT_SECONDS,
        request_timeout=READ_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )


def call(uri: str, operation: Callable[[Any], T]) -> T:
    """Run an operation with a client, again after each fault of the moment, with this module's errors."""

    def attempt() -> T:
        try:
            return operation(_client())
        except (boto.BotoCoreError, boto.ClientError) as error:
            raise _translated(error, uri) from None  # the cause may hold what a message must not

    return retrying(attempt)


def _translated(error: Exception, uri: str) -> OSError:
    if isinstance(error, boto.ClientError):
        return _refused(error, uri)
    message = s3_environment.redact(f"{uri}: {error}")
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.ProfileNotFound):
        return CredentialsError(f"{uri}: {_NO_CREDENTIALS} ({s3_environment.redact(str(error))})")
    if isinstance(error, boto.SSLError):
        return OSError(message)
    # A body that breaks off in the middle of XML is a parser's error.
    # botocore's ConnectionError is a connection that cannot be made, its HTTPClientError one that breaks.
    lost = boto.ConnectionError | boto.HTTPClientError | boto.IncompleteReadError
    if isinstance(error, lost) or "ResponseParserError" in repr(type(error)):
        return TransientError(message)
    return OSError(message)


def _refused(error: boto.ClientError, uri: str) -> OSError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    reason = error.response.get("Error", {}).get("Message") or code
    message = s3_environment.redact(f"{uri}: {code}: {reason}")
    if code in BUSY or status in (408, 429) or (status >= 500 and status != 501):
        return TransientError(message)
    if code in _STRANGER:
        return CredentialsError(message)
    if status in (401, 403) or code == "AccessDenied":
        return PermissionError(message)
    return FileNotFoundError(message) if status == 404 else OSError(message)
