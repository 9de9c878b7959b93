"""A class of the user's, `module:Class`: docs/extending.md says what it has."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import storage
from pipeline.config.networks import KINDS, NetworkName
from pipeline.errors import CheckpointError

MODULES = ()


@dataclass(frozen=True)
class OwnNetwork:
    """An instance of the class, with what is checked of it."""

    made: Any
    name: str
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """Number of score maps."""
        return len(self.class_names)

    def to(self, device: torch.device, dtype: torch.dtype) -> OwnNetwork:
        """The same network; a class without `to`, which torch's modules have, stays on the CPU. Its own precision."""
        del dtype
        if self._moves:
            self.made.to(device)
        return self

    @property
    def _moves(self) -> bool:
        return callable(getattr(self.made, "to", None))

    @torch.inference_mode()
    def scores(self, image_3HW: Tensor) -> Tensor:
        """What the class returns, float32.

        Raises:
            CheckpointError: it is no tensor `[C, H, W]`.
        """
        found = self.made.scores(image_3HW if self._moves else image_3HW.cpu())
        expected = [self.num_classes, *image_3HW.shape[1:]]
        if not isinstance(found, Tensor) or list(found.shape) != expected:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise CheckpointError(f"{self.name}.scores returned {got} for an image; a tensor {expected} is needed")
        return found.to(image_3HW.device, torch.float32)


def load(name: NetworkName) -> OwnNetwork:
    """Import the module, from the working directory too, and make an instance.

    Raises:
        CheckpointError: there is no such module or class, it cannot be made, or lacks `class_names` or `scores`.
        OSError: a file of its `weights` cannot be read.
    """
    module_name, _, class_name = name.what.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109  (as text)
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
        made = getattr(module, class_name)()
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0]:
            raise CheckpointError(f"{name} cannot be imported: {error}") from error
        raise CheckpointError(
            f"{name}: there is no module {module_name} in {Path.cwd()} or among the installed ones; a network is FILE, "
            f"{', '.join(KINDS.values())} or module:Class"
        ) from error
    except Exception as error:  # whatever the user's code raises
        raise CheckpointError(f"{name} cannot be made: {type(error).__name__}: {error}") from error
    if isinstance(made, nn.Module):
        made.eval()
    names = getattr(made, "class_names", None)
    if isinstance(names, str) or not isinstance(names, Sequence) or not callable(getattr(made, "scores", None)):
        raise CheckpointError(f"{name} needs `class_names`, a list of names, and a method `scores`")
    return OwnNetwork(made, name.what, tuple(map(str, names)), _fingerprint(type(made), getattr(made, "weights", ())))


def _fingerprint(cls: type[Any], weights: str | PathLike[str] | Sequence[str | PathLike[str]]) -> str:
    """Of the file that the class stands in, and of the files that its `weights` name."""
    source = inspect.getsourcefile(cls)
    whole = hashlib.sha256(Path(source).read_bytes() if source else b"")
    for file in [weights] if isinstance(weights, str | PathLike) else weights:
        whole.update(hashlib.sha256(storage.read_bytes(fspath(file))).digest())
    return whole.hexdigest()[:16]
