"""What to do with files that hold images in a form that is not read."""

from __future__ import annotations

from collections.abc import Iterable

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
LISTS = (".txt", ".lst")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
OTHER_IMAGES = (
    ".heic", ".heif", ".avif", ".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2",
)  # fmt: skip
"""Formats of phones and cameras that need decoders of their own."""

_ADVICE = (
    (PACKED, "unpack it and give the folder", "unpack"),
    (LISTS, "for a list of images write `uri` as its first line and name it .csv", None),
    (
        VIDEOS,
        "take frames out of it first (`ffmpeg -i VIDEO FOLDER/%06d.png`) and give their folder",
        "take frames out of",
    ),
    (OTHER_IMAGES, "convert it to JPEG, PNG or TIFF first", "convert to JPEG, PNG or TIFF"),
)
"""Endings, what to do with such a file as the input, and what with such files in a folder; None: they are no images."""


def advice_for(uri: str) -> str | None:
    """What to do with a file instead of giving it as the input; None: nothing is known of its ending."""
    return next((advice for endings, advice, _ in _ADVICE if uri.lower().endswith(endings)), None)


def advice_for_files(endings: Iterable[str]) -> str | None:
    """What to do with the files of a folder in which no image was found; None: nothing is known of their endings.

    Args:
        endings: of the files, in lower case, with their dots.
    """
    there = set(endings)
    found = [(what, sorted(there & set(known))) for known, _, what in _ADVICE if what is not None]
    advice = "; ".join(f"{what} the {', '.join(files)} files first" for what, files in found if files)
    return advice or None
