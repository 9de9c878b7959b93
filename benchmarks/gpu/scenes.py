"""Three of the demo's scenes with their proposals, in a file that needs neither OpenCV nor Pillow to be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SCENES = Path(__file__).with_name("scenes.npz")
COUNT = 3


@dataclass(frozen=True)
class ScenePart:
    """A scene of `make demo`, and what the network gets of it.

    Attributes:
        image_HW3: RGB, uint8.
        truth_HW: class of each pixel, uint8; 255 void.
        boxes_N4: its 50 proposals, float32.
    """

    image_HW3: NDArray[np.uint8]
    truth_HW: NDArray[np.uint8]
    boxes_N4: NDArray[np.float32]


def load_scenes() -> list[ScenePart]:
    """Read the file."""
    with np.load(SCENES) as held:
        return [ScenePart(held[f"image{i}"], held[f"truth{i}"], held[f"boxes{i}"]) for i in range(COUNT)]


def make_scenes() -> list[ScenePart]:
    """Render the scenes again; this needs OpenCV."""
    from examples.scenes.dataset import scene_of
    from pipeline.config import ProposeConfig
    from pipeline.proposals.edgeboxes import propose

    scenes = [scene_of(1, "val", index) for index in range(COUNT)]
    config = ProposeConfig(window_shape="box")  # what the demo's network was trained on
    return [ScenePart(one.image_HW3, one.classes_HW, propose(one.image_HW3, config).boxes_N4) for one in scenes]


def write_scenes() -> None:
    """Write the file anew, after a change of the renderer."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for i, scene in enumerate(make_scenes()):
        arrays |= {f"image{i}": scene.image_HW3, f"truth{i}": scene.truth_HW, f"boxes{i}": scene.boxes_N4}
    np.savez_compressed(SCENES, **arrays)  # type: ignore[arg-type]
