"""The predict stage of the main job as a function of tables: the network, held once for each process. No Ray here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import SegmentConfig
from pipeline.config.stages import Precision
from pipeline.errors import CheckpointError
from pipeline.inference.ensemble import Ensemble
from pipeline.inference.precision import in_best_precision, instructions
from pipeline.inference.predictor import Image, Prediction, Predictor, choose_device
from pipeline.inference.tiles import in_tiles
from pipeline.inference.whole_images import WholeImages
from pipeline.models.checkpoint import load_for_windows, read_info
from pipeline.models.checkpoint_header import check_network, joint_fingerprint
from pipeline.models.kinds import load_network
from pipeline.models.members import WholeImageNetwork
from pipeline.stages.device import check_gpu, ending_with_its_gpu
from pipeline.stages.load import Process, unheard
from pipeline.stages.rows import Row, boxes_of, image_of, pack, run_together


class PredictStage:
    """Holds the network; adds to each image the probabilities of the classes that can still win."""

    def __init__(self, predictor: Predictor | WholeImages, fingerprint: str) -> None:
        self._predictor = predictor
        self._fingerprint = fingerprint
        self.num_classes = predictor.num_classes

    def __call__(self, table: pa.Table) -> pa.Table:
        """Predict many images of the table together; if that raises, one by one, so that only bad ones fail."""
        return run_together(table, "predict", self._predict, self.num_classes)

    def predict(self, images: Sequence[Image], boxes: Sequence[NDArray[np.floating]]) -> list[Prediction]:
        """Class probabilities of images; boxes are used if the network sees proposals."""
        with ending_with_its_gpu(str(self._predictor.device)):
            return self._predictor.predict(images, boxes)

    def _predict(self, rows: list[Row]) -> list[Row]:
        predictions = self.predict([image_of(row) for row in rows], [boxes_of(row) for row in rows])
        return [
            {
                "class_ids": pack(prediction.class_ids_K),
                "probabilities": pack(prediction.probabilities_KHW),
                "log_probabilities": (
                    None if prediction.log_probabilities_KHW is None else pack(prediction.log_probabilities_KHW)
                ),
                "model_fingerprint": self._fingerprint,
                "boxes": None,
            }
            for prediction in predictions
        ]


def load(process: Process) -> PredictStage:
    """`load_predict` with the run's settings."""
    return load_predict(process.config, process.gpus, process.log)


def load_predict(config: SegmentConfig, gpus: float, log: Callable[[str], None] = unheard) -> PredictStage:
    """Load the network for a process that shares the machine with others.

    Args:
        config: the job's settings.
        gpus: the number of GPUs that the process was given.
        log: on a CPU, gets a line with the precision and its reason, if the settings leave it open.

    Raises:
        RuntimeError: a GPU was given, `device` does not exclude it, and torch sees none.
        CheckpointError: the weights cannot be used.
    """
    if config.predict.device != "cpu":
        check_gpu(gpus, "--device cpu")
    # One thread: with several processes on a core, their threads would wait for each other at every layer.
    torch.set_num_threads(1)
    if config.predict.precision != "auto" or choose_device(config.predict.device).type != "cpu":
        return load_in_one_precision(config)

    def in_precision(precision: Precision) -> PredictStage:
        return load_in_one_precision(replace(config, predict=replace(config.predict, precision=precision)))

    stage, why = in_best_precision(in_precision, config.predict.micro_batch, instructions())
    log(why)
    return stage


def load_in_one_precision(config: SegmentConfig) -> PredictStage:
    """`load_predict` where nothing is left to choose; `precision auto` is `float32` here."""
    threshold = config.refine.label_threshold
    logs = config.save_probabilities or config.refine.exact_unaries
    if config.whole_images:
        alone = in_tiles(load_network(config.weights), config.predict.tile)
        return PredictStage(WholeImages(alone, config.predict, threshold, log_probabilities=logs), alone.fingerprint)
    data = storage.read_bytes(config.weights)
    info = read_info(data, config.weights)
    check_network(info, config.weights, whole_images=False)
    checkpoint = load_for_windows(data, config.weights)
    member = load_other(config, info.class_names)
    member = member and in_tiles(member, config.predict.tile)
    rule, weight = config.ensemble.ensemble, config.ensemble.ensemble_weight
    ensemble = Ensemble(member, rule, weight) if member is not None else None
    names = joint_fingerprint(checkpoint.fingerprint, member.fingerprint if member is not None else None)
    return PredictStage(Predictor(checkpoint, config.predict, threshold, ensemble, log_probabilities=logs), names)


def load_other(config: SegmentConfig, class_names: tuple[str, ...]) -> WholeImageNetwork | None:
    """Load the other network of the ensemble; None if the settings name none.

    Args:
        config: the job's settings.
        class_names: DeconvNet's.

    Raises:
        CheckpointError: the file cannot be used, or has other classes than DeconvNet.
    """
    uri = config.ensemble.fcn
    if uri is None:
        return None
    member = load_network(uri, config.ensemble.fcn_kind)
    if member.class_names not in {None, class_names} or member.num_classes != len(class_names):
        raise CheckpointError(
            f"the networks of the ensemble know different classes: {config.weights} {described(class_names)}, "
            f"{uri} {described(member.class_names) if member.class_names else member.num_classes}; give two networks "
            "with the same classes in the same order, or the first one alone, without --fcn"
        )
    return member


def described(class_names: tuple[str, ...]) -> str:
    """A class list for a message."""
    return f"{len(class_names)} ({', '.join(class_names[:4])}, ...)"
