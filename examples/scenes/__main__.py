"""Make a synthetic dataset in VOC's layout, for training and demos without any data.

    python -m examples.scenes --output data/scenes --train 400 --val 24

Each image depends only on the seed, its split and its number. Called again, it makes only the images that are missing.
"""

from __future__ import annotations

import sys
import time

import tyro

from examples.scenes.config import ScenesConfig
from examples.scenes.dataset import write_dataset
from pipeline.errors import UserError


def main() -> int:
    """Parse, write missing images, print the result; exit code 2 for a directory that cannot be used."""
    config = tyro.cli(ScenesConfig, description=__doc__)
    started = time.monotonic()
    made = 0
    try:
        for _ in write_dataset(config):
            made += 1
    except (UserError, OSError) as error:
        print(f"make_scenes: {error}", file=sys.stderr)
        return 2
    seconds = time.monotonic() - started
    print(f"{config.output}: {config.train} train and {config.val} val images; {made} made now in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
