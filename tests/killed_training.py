"""What a training on photographs that was killed and goes on must give; for the FCN and for the light DeconvNet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.training.fcn.loop import Training, load_training, save_training, train


def check_that_a_killed_run_goes_on(
    folder: Path, config: Any, fresh: Callable[[Any], Training], surroundings: Callable[..., Any], killed_at: int
) -> None:
    """Kill a run at its first checkpoint, which it leaves in a folder; one that goes on there ends as one unkilled."""
    whole = fresh(config)
    train(whole, whole.net, config, surroundings(config))

    class KilledError(Exception):
        pass

    first = fresh(config)

    def save() -> None:
        save_training(folder, first)
        raise KilledError

    with pytest.raises(KilledError):
        train(first, first.net, config, surroundings(config, save))
    assert first.step == killed_at
    second = fresh(config)
    load_training(folder, second)
    train(second, second.net, config, surroundings(config))
    assert second.history == whole.history
    for name, tensor in whole.net.state_dict().items():
        torch.testing.assert_close(second.net.state_dict()[name], tensor, msg=name)
