"""Pictures of photograph, ground truth and result."""

import numpy as np
from PIL import Image

from pipeline.imaging.classes import voc_palette
from pipeline.imaging.images import encode_mask
from pipeline.outputs.writing import write_rows
from pipeline.report.painter import GAP, LINE, grid, overlay, panel
from pipeline.report.panels import write_panels


def test_objects_are_tinted_and_background_and_void_are_not():
    image = np.full((2, 2, 3), 100, np.uint8)
    labels = np.array([[0, 1], [255, 0]], np.uint8)
    tinted = overlay(image, labels)
    assert (tinted[0, 0] == 100).all()
    assert (tinted[1, 0] == 100).all()
    expected = 0.35 * 100 + 0.65 * voc_palette()[1].astype(float)
    np.testing.assert_allclose(tinted[0, 1], expected, atol=0.51)


def test_a_panel_shows_the_photograph_first_and_a_legend_below():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    labels = np.zeros((40, 60), np.uint8)
    labels[10:20, 10:20] = 1
    sheet = panel(image, [labels, labels], ("background", "cat"))
    assert sheet.shape[1] == 3 * 60 + 2 * GAP
    np.testing.assert_array_equal(sheet[:40, :60], image)
    np.testing.assert_array_equal(sheet[:40, 60 + GAP : 120 + GAP], overlay(image, labels))
    assert (sheet[40:] == voc_palette()[1]).all(axis=2).any()  # the class's colour is in the legend


def test_titles_stand_above_and_a_long_legend_takes_more_lines():
    image = np.zeros((40, 60, 3), np.uint8)
    labels = (np.arange(40 * 60) % 9).reshape(40, 60).astype(np.uint8)
    names = ["background", *(f"a class called {number}" for number in range(8))]
    plain, titled = panel(image, [labels], names), panel(image, [labels], names, ["photograph", "result"])
    assert titled.shape[0] == plain.shape[0] + LINE
    np.testing.assert_array_equal(titled[LINE:], plain)
    assert (titled[:LINE, :60] < 100).any()
    assert (titled[:LINE, 60 + GAP :] < 100).any()
    below = plain[40:]
    assert all((below == voc_palette()[label]).all(axis=2).any() for label in range(1, 9))  # nothing is cut off


def test_a_grid_has_its_pictures_in_rows():
    pictures = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    canvas = grid(pictures, 2, 1, background=7)
    assert canvas[..., 0].tolist() == [
        [10, 10, 10, 7, 20, 20, 20], [10, 10, 10, 7, 20, 20, 20], [7] * 7,
        [30, 30, 30, 7, 7, 7, 7], [30, 30, 30, 7, 7, 7, 7],
    ]  # fmt: skip


def test_panels_of_a_run_are_written_for_images_with_a_ground_truth(tmp_path):
    for folder in ("photos", "voc/SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    labels = np.ones((8, 12), np.uint8)
    rows = []
    for name in ("a", "b", "c", "d", "e"):
        Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(tmp_path / "photos" / f"{name}.png")
        uri = str(tmp_path / "photos" / f"{name}.png")
        rows.append({"image_id": f"{name}.png", "uri": uri, "status": "ok", "mask": encode_mask(labels, voc_palette()),
                     "pixel_counts": [0, 96], "mean_probability": [None, 1.0]})  # fmt: skip
        truth = labels.T if name == "d" else labels  # of another size
        if name != "a":
            (tmp_path / "voc" / "SegmentationClass" / f"{name}.png").write_bytes(encode_mask(truth, voc_palette()))
    Image.fromarray(np.zeros((9, 12, 3), np.uint8)).save(tmp_path / "photos" / "e.png")  # changed since the run
    write_rows(str(tmp_path / "run"), rows, ("background", "cat"))
    run, voc = str(tmp_path / "run"), str(tmp_path / "voc")
    written = write_panels(run, voc, None, 5)
    assert written == [f"{run}/panels/{name}.png.png" for name in ("b", "c")]
    assert write_panels("there is no run", "nor truth", None, 0) == []
    with Image.open(written[0]) as picture:
        assert picture.size[0] == 3 * 12 + 2 * GAP
    (tmp_path / "voc" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "voc" / "ImageSets" / "Segmentation" / "val.txt").write_text("c")
    assert write_panels(run, voc, "val", 5) == written[1:]
    without_truth = write_panels(run, None, None, 2)
    assert without_truth == [f"{run}/panels/{name}.png.png" for name in ("a", "b")]
    with Image.open(without_truth[0]) as picture:
        assert picture.size[0] == 2 * 12 + GAP
