"""What the stores of all schemes take from the environment, and its secrets."""

from __future__ import annotations

import os
import re

from pipeline.storage import clouds_environment, s3_environment

_PARTS = re.compile(r"(?<=[?&])(sig|X-Goog-Signature|X-Amz-Signature|X-Amz-Credential)=[^&\s]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Remove `user:password@` from every address in `text`, signatures in it, and the credentials of the environment.

    A value is removed in whole, and each part of a shared access signature.
    """
    for name in (*s3_environment.SECRET, *clouds_environment.SECRET):
        value = os.environ.get(name, "")
        text = text.replace(value, "***") if len(value) >= 8 else text
    text = _PARTS.sub(r"\1=***", text)
    return re.sub(r"://(?:[^/:@\s]*:[^@\s]*|[^/@\s]*)@", "://", text)


def worker_environment() -> dict[str, str]:
    """Return the variables that processes on other machines need to find the same stores.

    The values may be credentials: never log them.
    """
    return s3_environment.worker_environment() | clouds_environment.worker_environment()
