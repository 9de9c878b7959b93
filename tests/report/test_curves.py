"""What people look at while a network learns, read back with other libraries."""

import csv
import io
import struct
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from torch import nn

from pipeline import storage
from pipeline.imaging.classes import VOID, voc_palette
from pipeline.models.checkpoint import Preprocessing
from pipeline.report.curves import COLUMNS, csv_bytes, write_curves, write_events
from pipeline.training.loop.metrics import Feed
from pipeline.training.loop.window_sheet import GAP, sheet, write_sheet


def line(epoch, value):
    figures = {"crops": 300, "loss": value, "pixel_accuracy": 1 - value, "mean_iou": 0.5 - value}
    validated = {name: figure / 2 for name, figure in figures.items()}
    return {
        "epoch": epoch,
        "steps": 10 * (epoch + 1),
        "learning_rate": 0.01,
        "seconds": 2.0,
        "train": figures,
        "val": validated,
    }


HISTORY = {"stage1": [line(0, 0.4), line(1, 0.3)], "stage2": [line(0, 0.25)]}


def test_the_table_has_a_row_for_each_epoch_of_each_stage(store):
    write_curves(store, HISTORY)
    data = storage.read_bytes(f"{store}/curves.csv")
    assert data == csv_bytes(HISTORY)
    rows = list(csv.reader(io.StringIO(data.decode())))
    assert rows[0] == list(COLUMNS)
    table = pandas.read_csv(io.BytesIO(data))
    assert table["stage"].tolist() == [1, 1, 2]
    assert table["epoch"].tolist() == [0, 1, 0]
    assert table["step"].tolist() == [10, 20, 10]
    assert table["val_loss"].tolist() == pytest.approx([0.2, 0.15, 0.125])
    assert table["train_mean_iou"].tolist() == pytest.approx([0.1, 0.2, 0.25])
    assert table["examples_per_second"].tolist() == [150, 150, 150]
    picture = np.asarray(Image.open(io.BytesIO(storage.read_bytes(f"{store}/curves.png"))).convert("RGB"))
    assert picture.shape[1] == 1200
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10  # something was drawn


def scalars_of(file: Path) -> dict[str, tuple[int, float]]:
    """Step and value under each name in a file of TensorBoard's, read by its format: length, CRC, record, CRC."""
    data, found = file.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        record, data = data[12 : 12 + length], data[16 + length :]
        event = Event.FromString(record)
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
    return found


def test_every_epoch_is_in_a_file_for_tensorboard_once_even_if_it_was_done_again(tmp_path):
    for epoch, value in ((0, 0.4), (1, 0.35), (1, 0.3)):
        write_events(str(tmp_path), 1, line(epoch, value))
    folder = tmp_path / "tensorboard" / "stage1"
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"events.out.tfevents.{step:08}" for step in (10, 20)]
    first, second = map(scalars_of, files)
    assert set(first) == {"lr", "examples_per_second"} | {
        f"{figure}/{part}" for figure in ("loss", "accuracy", "mean_iou") for part in ("train", "val")
    }
    assert first["loss/train"] == (10, pytest.approx(0.4))
    assert second["loss/train"] == (20, pytest.approx(0.3))
    assert second["mean_iou/val"] == (20, pytest.approx(0.1))


def test_the_sheet_shows_window_truth_and_prediction_side_by_side(tmp_path):
    images = torch.full((2, 3, 250, 250), 7, dtype=torch.uint8)
    labels = torch.full((2, 250, 250), 2, dtype=torch.uint8)
    labels[:, :125] = VOID
    net = nn.Conv2d(3, 4, 1)
    nn.init.zeros_(net.weight)
    net.bias.data = torch.tensor([0.0, 0.0, 0.0, 1.0])  # says class 3 everywhere
    write_sheet(str(tmp_path / "a.png"), net, (images, labels), Feed(Preprocessing(), 4))
    picture, palette = np.asarray(Image.open(tmp_path / "a.png")), voc_palette()
    assert picture.shape[0] == 224
    for left in (0, 3 * (224 + GAP) + GAP):  # two windows
        assert (picture[:, left : left + 224] == 7).all()
        truth = picture[:, left + 224 + GAP :][:, :224]
        assert (truth[:112] == palette[VOID]).all()
        assert (truth[112:] == palette[2]).all()
        assert (picture[:, left + 2 * (224 + GAP) :][:, :224] == palette[3]).all()


def test_a_sheet_of_four_windows_has_a_second_row():
    images = np.zeros((4, 5, 6, 3), np.uint8)
    labels = np.ones((4, 5, 6), np.uint8)
    assert sheet(images, labels, labels).shape == (5 + 2 * GAP + 5, 3 * (3 * (6 + GAP) + GAP) - 2 * GAP, 3)
