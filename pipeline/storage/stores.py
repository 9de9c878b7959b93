"""Which store an address belongs to, by its scheme. A new store is a class in its own file and a line here."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec

from pipeline.errors import StorageError
from pipeline.storage.base import Store
from pipeline.storage.environment import redact
from pipeline.storage.local import LocalStore

_OTHERS = {"gcs": "gs", "abfs": "az", "abfss": "az", "azure": "az", "s3a": "s3", "s3n": "s3"}
"""Schemes of other programs, and those here that they stand for."""
_SCHEME = re.compile(r"([A-Za-z][\w+.-]*)://")


def _s3() -> Store:
    from pipeline.storage.s3 import S3Store  # loads botocore

    return S3Store()


def _cloud(scheme: str) -> Store:
    if find_spec("obstore") is None:
        raise StorageError(f"{scheme}:// needs the package obstore: pip install 'deconvnet-ray[clouds]'")
    from pipeline.storage.clouds import CloudStore  # loads obstore

    return CloudStore(scheme)


_STORES: dict[str, Callable[[], Store]] = {
    "": LocalStore,
    "file": LocalStore,
    "s3": _s3,
    "gs": partial(_cloud, "gs"),
    "az": partial(_cloud, "az"),
}


@cache
def _store(scheme: str) -> Store:
    return _STORES[scheme]()


def scheme_of(uri: str) -> str:
    """Return the scheme of an address; "" for a local path."""
    found = _SCHEME.match(uri)
    return found[1] if found else ""


def store_of(uri: str) -> Store:
    """Return the store of an address.

    Raises:
        StorageError: there is no store for its scheme.
    """
    scheme = scheme_of(uri)
    if scheme not in _STORES:
        named = [f"{name}://" for name in _STORES if name]
        hint = f"; {scheme}:// is {_OTHERS[scheme]}:// here" if scheme in _OTHERS else ""
        raise StorageError(f"{redact(uri)}: use a local path, {', '.join(named[:-1])} or {named[-1]}{hint}")
    return _store(scheme)
