"""Images in a tar file and in a Parquet file get the masks that they get as files of a folder."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from conftest import write_tiles
from container_files import files_in, hf_images, parquet_of, tar_of

from pipeline.config import DecodeConfig, PredictConfig, ProposeConfig, RefineConfig
from pipeline.inference.predictor import Predictor
from pipeline.inputs.manifest import build_manifest
from pipeline.models.checkpoint import Checkpoint, CheckpointInfo
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise
from pipeline.outputs.audit import audit
from pipeline.outputs.results import read_errors, read_results
from pipeline.outputs.writing import write_rows
from pipeline.run.record import unfinished
from pipeline.stages.decode import decode_stage
from pipeline.stages.predict import PredictStage
from pipeline.stages.propose import propose_stage
from pipeline.stages.refine import refine_stage
from pipeline.stages.rows import start_rows

CLASSES = ("background", "a", "b")
IMAGES = 12
AT_ONCE = 4


@pytest.fixture(scope="module")
def predict() -> PredictStage:
    torch.set_num_threads(1)
    net = DeconvNet(len(CLASSES), 1 / 16)
    initialise(net, seed=0)
    torch.nn.init.normal_(net.seg_score.weight, generator=torch.Generator().manual_seed(0))
    checkpoint = Checkpoint(net.eval(), CheckpointInfo(CLASSES, 1 / 16), "f" * 16)
    return PredictStage(Predictor(checkpoint, PredictConfig(device="cpu"), label_threshold=0.01), "f" * 16)


def make_inputs(folder: Path, images: int) -> dict[str, str]:
    """The same images, one of them cut off, as a folder and in archives, with a file that is none beside them."""
    photos = folder / "photos"
    photos.mkdir()
    write_tiles(photos, images)
    last = sorted(photos.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:500])
    files = files_in(photos)
    (folder / "x.tar").write_bytes(tar_of(files | {"00.json": b"{}"}))
    (folder / "x.parquet").write_bytes(
        parquet_of({"image": hf_images(list(files.values())), "label": range(len(files))}, rows_in_a_group=6)
    )
    return {name: str(folder / name) for name in ("photos", "x.tar", "x.parquet")}


def segment(manifest: pa.Table, predict: PredictStage, output: Path, stop_after: int | None = None) -> None:
    """The stages on what is left of a manifest, a few images at a time; ends early as a run that is killed does."""
    left = unfinished(str(output), manifest)[:stop_after]
    for first in range(0, len(left), AT_ONCE):
        table = decode_stage(start_rows(left[first : first + AT_ONCE]), DecodeConfig(max_side=64))
        table = refine_stage(predict(propose_stage(table, ProposeConfig(proposals=2))), RefineConfig(crf="none"), 3)
        write_rows(str(output), table.to_pylist(), CLASSES)


def masks_of(output: Path, names: Sequence[str]) -> dict[str, bytes]:
    found = {row["image_id"]: row["mask"] for row in read_results(str(output)).to_pylist()}
    assert set(found) == set(names)
    return {str(number): found[name] for number, name in enumerate(names)}


@pytest.mark.slow
def test_masks_errors_and_resuming_are_those_of_a_folder(tmp_path: Path, predict: PredictStage):
    inputs = make_inputs(tmp_path, IMAGES)
    good = IMAGES - 1
    names = {
        "photos": [f"{number:02}.jpg" for number in range(IMAGES)],
        "x.tar": [f"x.tar/{number:02}.jpg" for number in range(IMAGES)],
        "x.parquet": [f"x.parquet/{number:08}" for number in range(IMAGES)],
    }
    masks, errors = {}, {}
    for name, uri in inputs.items():
        manifest, output = build_manifest(uri, None), tmp_path / f"out-{name}"
        assert manifest["image_id"].to_pylist() == names[name]
        segment(manifest, predict, output, stop_after=7)  # within a row group
        assert len(unfinished(str(output), manifest)) == IMAGES - 7
        segment(manifest, predict, output)
        assert audit(str(output), manifest).complete
        masks[name] = masks_of(output, names[name][:good])
        (error,) = read_errors(str(output)).to_pylist()
        assert error["image_id"] == names[name][-1]
        errors[name] = (error["error_stage"], error["error_type"], error["error_message"])
    assert masks["x.tar"] == masks["x.parquet"] == masks["photos"]
    assert len(set(masks["photos"].values())) > good // 2  # they are not all alike
    assert errors["x.tar"] == errors["x.parquet"] == errors["photos"]
    assert errors["photos"][:2] == ("decode", "truncated")
