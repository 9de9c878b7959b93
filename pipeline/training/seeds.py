"""Seeds: everything that is drawn at random in training can be reproduced."""

from __future__ import annotations

import hashlib


def seed_of(*parts: int) -> int:
    """A seed for each combination of numbers, such as run, epoch, position and worker."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
