"""Reading `.caffemodel` files: the blobs of each layer, in both forms that Caffe writes.

The schema here has only the fields that are needed, with the numbers of Caffe's `caffe.proto`; all others are skipped.
Caffe wrote `V1LayerParameter` (field `layers`) until 2015, also in the DeconvNet release and the first FCN release;
since then it writes `LayerParameter` (field `layer`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from pipeline.errors import CheckpointError

Blob = NDArray[np.float32]


@dataclass(frozen=True)
class CaffeLayer:
    """A layer that has weights."""

    blobs: tuple[Blob, ...]
    """In Caffe's order: weight and bias, or scale and shift. Blobs of the old form have four dimensions."""
    tops: tuple[str, ...] = field(default=())
    """Names of its outputs (old form only)."""
    bn_inference: bool = False
    """The DeconvNet release's batch normalisation is in INFERENCE mode (old form only): scale and shift only."""
    old_form: bool = False


def read_caffemodel(data: bytes, name: str = "the file") -> dict[str, CaffeLayer]:
    """The layers with weights of a `.caffemodel`, by name, in the file's order.

    Args:
        data: the file's bytes, less than 2 GiB (protobuf's limit; DeconvNet has 1 GB).
        name: what to call the file in error messages.

    Raises:
        CheckpointError: the bytes are no `.caffemodel`, have no weights, are older than 2014's form, or are damaged.
    """
    net = _NET()
    try:
        net.ParseFromString(data)
    except DecodeError as error:
        raise CheckpointError(
            f"{name} is no .caffemodel ({error}): the binary file is needed (no .prototxt), whole, below 2 GiB"
        ) from error
    layers: dict[str, CaffeLayer] = {}
    for old_form, found in ((True, net.layers), (False, net.layer)):
        for one in found:
            if not one.blobs:
                continue
            if not one.name:
                raise CheckpointError(
                    f"{name} has layers of Caffe's form before 2014; rewrite it with Caffe's own "
                    "`upgrade_net_proto_binary` first"
                )
            if one.name in layers:
                raise CheckpointError(f"{name} has two layers with weights of the name {one.name}")
            blobs = tuple(_array(blob, f"{name}: blob {i} of {one.name}") for i, blob in enumerate(one.blobs))
            layers[one.name] = (
                CaffeLayer(blobs, tuple(one.top), one.bn_param.bn_mode == _BN_INFERENCE, old_form=True)
                if old_form
                else CaffeLayer(blobs)
            )
    if not layers:
        raise CheckpointError(f"{name} is no .caffemodel, or one without weights")
    return layers


def _array(blob: Any, what: str) -> Blob:
    """A blob's values in its shape; float32 whatever precision they are stored with."""
    data, dtype = (blob.double_data, np.dtype("<f8")) if len(blob.double_data) else (blob.data, np.dtype("<f4"))
    values = b"".join(data)
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    if len(values) != prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
        raise CheckpointError(
            f"{what} has {len(values) / dtype.itemsize:g} values for its shape {shape}; copy the file again"
        )
    return np.frombuffer(values, dtype).astype(np.float32, copy=False).reshape(shape)


# Field types and labels under short names. A field that is "bytes" here may be a packed list in Caffe's own schema:
# in the file both are the same bytes, and numpy reads 250 million numbers from them without a Python object for each.
_TYPES = descriptor_pb2.FieldDescriptorProto
_BN_INFERENCE = 1
_FIELDS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "BlobShape": (("dim", 1, "int64*"),),
    "BlobProto": (
        ("num", 1, "int32"), ("channels", 2, "int32"), ("height", 3, "int32"), ("width", 4, "int32"),
        ("data", 5, "bytes*"), ("shape", 7, "BlobShape"), ("double_data", 8, "bytes*"),
    ),
    "BNParameter": (("bn_mode", 3, "int32"),),  # from the release's own Caffe, as is number 45 below
    "V1LayerParameter": (
        ("top", 3, "string*"), ("name", 4, "string"), ("blobs", 6, "BlobProto*"), ("bn_param", 45, "BNParameter"),
    ),
    "LayerParameter": (("name", 1, "string"), ("blobs", 7, "BlobProto*")),
    "NetParameter": (("layers", 2, "V1LayerParameter*"), ("layer", 100, "LayerParameter*")),
}  # fmt: skip


def _schema() -> Iterable[descriptor_pb2.DescriptorProto]:
    for message, fields in _FIELDS.items():
        described = descriptor_pb2.DescriptorProto(name=message)
        for name, number, kind in fields:
            base, repeated = kind.rstrip("*"), kind.endswith("*")
            added = described.field.add(name=name, number=number)
            added.label = _TYPES.LABEL_REPEATED if repeated else _TYPES.LABEL_OPTIONAL
            if base in _FIELDS:
                added.type, added.type_name = _TYPES.TYPE_MESSAGE, f".deconvnet_ray.caffe.{base}"
            else:
                added.type = getattr(_TYPES, f"TYPE_{base.upper()}")
        yield described


def _net_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="deconvnet_ray/caffe.proto", package="deconvnet_ray.caffe", syntax="proto2"
    )
    file.message_type.extend(_schema())
    pool = descriptor_pool.DescriptorPool()  # our own: another Caffe schema in the process must not clash
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("deconvnet_ray.caffe.NetParameter"))


_NET = _net_class()
