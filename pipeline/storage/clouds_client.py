"""obstore's clients, made from the environment, with Python's own types of errors, and retries of this project's.

`retrying` repeats requests, not obstore, so that retries are counted. obstore has one type for most failures, so what
failed is read from its message: an answer's status, or what the connection did.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import obstore.store
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from pipeline.errors import StorageError
from pipeline.storage import clouds_environment
from pipeline.storage.clouds_environment import CLOUDS
from pipeline.storage.environment import redact
from pipeline.storage.retrying import CredentialsError, TransientError, retrying

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore

    Client = GCSStore | AzureStore

T = TypeVar("T")

CONNECT_SECONDS = 5
READ_SECONDS = 30
"""Seconds without data after which a connection counts as failed."""
WRITE_SECONDS = 300
"""Longest time for writing one file: obstore's limit for silence also runs while a file is being sent."""

_MAKERS: dict[str, type[Client]] = {"gs": obstore.store.GCSStore, "az": obstore.store.AzureStore}

_STRANGER = {"AuthenticationFailed", "AuthorizationFailure", "InvalidAuthenticationInfo", "AuthenticationRequired",
             "NoAuthenticationInformation", "AccountIsDisabled", "ExpiredToken", "TokenExpired",
             "RequestTimeTooSkewed"}  # fmt: skip
"""Codes for unknown credentials, so that no object is at fault."""
_STATUS = re.compile(r"status code: (\d{3})[^:]*:?\s*")
_CODE = re.compile(r"<Code>([^<]+)</Code>(?:.*?<Message>([^<\r\n]+))?", re.DOTALL)
_NO_ANSWER = re.compile(r"Error performing \w+ (https?://[^/\s]+).*error sending request")
_GENERIC = re.compile(r"^Generic \w+ error: ")
_LASTING = ("certificate", "invalid path", "non-partial response", "Failed to parse", "Could not parse",
            "credential error", "Unable to open", "Unable to decode", "Unable to extract")  # fmt: skip
"""Parts of messages without a status of failures that the same request would meet again."""


def call(scheme: str, bucket: str, address: str, operation: Callable[[Client], T], *, writing: bool = False) -> T:
    """Run an operation with a client; retry after transient faults, and raise the errors that `Store` has."""

    def attempt() -> T:
        try:
            return operation(_client(scheme, bucket, writing=writing))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{address}: {_reason(str(error))}") from None
        except StorageError:
            raise
        except ValueError as error:  # a name that obstore cannot send
            raise StorageError(f"{address}: {redact(str(error))}; names with //, . or .. as a part, or control "
                               "characters, cannot be used here") from None  # fmt: skip
        except BaseError as error:
            raise _translated(error, address) from None  # the cause may hold credentials

    return retrying(attempt)


def _client(scheme: str, bucket: str, *, writing: bool) -> Client:
    cloud = CLOUDS[scheme]
    if not cloud.is_known():  # it would ask the machine for a role, which takes seconds where there is none
        raise CredentialsError(f"{scheme}://{bucket}: no credentials; set {cloud.to_set}")
    settings = tuple(sorted(clouds_environment.worker_environment().items()))
    seconds = WRITE_SECONDS if writing else READ_SECONDS
    return _client_for(scheme, bucket, seconds, _Settings(settings))


class _Settings(tuple[tuple[str, str], ...]):
    """Names and values of variables, as a key of a cache. The values may be credentials."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "settings"


@lru_cache(maxsize=16)
def _client_for(scheme: str, bucket: str, seconds: float, settings: _Settings) -> Client:
    del settings  # obstore reads the environment by itself
    cloud, make = CLOUDS[scheme], _MAKERS[scheme]
    try:
        return make(
            bucket,
            client_options={
                "allow_http": cloud.address().startswith("http://"),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "read_timeout": timedelta(seconds=seconds),
                "timeout": timedelta(hours=1),
            },
            retry_config={"max_retries": 0},
        )
    except BaseError as error:  # what is set cannot be used
        raise CredentialsError(f"{scheme}://{bucket}: {_reason(str(error))}; set {cloud.to_set}") from None


def _translated(error: BaseError, address: str) -> OSError:
    said = str(error)
    status = int(found[1]) if (found := _STATUS.search(said)) else 0
    code = found[1] if (found := _CODE.search(said)) else ""
    message = f"{address}: {_reason(said)}"
    if "token request" in said:  # of the service that knows the credentials or the machine's role
        message += f"; no usable credentials: set {CLOUDS[address.partition('://')[0]].to_set}"
        transient = status in (0, 408, 429) or status >= 500
        return TransientError(message) if transient else CredentialsError(message)
    if status in (408, 429) or (status >= 500 and status != 501):
        return TransientError(message)
    if status == 401 or code in _STRANGER or isinstance(error, UnauthenticatedError):
        return CredentialsError(f"{message} (the credentials are not accepted)")
    if status == 403 or isinstance(error, PermissionDeniedError):  # of HEAD there is no more than the status
        return PermissionError(f"{message} (the credentials are not accepted, or have no right to it)")
    if status == 404:
        return FileNotFoundError(message)
    lasting = status or any(part in said for part in _LASTING)
    return OSError(message) if lasting else TransientError(message)


def _reason(said: str) -> str:
    """What obstore says, in one line without the request's address: an answer's code and message, or the fault."""
    first = said.partition("\n\nDebug source")[0]
    if found := _CODE.search(first):
        return redact(f"{found[1]}: {found[2]}" if found[2] else found[1])
    if found := _STATUS.search(first):
        return redact(first[found.start() :].removeprefix("status code: ").partition("\n")[0].strip(" :"))
    cause = re.search(r'"([^"\n]*(?:error|refused|certificate)[^"\n]*)"', said)
    if found := _NO_ANSWER.search(first):
        return redact(f"no answer from {found[1]}" + (f" ({cause[1]})" if cause else ""))
    return redact(_GENERIC.sub("", first.partition("\n")[0]).strip())
