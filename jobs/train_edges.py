"""Train the learned edge detector on BSDS500, on one core, and score it on the images held out.

    python jobs/train_edges.py --data BSDS500 --output pipeline/checkpoints/edges.safetensors

Writes the network's weights, as float16 to save space, and a .json beside them: settings, parameters, F-measures. The
same data, settings and machine give the same file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import commands
from jobs.common import EXIT_DONE, call, end_process
from pipeline.config import ConfigError
from pipeline.config.edges import TrainEdgesConfig
from pipeline.inputs.named import check_named

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.datasets.bsds import Outlined


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; returns the exit code."""
    return call(commands.TRAIN_EDGES, arguments, run)


def run(config: TrainEdgesConfig) -> int:
    """Check, train, write, score."""
    check_named("data", config.data)
    import cv2  # these import torch, which neither the help nor a typing error needs
    import safetensors.torch
    import torch

    from pipeline.datasets.bsds import load_outlined
    from pipeline.models.edgenet import tensors
    from pipeline.training.edges.detector import train

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = load_outlined(config.data, "train")
    used, held_out = data[: len(data) - config.hold_out], data[len(data) - config.hold_out :]
    if not used:
        raise ConfigError(f"--hold-out is {config.hold_out}, and {config.data} has {len(data)} images: none are left")
    weights = {name: tensor.half() for name, tensor in tensors(train(used, config)).items()}
    record = {
        "config": asdict(config),
        "torch": torch.__version__,
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "held out": score(weights, held_out) if held_out else None,
    }
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, output, metadata={"trained": json.dumps(record)})
    output.with_suffix(".json").write_text(json.dumps(record, indent=1))
    print(json.dumps(record, indent=1))
    return EXIT_DONE


def score(weights: dict[str, Tensor], held_out: list[Outlined]) -> dict[str, Any]:
    """F-measures of the weights as written, in the numpy form that workers run."""
    from pipeline.evaluation.edges import edge_score, match_counts
    from pipeline.proposals.detectors.learned import learned_edges

    arrays = {name: tensor.float().numpy() for name, tensor in weights.items()}
    counts = [match_counts(learned_edges(one.image_HW3, arrays)[0], one.outlines_AHW) for one in held_out]
    return asdict(edge_score(counts)) | {"images": len(held_out)}


if __name__ == "__main__":
    end_process(main)
