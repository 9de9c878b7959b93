"""Scenes on disk in VOC's directory layout, written image by image so that a stopped run can resume."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from examples.scenes.compose import CLASSES, Scene, render_scene
from examples.scenes.config import ScenesConfig
from pipeline.datasets.voc import CLASS_MASKS, IMAGES, OBJECT_MASKS, SPLIT_LISTS
from pipeline.datasets.voc import CLASSES as CLASSES_FILE
from pipeline.imaging.classes import voc_palette
from pipeline.imaging.images import encode_mask
from pipeline.outputs.folder import check_folder

RENDERER = 1
"""Increase this when a change makes the same seed give other scenes: older datasets are then refused, not mixed."""

SPLITS = ("train", "val")
JPEG_QUALITY = 92
CONFIG_FILE = "scenes.json"
IMAGES_A_WORKER = 16
"""With fewer missing images than this, another process is not worth its start."""


def scene_of(seed: int, split: str, index: int) -> Scene:
    """One scene; the same arguments give the same scene, bit for bit.

    Args:
        seed: the dataset's seed.
        split: `train` or `val`.
        index: number of the image in its split, from 0.
    """
    return render_scene(np.random.default_rng([seed, SPLITS.index(split), index]))


def image_names(config: ScenesConfig) -> dict[str, list[str]]:
    """Image names by split: `train_000000`, ..."""
    counts = {"train": config.train, "val": config.val}
    return {split: [f"{split}_{index:06d}" for index in range(counts[split])] for split in SPLITS}


def write_image(root: Path, seed: int, name: str) -> None:
    """Render one image and write it and its two masks; the image comes last, so that it implies the masks.

    Args:
        root: directory of the dataset.
        seed: the dataset's seed.
        name: the image's name, such as `train_000000`.
    """
    cv2.setNumThreads(1)
    split, index = name.split("_")
    scene = scene_of(seed, split, int(index))
    _write(root / CLASS_MASKS / f"{name}.png", encode_mask(scene.classes_HW, voc_palette()))
    _write(root / OBJECT_MASKS / f"{name}.png", encode_mask(scene.objects_HW, voc_palette()))
    jpeg = io.BytesIO()
    Image.fromarray(scene.image_HW3).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    _write(root / IMAGES / f"{name}.jpg", jpeg.getvalue())


def write_dataset(config: ScenesConfig) -> Iterator[str]:
    """Write the missing images of a dataset, on all CPUs; yields the name of each image once it is written.

    Yields nothing for a complete dataset. Raises FolderError if the directory holds anything else.
    """
    root = Path(config.output)
    _claim(root, config)
    names = image_names(config)
    there = {path.stem for path in (root / IMAGES).glob("*.jpg")}
    missing = [name for split in SPLITS for name in names[split] if name not in there]
    workers = min(os.cpu_count() or 1, len(missing) // IMAGES_A_WORKER)
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            done = pool.map(partial(write_image, root, config.seed), missing, chunksize=8)
            for name, _ in zip(missing, done, strict=True):
                yield name
    else:
        for name in missing:
            write_image(root, config.seed, name)
            yield name
    for split in SPLITS:
        _write(root / SPLIT_LISTS / f"{split}.txt", "".join(f"{name}\n" for name in names[split]).encode())
    _write(root / CLASSES_FILE, "".join(f"{name}\n" for name in CLASSES).encode())


def _claim(root: Path, config: ScenesConfig) -> None:
    """Make the directories, or check that they are this dataset's."""
    identity = {"renderer": RENDERER, "classes": list(CLASSES)} | asdict(config)
    del identity["output"]
    there = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    check_folder(str(root), CONFIG_FILE, identity, holds=there)
    for folder in (IMAGES, CLASS_MASKS, OBJECT_MASKS, SPLIT_LISTS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _write(root / CONFIG_FILE, (json.dumps(identity, indent=1) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    aside.replace(path)
