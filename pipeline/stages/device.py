"""Whether a process has the GPU that it was given, and still has it. No Ray; torch is imported when it is asked."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


def check_gpu(gpus: float, instead: str) -> None:
    """Make sure that a GPU which was paid for is not silently left idle.

    Args:
        gpus: what the process was given.
        instead: the options that do without.

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
    """Let exceptions pass, but end the process where one has left its GPU unusable.

    After an illegal access or a failed assertion on a device every later call of CUDA in the process raises, so each
    image that the process was given would become an error row. Ray starts a process that ended again and gives it the
    same images, one by one; one that breaks the GPU again becomes an error row (`pipeline.run.attempts`).

    Args:
        device: that the work is done on, a name of torch's; nothing is asked of `cpu`.
    """
    try:
        yield
    except Exception:
        if device != "cpu" and (gone := _why_unusable(device)):
            logging.getLogger(__name__).exception("this process ends: its GPU answers no more (%s)", gone)
            os._exit(1)  # not `sys.exit`: what torch frees at an ordinary end needs the GPU
        raise


def _why_unusable(device: str) -> str | None:
    import torch

    try:
        torch.cuda.synchronize(device)
    except Exception as error:  # torch raises several types
        return str(error)
    return None
