"""Every error that this project raises on purpose; the jobs end with the exit code in the last column.

    PipelineError
    ├── UserError (a ValueError)        something given cannot be used; nothing was changed             2
    │   ├── ConfigError                 a setting out of its range, or settings that contradict
    │   ├── StorageError                an address that cannot be used
    │   ├── DatasetError                annotated images, lists or indexes that cannot be used
    │   ├── ManifestError               an input without a usable manifest
    │   ├── InventoryError              an S3 Inventory that cannot be read
    │   ├── ImageError                  bytes that are no usable image
    │   ├── CheckpointError             a file that is no checkpoint, or does not fit
    │   ├── FolderError                 an output that belongs to something else
    │   │   └── FolderInUseError        an output that another run is writing to
    │   ├── ResultsError                a folder that cannot be read as results
    │   ├── EvaluationError             results and ground truth that cannot be compared
    │   └── PoolError                   processes that do not fit the cluster
    ├── StoppedError                    the same command goes on from here                              3
    │   ├── LeaseError                  another run took the output over
    │   └── WorkBrokenError             the cluster lost work that it could not repeat (an OSError)
    ├── FailedError                     what came out is no result; other settings or data are needed   4
    │   ├── TooManyErrors               more images failed than the settings allow
    │   ├── SegmentError                an image of `pipeline.segment` gave no mask
    │   └── TrainingError               the loss exploded, or the workers failed
    └── ClusterError                    no Ray cluster could be reached or started (a ConnectionError)  5

An OSError of a file or a store counts as UserError before a job has claimed its output, and as StoppedError after.
"""

from __future__ import annotations

from typing import Literal

ErrorKind = Literal["empty", "not_an_image", "unreadable", "truncated", "too_large", "unsupported"]


class PipelineError(Exception):
    """The root of the tree; the message is one line for people."""


class UserError(PipelineError, ValueError):
    """Something given cannot be used; the message names it and says what to do."""


class ConfigError(UserError):
    """A setting is out of its range; the message names the setting as an option, its value and what is allowed."""


class StorageError(UserError):
    """An address that cannot be used; the message says why, without credentials."""


class DatasetError(UserError):
    """Annotated images, lists of names or classes, or an index of windows that cannot be used."""


class ManifestError(UserError):
    """An input without a usable manifest; the message says what was looked for and what to do."""


class InventoryError(UserError):
    """A manifest.json that cannot be read as an S3 Inventory; the message says why."""


class ImageError(UserError):
    """Bytes that are not a usable image.

    Attributes:
        kind: `empty`: no bytes; `not_an_image`: no supported format's signature; `unreadable`: damaged; `truncated`:
            ends early; `too_large`: more pixels than allowed, found before decoding; `unsupported`: an intact image
            whose pixels have no clear meaning as RGB (32-bit integer, float, Lab).
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(kind, message)  # both, so that the error survives pickling between processes
        self.kind: ErrorKind = kind

    def __str__(self) -> str:
        return str(self.args[1])


class CheckpointError(UserError):
    """A file is not a checkpoint of this project, or does not fit; the message says what to do."""


class FolderError(UserError):
    """The output folder holds something that this call must not mix with; the message says what differs."""


class FolderInUseError(FolderError):
    """Another run is writing to the output folder."""


class ResultsError(UserError):
    """An output folder that cannot be read as results; the message names the file or says what is missing."""


class EvaluationError(UserError):
    """Results and ground truth that cannot be compared; the message says which and why."""


class PoolError(UserError):
    """The pools cannot all be placed; the message has the arithmetic."""


class StoppedError(PipelineError, RuntimeError):
    """The work ended early; nothing that was finished is lost, and the same command continues."""


class LeaseError(StoppedError):
    """Another run took the output folder over."""


class WorkBrokenError(StoppedError, OSError):
    """The cluster lost work that it could not repeat."""


class FailedError(PipelineError, RuntimeError):
    """The work ended without a usable result."""


class TooManyErrors(FailedError):  # noqa: N818  (not an error of the program)
    """More images fail than a run allows."""


class SegmentError(FailedError):
    """A stage failed on an image given to `pipeline.segment`, or skipped it; the message says which and why."""


class TrainingError(FailedError):
    """Training cannot go on; the message says why and what to do."""


class ClusterError(PipelineError, ConnectionError):
    """No cluster could be reached or started."""


def kinds_of(error: type[PipelineError]) -> set[type[PipelineError]]:
    """An error's class and all classes below it in the tree."""
    return {error}.union(*(kinds_of(kind) for kind in error.__subclasses__()))
