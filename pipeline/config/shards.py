"""A part of the images, so that several calls can fill one output at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from pipeline.config.checks import require

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Shard:
    """Part `number` of `of`, from 1. Which part an image is in depends on its id and on `of` alone."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """The shard that `--shard` names, such as `2/3`; None: all images.

        Raises:
            ConfigError: it is not of this form.
        """
        if text is None:
            return WHOLE
        found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text, re.ASCII)
        shard = cls(*map(int, found.groups())) if found else None
        require(shard is not None and shard.number <= shard.of, "shard", text, "must be I/N with I in 1..N, as in 2/3")
        return shard or WHOLE

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """For files: `2-of-3`."""
        return f"{self.number}-of-{self.of}"

    def holds(self, image_id: str) -> bool:
        """Whether an image is in this part."""
        # Not CRC-32: of ten images that differ in one digit, one of four parts would get eight.
        return int.from_bytes(blake2b(image_id.encode(), digest_size=8).digest(), "big") % self.of == self.number - 1

    def share_of(self, table: pa.Table) -> pa.Table:
        """The rows of a table that are in this part, by its column `image_id`; in their order."""
        if self == WHOLE:
            return table
        import pyarrow as pa  # only here: the command line is read without it

        return table.filter(pa.array(map(self.holds, table["image_id"].to_pylist()), pa.bool_()))


WHOLE = Shard()
"""All images: a run without `--shard`."""
