"""Images in tar files, as WebDataset packs them: their names and places, and each with one read of just its bytes."""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from pipeline import storage
from pipeline.errors import ManifestError
from pipeline.imaging.images import SUPPORTED
from pipeline.storage.base import HIDDEN, SPECIAL, ending
from pipeline.storage.range_file import RangeFile

ENDING = ".tar"

_ADDRESS = re.compile(r"(.+\.tar)#offset=(\d+)&size=(\d+)", re.IGNORECASE | re.DOTALL)
_HIDDEN = re.compile(r"(?:^|/)[._]")
_LOCAL_WINDOW = 4096  # reading what lies between two headers would cost more than seeking
_STORE_WINDOW = 1 << 20  # takes a store about as long to send as to answer at all: images of less share a request


class Member(NamedTuple):
    """An image in a tar file."""

    name: str
    """Its path in the archive, without a `./` at the beginning."""
    address: str
    """What `read` takes: that of the archive, and where the image lies in it."""


class Place(NamedTuple):
    """Where an image lies in a tar file."""

    archive: str
    offset: int
    """Of its first byte."""
    size: int
    """In bytes."""


def place_of(uri: str) -> Place | None:
    """The place that an address of `Member` names; None for any other address."""
    found = _ADDRESS.fullmatch(uri)
    return Place(found[1], int(found[2]), int(found[3])) if found else None


def members(archive: str, left_aside: Counter[str]) -> list[Member]:
    """The images in a tar file, from its headers alone; of several with one name the last, as when it is unpacked.

    Args:
        archive: its address.
        left_aside: counts the members that are no images by extension or other reason, as a listing of files does.

    Raises:
        ManifestError: it is no tar file, is compressed, damaged or cut off, or an image's name is not UTF-8.
        OSError: it cannot be read.
    """
    window = _LOCAL_WINDOW if storage.is_local(archive) else _STORE_WINDOW
    found: dict[str, str] = {}
    for member in _headers(archive, io.BufferedReader(RangeFile(archive), window)):
        name = posixpath.normpath(member.name)
        reason = _left_aside(name, member)
        if reason is None:
            found[_checked(archive, name)] = f"{archive}#offset={member.offset_data}&size={member.size}"
        elif reason:
            left_aside[reason] += 1
    return [Member(name, address) for name, address in found.items()]


def _headers(archive: str, file: io.BufferedReader) -> Iterator[tarfile.TarInfo]:
    """All headers; unlike `tarfile` alone, which takes a damaged header for the end."""
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            while (member := tar.next()) is not None:
                yield member
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            file.seek(tar.offset)
            last = file.read(tarfile.BLOCKSIZE)
    except (tarfile.TarError, ValueError) as error:
        raise ManifestError(
            f"{archive} is no tar file, or it is compressed, damaged or cut off ({error}); give one that is whole and "
            "not compressed, or leave it out with a pattern"
        ) from error
    if last != bytes(tarfile.BLOCKSIZE):
        what = "is damaged" if last else "is cut off"
        raise ManifestError(
            f"{archive} {what} at byte {tar.offset}; replace it by a whole copy, or leave it out with a pattern"
        )


def _left_aside(name: str, member: tarfile.TarInfo) -> str | None:
    """Why a member is not an image, "" for a folder; None if it is an image."""
    if member.isdir():
        return ""
    if _HIDDEN.search(name):
        return HIDDEN
    if not name.lower().endswith(SUPPORTED):
        return ending(posixpath.basename(name))
    return None if member.isreg() and not member.issparse() else SPECIAL


def _checked(archive: str, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ManifestError(f"{archive}: the name {name!a} in it is not UTF-8; pack it under another") from None
    return name


def read(place: Place) -> bytes:
    """The bytes of an image.

    Raises:
        OSError: they cannot be read, or the archive is shorter than when its images were listed.
    """
    data = storage.read_range(place.archive, place.offset, place.size) if place.size else b""
    if len(data) != place.size:
        raise OSError(f"{place.archive} ends within the image at {place.offset}: it was changed meanwhile")
    return data
