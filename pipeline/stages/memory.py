"""How a process that runs stages holds its memory."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# From glibc's malloc.h, which Python does not offer.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEPT = 2**30
LARGEST_IN_OLD_GLIBC = 2**25


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GiB of freed memory for its next image.

    By default glibc returns each large block to the system, which then has to find and clear 100 MB of pages again for
    every image: a sixth of its time with the bundled networks (docs/performance.md). Without glibc nothing changes.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT)
        if not mallopt(M_MMAP_THRESHOLD, KEPT):
            mallopt(M_MMAP_THRESHOLD, LARGEST_IN_OLD_GLIBC)
