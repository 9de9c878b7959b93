"""ONNX files, run by onnxruntime on the CPU.

The file's first input is float32 `[1, 3, H, W]`, its first output float `[1, C, h, w]`: scores before softmax. Height
and width may be free or fixed; with fixed ones, images are resized. What the file cannot say by itself, it may say in
its metadata, under `METADATA_KEY` and in the words of this project's checkpoints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline import storage
from pipeline.config.networks import NetworkName
from pipeline.errors import CheckpointError
from pipeline.models.checkpoint_header import METADATA_KEY, Preprocessing
from pipeline.models.kinds.files import copied
from pipeline.models.members import look

MODULES = ("onnxruntime",)
TRIED = 256
"""Height and width of the first image, where they are free."""


@dataclass(frozen=True)
class OnnxNetwork:
    """A session of onnxruntime with one thread, as every network here; it has its own precision."""

    session: Any
    preprocessing: Preprocessing
    size: tuple[int, int] | None
    """Fixed height and width of its input."""
    num_classes: int
    fingerprint: str
    class_names: tuple[str, ...] | None

    def to(self, device: torch.device, dtype: torch.dtype) -> OnnxNetwork:
        """The same network: it stays on the CPU, and in the file's precision."""
        del device, dtype
        return self

    @torch.inference_mode()
    def scores(self, image_3HW: Tensor) -> Tensor:
        """Score maps before softmax, float32 `[C, H, W]`, of an RGB uint8 image."""
        scores_CHW = look(image_3HW.cpu(), self.size, self.preprocessing, lambda x_13HW: _run(self.session, x_13HW))
        return scores_CHW.to(image_3HW.device)


def load(name: NetworkName) -> OnnxNetwork:
    """The network of an ONNX file; its weights may lie beside it, in FILE.data.

    Raises:
        CheckpointError: onnxruntime cannot use it, or its input or output is another.
        OSError: it cannot be read.
    """
    import onnxruntime

    assert name.uri is not None
    file = name.uri.rpartition("/")[2]
    beside = {f"{file}.data": f"{name.uri}.data"} if storage.exists(f"{name.uri}.data") else {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors are raised as well
    with copied({file: name.uri, **beside}) as (folder, fingerprint):
        try:
            session = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of many types, all of its compiled part
            reason = " ".join(str(error).replace(str(folder / file), name.uri).split())[:300]
            raise CheckpointError(f"{name} cannot be used: {reason}") from error
    shape = session.get_inputs()[0].shape
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise CheckpointError(f"{name} takes {shape}; an image needs [1, 3, height, width]")
    height, width = (side if isinstance(side, int) else None for side in shape[2:])
    if (height is None) != (width is None):
        raise CheckpointError(f"{name} takes {shape}; height and width must both be fixed, or both free")
    size = None if height is None or width is None else (height, width)
    preprocessing, class_names = _described(session.get_modelmeta().custom_metadata_map, name)
    try:
        found = _run(session, torch.zeros(1, 3, *(size or (TRIED, TRIED))))
    except Exception as error:
        raise CheckpointError(f"{name} cannot be run: {' '.join(str(error).split())[:300]}") from error
    if found.ndim != 4:
        raise CheckpointError(f"{name} gives {list(found.shape)}; scores [1, classes, height, width] are needed")
    return OnnxNetwork(session, preprocessing, size, found.shape[1], fingerprint, class_names)


def _run(session: Any, x_13HW: Tensor) -> Tensor:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    (found,) = session.run([outputs[0].name], {inputs[0].name: x_13HW.numpy()})
    return torch.from_numpy(found).float()


def _described(metadata: dict[str, str], name: NetworkName) -> tuple[Preprocessing, tuple[str, ...] | None]:
    """Preprocessing and names of the classes, as the metadata have them."""
    try:
        told = json.loads(metadata.get(METADATA_KEY, "{}"))
        preprocessing = Preprocessing(**{key: _fixed(value) for key, value in told.get("preprocessing", {}).items()})
        names = told.get("class_names")
        return preprocessing, names and tuple(map(str, names))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{name}: its metadata `{METADATA_KEY}` cannot be used: {error}") from error


def _fixed(value: Any) -> Any:
    """Lists of JSON as the tuples of three numbers that they stand for."""
    if isinstance(value, str):
        return value
    first, second, third = map(float, value)
    return first, second, third
