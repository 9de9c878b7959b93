"""Whether a process has the GPU that it was given. No Ray here; torch is imported when it is asked."""

from __future__ import annotations


def check_gpu(gpus: float, instead: str) -> None:
    """Make sure that a GPU which was paid for is not silently left idle.

    Args:
        gpus: what the process was given.
        instead: the options that do without.

    Raises:
        RuntimeError: a GPU was given, and torch sees none.
    """
    import torch  # noqa: PLC0415  (half a gigabyte that most stages do not need)

    if gpus and not torch.cuda.is_available():
        raise RuntimeError(
            f"this process was given a GPU, but torch sees none: look at the driver and at torch's build, or choose "
            f"{instead}"
        )
