"""Semantic segmentation of Hugging Face's transformers, from a folder that `save_pretrained` wrote.

Only safetensors are read, no code from the folder is run, and nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import storage
from pipeline.config.networks import NetworkName
from pipeline.errors import CheckpointError
from pipeline.models.kinds.files import copied

MODULES = ("transformers", "torchvision")
CONFIG, PROCESSOR, WEIGHTS, INDEX = (
    "config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json",
)  # fmt: skip
LEAST = 1e-6
"""Below this, what a network of queries finds of a class is taken for this."""


@dataclass(frozen=True)
class HfNetwork:
    """A network and the processor that prepares its images."""

    model: Any
    processor: Any
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """Number of score maps."""
        return len(self.class_names)

    def to(self, device: torch.device, dtype: torch.dtype) -> HfNetwork:
        """The same network on a device, in a precision."""
        self.model.to(device, dtype)
        return self

    @torch.inference_mode()
    def scores(self, image_3HW: Tensor) -> Tensor:
        """Score maps before softmax, float32 `[C, H, W]`, of an RGB uint8 image on the network's device.

        A network of queries (Mask2Former) gives no scores, but sums of probabilities; these are their logarithms.
        """
        size = tuple(image_3HW.shape[1:])
        prepared = self.processor(images=image_3HW, input_data_format="channels_first", return_tensors="pt")
        x_13HW = prepared["pixel_values"].to(image_3HW.device, self.model.dtype)
        found = self.model(pixel_values=x_13HW)
        if "logits" in found:
            scores_1CHW = found.logits.float()
            return F.interpolate(scores_1CHW, size, mode="bilinear", align_corners=False)[0]
        (masks,) = self.processor.post_process_semantic_segmentation(found, [size], return_segmentation_scores=True)
        sums_CHW: Tensor = masks.segmentation_scores.float()
        return sums_CHW.clamp(min=LEAST).log()


def load(name: NetworkName) -> HfNetwork:
    """The network of a folder, which holds `CONFIG`, `PROCESSOR` and `WEIGHTS`, or its parts and their `INDEX`.

    Raises:
        CheckpointError: a file is missing, or transformers cannot use them for semantic segmentation.
        OSError: one cannot be read.
    """
    assert name.uri is not None
    with copied(_files(name.uri)) as (folder, fingerprint):
        try:
            model, processor = _opened(folder)
        except Exception as error:  # of many types, some of them libraries' own
            reason = " ".join(str(error).replace(str(folder), name.uri).split())[:300]
            raise CheckpointError(f"{name} cannot be used: {reason}") from error
    if getattr(processor, "do_center_crop", False):
        raise CheckpointError(
            f"{name}: its {PROCESSOR} cuts the middle out of an image; set do_center_crop to false there"
        )
    id2label = model.config.id2label
    class_names = tuple(str(id2label[number]) for number in range(len(id2label)))
    return HfNetwork(model.eval(), processor, class_names, fingerprint)


def _files(folder: str) -> dict[str, str]:
    """Addresses of the files that are needed, by their names."""
    names = [CONFIG, PROCESSOR]
    index = storage.join(folder, INDEX)
    if storage.exists(index):
        names += [INDEX, *sorted({str(part) for part in json.loads(storage.read_bytes(index))["weight_map"].values()})]
    else:
        names.append(WEIGHTS)
    uris = {name: storage.join(folder, name) for name in names}
    for name, uri in uris.items():
        if "/" in name or not storage.exists(uri):
            raise CheckpointError(
                f"hf:{folder} has no {name}; write it with save_pretrained(), which both a network and its image "
                "processor have"
            )
    return uris


def _opened(folder: Path) -> tuple[Any, Any]:
    """Network and image processor."""
    import transformers

    with _quiet(transformers.utils.logging):
        return _open(transformers, folder)


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No bars and no advice: what is wrong is raised."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _open(transformers: Any, folder: Path) -> tuple[Any, Any]:
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(folder, **local)
    if type(config) in transformers.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        kind = transformers.AutoModelForSemanticSegmentation
    elif type(config) in transformers.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING:
        kind = transformers.AutoModelForUniversalSegmentation
    else:
        raise ValueError(f"transformers has no {config.model_type} for semantic segmentation")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **local)
    model, loaded = kind.from_pretrained(
        folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
    )
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
    return model, processor
