"""Whether a process can use its GPU, at the start and after an error. No Ray; torch is imported only when needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


def check_gpu(gpus: float, instead: str) -> None:
    """Make sure that a process with a GPU can use it, so that no GPU is left idle unnoticed.

    Args:
        gpus: the number of GPUs that Ray gave the process.
        instead: the options for a run without GPUs, for the message.

    Raises:
        RuntimeError: a GPU was given, and torch sees none.
    """
    import torch

    if gpus and not torch.cuda.is_available():
        raise RuntimeError(
            f"this process was given a GPU, but torch sees none: look at the driver and at torch's build, or choose "
            f"{instead}"
        )


@contextmanager
def ending_with_its_gpu(device: str) -> Iterator[None]:
    """Let exceptions pass, but end the process if one has left its GPU unusable.

    After an illegal access or a failed assertion on a device, every later CUDA call in the process raises, so each
    further image would become an error row. When the process ends, Ray starts another one for the same images, which
    are then tried one by one; only an image that breaks the GPU again becomes an error row (`pipeline.run.attempts`).

    Args:
        device: torch's name of the device that does the work; `cpu` is not checked.
    """
    try:
        yield
    except Exception:
        if device != "cpu" and (gone := _why_unusable(device)):
            logging.getLogger(__name__).exception("this process ends: its GPU answers no more (%s)", gone)
            os._exit(1)  # not `sys.exit`: at an ordinary end torch frees memory, which needs the GPU
        raise


def _why_unusable(device: str) -> str | None:
    import torch

    try:
        torch.cuda.synchronize(device)
    except Exception as error:  # torch raises several types
        return str(error)
    return None
