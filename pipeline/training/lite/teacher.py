"""A network that sees windows, usually a larger DeconvNet, as the teacher of the light one (distillation)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import storage
from pipeline.errors import CheckpointError
from pipeline.models.checkpoint import Checkpoint, LiteCheckpoint, load_for_windows
from pipeline.models.checkpoint_header import check_network, read_info
from pipeline.models.efficientnet import INPUT


class Teacher:
    """Says what it sees in each window. No torch module: it is not trained, and no checkpoint of the training holds it.

    Args:
        checkpoint: the network.
    """

    def __init__(self, checkpoint: Checkpoint | LiteCheckpoint) -> None:
        self._net = checkpoint.net.requires_grad_(False).eval()
        self._preprocessing = checkpoint.info.preprocessing

    @torch.no_grad()
    def __call__(self, x_N3HW: Tensor) -> Tensor:
        """Scores before softmax, float32 `[N, C, H/4, W/4]`, for windows as the light network gets them (`INPUT`)."""
        net = self._net.to(x_N3HW.device)
        own_N3HW = self._preprocessing(INPUT.undo(x_N3HW)).contiguous(memory_format=torch.channels_last)
        return F.adaptive_avg_pool2d(net(own_N3HW).float(), (x_N3HW.shape[2] // 4, x_N3HW.shape[3] // 4))


def load_teacher(uri: str) -> Teacher:
    """Load a checkpoint that `check_teacher` has accepted."""
    return Teacher(load_for_windows(storage.read_bytes(uri), uri))


def check_teacher(uri: str, class_names: tuple[str, ...]) -> None:
    """Make sure that a network can teach.

    Args:
        uri: address of its checkpoint.
        class_names: those of the photographs, background first.

    Raises:
        CheckpointError: it is no checkpoint, does not see windows, or has other classes or windows.
        OSError: it cannot be read.
    """
    info = read_info(storage.read_bytes(uri), uri)
    check_network(info, uri, whole_images=False)
    if info.class_names != class_names:
        raise CheckpointError(
            f"the teacher {uri} knows the classes {', '.join(info.class_names)}; the photographs have "
            f"{', '.join(class_names)}"
        )
    if info.window_shape != "square":
        raise CheckpointError(
            f"the teacher {uri} has learned boxes that were stretched to squares; the windows here are squares: train "
            "it on a training set with --window-shape square, the default"
        )
