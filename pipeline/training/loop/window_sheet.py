"""Some validation windows, each beside its truth and prediction; the same ones after every epoch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline import storage
from pipeline.config.training import TrainingStage
from pipeline.imaging.classes import voc_palette
from pipeline.report.painter import grid, png
from pipeline.training.loop.metrics import Feed
from pipeline.training.loop.steps import Batch, as_batch, central_crops
from pipeline.training.windows.cut import windows_of_row
from pipeline.training.windows.packing import batches_in_order

WINDOWS = 12
ACROSS = 3  # windows in a row of the sheet
GAP = 4  # pixels between pictures; twice that between windows
GREY = 128

UInt8Array = NDArray[np.uint8]


def some_windows(index: pa.Table, stage: TrainingStage) -> Batch | None:
    """The first window of some images, spread over an index; None if the index has none."""
    picked = np.unique(np.linspace(0, len(index) - 1, min(WINDOWS, len(index))).round().astype(int))
    firsts = (next(windows_of_row(row, stage)) for row in index.take(picked).to_pylist())
    shown = next(batches_in_order(firsts, WINDOWS), None)
    return shown and as_batch(shown)


@torch.inference_mode()
def predicted_labels(net: nn.Module, windows: Batch, feed: Feed) -> UInt8Array:
    """Labels of the central crops of some windows.

    Args:
        net: the network; set to evaluation mode.
        windows: windows and labels.
        feed: how the network is fed.

    Returns:
        uint8 `[N, 224, 224]`.
    """
    net.eval()
    device = next(net.parameters()).device
    with torch.autocast(device.type, dtype=feed.autocast, enabled=feed.autocast is not None):
        crops_N3HW = central_crops(windows)[0].to(device, memory_format=torch.channels_last)
        scores_NCHW = net(feed.preprocessing(crops_N3HW))
    labels_NHW: UInt8Array = scores_NCHW.argmax(1).to(torch.uint8).cpu().numpy()
    return labels_NHW


def sheet(images_NHW3: UInt8Array, truths_NHW: UInt8Array, predictions_NHW: UInt8Array) -> UInt8Array:
    """A picture of windows, each followed by its truth and its prediction in the colours of their classes.

    Args:
        images_NHW3: RGB.
        truths_NHW: labels; void (255) is shown in its own colour.
        predictions_NHW: labels.
    """
    palette = voc_palette()
    windows = zip(images_NHW3, palette[truths_NHW], palette[predictions_NHW], strict=True)
    return grid([grid(window, 3, GAP, GREY) for window in windows], ACROSS, 2 * GAP, GREY)


def write_sheet(uri: str, net: nn.Module, windows: Batch, feed: Feed) -> None:
    """Write the sheet of some windows with the network's current predictions, as a PNG.

    Args:
        uri: where to write it.
        net: the network; set to evaluation mode.
        windows: windows and labels.
        feed: how the network is fed.

    Raises:
        OSError: it cannot be written.
    """
    crops_N3HW, truths_NHW = central_crops(windows)
    picture = sheet(crops_N3HW.permute(0, 2, 3, 1).numpy(), truths_NHW.numpy(), predicted_labels(net, windows, feed))
    storage.write_atomic(uri, png(picture))
