"""The S3 client: made from the environment, with Python's own types of errors, and retries of its own.

`retrying` repeats requests, not botocore, so that retries are counted and bodies that break off are retried too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from threading import Lock
from typing import Any, TypeVar

import botocore.session
import pyarrow.fs as pafs
from botocore import UNSIGNED
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError

from pipeline.storage import s3_environment
from pipeline.storage.environment import redact
from pipeline.storage.retrying import CredentialsError, TransientError, max_attempts, retrying

T = TypeVar("T")

CONNECT_SECONDS = 10
READ_SECONDS = 30
"""Seconds without data after which a connection counts as failed."""
_CONNECTIONS = 64

BUSY = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException",
         "RequestLimitExceeded", "BandwidthLimitExceeded", "OperationAborted"}  # fmt: skip
_STRANGER = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed",
             "RequestExpired", "TokenRefreshRequired", "AccountProblem", "NotSignedUp"}  # fmt: skip
"""Codes for unknown credentials or a wrong clock on this machine, so that no object is at fault."""
_NO_CREDENTIALS = ("no usable credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
                   "or AWS_NO_SIGN_REQUEST=YES for a public bucket")  # fmt: skip

_OR_PAY = " (no right to it, or a bucket whose readers pay: that takes AWS_REQUEST_PAYER=requester)"
_ELSEWHERE = " (the bucket lies in another region; set AWS_REGION to it)"
_REMARKS = {
    "InvalidObjectState": " (archived: restore it first)",
    "RequestTimeTooSkewed": " (this machine's clock is wrong)",
    "PermanentRedirect": _ELSEWHERE, "AuthorizationHeaderMalformed": _ELSEWHERE,
}  # fmt: skip
_CHECKSUMS = {"AWS_REQUEST_CHECKSUM_CALCULATION": "request_checksum_calculation",
              "AWS_RESPONSE_CHECKSUM_VALIDATION": "response_checksum_validation"}  # fmt: skip

_making = Lock()


def _client() -> Any:
    with _making:  # making clients is not thread-safe, using them is
        return _client_for(s3_environment.Settings.of_environment())


@lru_cache(maxsize=4)
def _client_for(settings: s3_environment.Settings) -> Any:
    session = botocore.session.Session()
    # Dates are not used, and parsing them takes half of the time of a listing.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    if settings.value("AWS_EC2_METADATA_DISABLED").lower() == "true":
        session.get_component("credential_provider").remove("iam-role")
    checksums = {option: settings.value(name).lower() for name, option in _CHECKSUMS.items() if settings.value(name)}
    config = Config(
        signature_version=UNSIGNED if settings.anonymous else None,
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=_CONNECTIONS,
        **checksums,
    )
    client = session.create_client("s3", config=config)
    if payer := settings.value("AWS_REQUEST_PAYER"):
        client.meta.events.register("before-call.s3", partial(_say_who_pays, payer))
    return client


def _say_who_pays(payer: str, params: dict[str, Any], **_: Any) -> None:
    params["headers"]["x-amz-request-payer"] = payer


def arrow_filesystem(bucket: str) -> pafs.FileSystem:
    """Return Arrow's file system for a bucket, with this module's endpoint, region, time limits and retries."""
    client = _client()
    endpoint, region = client.meta.endpoint_url, client.meta.region_name
    on_aws = s3_environment.is_aws(endpoint)
    return _arrow_filesystem(
        s3_environment.Settings.of_environment(),
        endpoint="" if on_aws else endpoint,
        region=_bucket_region(bucket, region) if on_aws else region,
        virtual=(client.meta.config.s3 or {}).get("addressing_style") == "virtual",
        attempts=max_attempts(),
    )


@lru_cache
def _bucket_region(bucket: str, otherwise: str) -> str:
    try:
        return str(pafs.resolve_s3_region(bucket))
    except OSError:  # a private network may block this request
        return otherwise


@lru_cache(maxsize=16)
def _arrow_filesystem(
    settings: s3_environment.Settings, *, endpoint: str, region: str, virtual: bool, attempts: int
) -> pafs.FileSystem:
    return pafs.S3FileSystem(
        endpoint_override=endpoint or None,
        region="us-east-1" if region == "aws-global" else region,
        anonymous=settings.anonymous,
        force_virtual_addressing=virtual,
        allow_delayed_open=True,  # makes a small file one PUT
        connect_timeout=CONNECT_SECONDS,
        request_timeout=READ_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )


def call(uri: str, operation: Callable[[Any], T]) -> T:
    """Run an operation with a client; retry after transient faults, and raise this module's errors."""

    def attempt() -> T:
        try:
            return operation(_client())
        except (boto.BotoCoreError, boto.ClientError, ResponseParserError) as error:
            raise _translated(error, uri) from None  # the cause may hold credentials

    return retrying(attempt)


def _translated(error: Exception, uri: str) -> OSError:
    if isinstance(error, boto.ClientError):
        return _refused(error, uri)
    message = redact(f"{uri}: {error}")
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.ProfileNotFound):
        return CredentialsError(f"{uri}: {_NO_CREDENTIALS} ({redact(str(error))})")
    if isinstance(error, boto.SSLError):
        return OSError(message)
    # botocore's ConnectionError means a connection that cannot be made, its HTTPClientError one that breaks, its
    # ResponseParserError an answer that is not XML or breaks off.
    lost = boto.ConnectionError | boto.HTTPClientError | boto.IncompleteReadError | ResponseParserError
    return TransientError(message) if isinstance(error, lost) else OSError(message)


def _refused(error: boto.ClientError, uri: str) -> OSError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    reason = error.response.get("Error", {}).get("Message") or code
    denied = code in ("AccessDenied", "403") and not s3_environment.request_payer()  # for HEAD the code is the status
    remark = _OR_PAY if denied else _REMARKS.get(code, "")
    message = redact(f"{uri}: {code}: {reason}{remark}")
    if code in BUSY or status in (408, 429) or (status >= 500 and status != 501):
        return TransientError(message)
    if code in _STRANGER:
        return CredentialsError(message)
    if status in (401, 403) or code == "AccessDenied":
        return PermissionError(message)
    return FileNotFoundError(message) if status == 404 else OSError(message)
