"""IoU against a brute-force reference, and the join of results with masks in VOC's layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_files import NAMES, labels, write_results, write_truth
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import EvaluationError, ResultsError
from pipeline.evaluation.metrics import confusion_matrix, mean_iou, per_class_iou, pixel_accuracy
from pipeline.evaluation.results import evaluate_results
from pipeline.evaluation.truths import truth_name
from pipeline.imaging.classes import VOC_CLASSES, VOID, voc_palette
from pipeline.imaging.images import decode_mask, encode_mask


def test_a_matrix_by_hand():
    truth = labels([0, 0, 1], [1, VOID, 2])
    predicted = labels([0, 1, 1], [1, 2, 0])
    confusion = confusion_matrix(truth, predicted, 4)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(per_class_iou(confusion), [1 / 3, 2 / 3, 0, np.nan])
    assert mean_iou(confusion) == pytest.approx(1 / 3)
    assert pixel_accuracy(confusion) == pytest.approx(3 / 5)


SHAPE = (6, 7)
TRUTH = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, 2, 3, VOID]))
PREDICTED = arrays(np.uint8, SHAPE, elements=st.integers(0, 3))


@given(TRUTH, PREDICTED)
@settings(max_examples=2 * settings().max_examples)
def test_the_figures_agree_with_sets_of_pixels(truth, predicted):
    confusion = confusion_matrix(truth, predicted, 4)
    pixels = [p for p in np.ndindex(SHAPE) if truth[p] != VOID]
    expected = []
    for label in range(4):
        true = {p for p in pixels if truth[p] == label}
        found = {p for p in pixels if predicted[p] == label}
        expected.append(len(true & found) / len(true | found) if true | found else np.nan)
    np.testing.assert_allclose(per_class_iou(confusion), expected)
    present = [iou for iou in expected if not np.isnan(iou)]
    if pixels:
        assert mean_iou(confusion) == pytest.approx(sum(present) / len(present))
        assert pixel_accuracy(confusion) == pytest.approx(sum(truth[p] == predicted[p] for p in pixels) / len(pixels))
    else:
        assert np.isnan(mean_iou(confusion))
        assert np.isnan(pixel_accuracy(confusion))


@given(TRUTH, PREDICTED, TRUTH, PREDICTED)
@settings(max_examples=30, deadline=None)
def test_matrices_of_images_add_up(truth1, predicted1, truth2, predicted2):
    together = confusion_matrix(np.vstack([truth1, truth2]), np.vstack([predicted1, predicted2]), 4)
    apart = confusion_matrix(truth1, predicted1, 4) + confusion_matrix(truth2, predicted2, 4)
    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize(("truth", "predicted", "complaint"), [
    (labels([0, 1]), labels([0, 4]), "result holds label 4"),
    (labels([0, VOID]), labels([0, 4]), "result holds label 4"),
    (labels([0, VOID]), labels([0, VOID]), "result holds label 255"),
    (labels([0, 4]), labels([0, 1]), "ground truth holds label 4"),
    (labels([0, 1]), labels([0], [1]), "2x1 pixels, the result 1x2"),
])  # fmt: skip
def test_maps_that_cannot_be_compared(truth, predicted, complaint):
    with pytest.raises(ValueError, match=complaint):
        confusion_matrix(truth, predicted, 4)


def test_254_classes_do_not_overflow():
    truth = np.full((1, 3), 253, dtype=np.uint8)
    assert confusion_matrix(truth, truth, 254)[253, 253] == 3


def test_results_are_joined_by_name(tmp_path: Path):
    write_truth(tmp_path / "voc", {"x": labels([1, 1]), "y z": labels([2, VOID]), "w": labels([0, 0])})
    write_results(tmp_path / "run", {"JPEGImages/x.jpg": labels([1, 0]), "y%20z.png": labels([2, 3]),
                                     "other.jpg": labels([3])})  # fmt: skip
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))
    assert evaluation.class_names == NAMES
    assert evaluation.images == 2
    assert evaluation.confusion.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert evaluation.missing == ("w",)
    assert evaluation.without_truth == ("other.jpg",)
    assert evaluation.problems == ()


def test_names_may_have_spaces(tmp_path: Path):
    write_truth(tmp_path / "voc", {"süd tirol": labels([0, 1])}, val=["süd tirol"])
    write_results(tmp_path / "run", {"Ferien%202019/süd%20tirol.jpg": labels([0, 1])})
    assert evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"), "val").images == 1


def test_a_split_limits_what_is_compared_and_asked_for(tmp_path: Path):
    truth = {name: labels([1]) for name in ("a", "b", "c", "d")}
    write_truth(tmp_path / "voc", truth, val=["a", "b"])
    write_results(tmp_path / "run", {"a.jpg": labels([1]), "c.jpg": labels([2])})
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"), "val")
    assert (evaluation.images, evaluation.missing, evaluation.without_truth) == (1, ("b",), ())
    assert evaluation.confusion.sum() == 1


def test_a_list_may_hold_names_with_spaces_and_start_with_a_byte_order_mark(tmp_path: Path):
    write_truth(tmp_path / "voc", {"y z": labels([1]), "w": labels([1])}, val=["\ufeffy z", "w"])
    write_results(tmp_path / "run", {"y%20z.png": labels([1])})
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"), "val")
    assert (evaluation.images, evaluation.missing) == (1, ("w",))
    (tmp_path / "voc/ImageSets/Segmentation/val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(EvaluationError, match=r"val\.txt is no list of names"):
        evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"), "val")


def test_another_size_is_a_problem_of_its_image_only(tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([1, 1]), "b": labels([1, 1])})
    write_results(tmp_path / "run", {"a.jpg": labels([1, 1]), "b.jpg": labels([1], [1])})
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))
    assert evaluation.images == 1
    assert evaluation.missing == ()
    assert [(problem.image, "2x1" in problem.message) for problem in evaluation.problems] == [("b.jpg", True)]


def test_the_summary_holds_json_values(tmp_path: Path):
    import json

    write_truth(tmp_path / "voc", {"a": labels([0, 1])})
    write_results(tmp_path / "run", {"a.jpg": labels([0, 2])})
    summary = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc")).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["mean_iou"] == pytest.approx(1 / 3)
    assert summary["classes"][3] == {"name": "cow", "iou": None, "true_pixels": 0, "predicted_pixels": 0}
    assert summary["classes"][2] == {"name": "dog", "iou": 0.0, "true_pixels": 0, "predicted_pixels": 1}


def test_what_cannot_be_evaluated_is_said(tmp_path: Path):
    run, voc = str(tmp_path / "run"), str(tmp_path / "voc")
    with pytest.raises(ResultsError, match="no results"):
        evaluate_results(run, voc)
    write_results(tmp_path / "run", {"a.jpg": labels([1])})
    with pytest.raises(EvaluationError, match="VOC's layout"):
        evaluate_results(run, voc)
    write_truth(tmp_path / "voc", {"a": labels([1])}, val=["a", "b"], empty=[])
    with pytest.raises(EvaluationError, match=r"test\.txt does not exist"):
        evaluate_results(run, voc, "test")
    with pytest.raises(EvaluationError, match=r"1 of the 2 images .* b for one"):
        evaluate_results(run, voc, "val")
    with pytest.raises(EvaluationError, match="lists no image"):
        evaluate_results(run, voc, "empty")


def test_ground_truth_of_other_classes_is_refused(tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([0, 4])})
    write_results(tmp_path / "run", {"a.jpg": labels([0, 1])})
    with pytest.raises(EvaluationError, match=r"a\.png holds label 4, but the results have only 4 classes"):
        evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))


def test_damaged_ground_truth_is_named(tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([0, 1])})
    (tmp_path / "voc" / "SegmentationClass" / "a.png").write_bytes(b"rubbish")
    write_results(tmp_path / "run", {"a.jpg": labels([0, 1])})
    with pytest.raises(EvaluationError, match=r"a\.png"):
        evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))


def test_two_results_for_one_ground_truth_are_refused(tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([1])})
    write_results(tmp_path / "run", {"s/a.jpg": labels([1]), "t/a.png": labels([1])})
    with pytest.raises(EvaluationError, match=r"a\.(jpg|png) and .*a\.(jpg|png)"):
        evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))


@pytest.mark.parametrize(("image_id", "name"), [
    ("a.jpg", "a"), ("s/t/b.v2.PNG", "b.v2"), ("scan.07", "scan.07"), ("s/plain", "plain"), ("x%20y.jpeg", "x y"),
])  # fmt: skip
def test_a_ground_truth_is_looked_for_under_the_images_name(image_id, name):
    assert truth_name(image_id) == name


def test_two_ground_truths_of_one_name_are_refused(tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([1])})
    (tmp_path / "voc" / "SegmentationClass" / "s").mkdir()
    (tmp_path / "voc" / "SegmentationClass" / "s" / "a.png").write_bytes(encode_mask(labels([0]), voc_palette()))
    write_results(tmp_path / "run", {"a.jpg": labels([1])})
    with pytest.raises(EvaluationError, match="have one name"):
        evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))


def test_nothing_in_common_is_said(tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([1])})
    write_results(tmp_path / "run", {"b.jpg": labels([1])})
    with pytest.raises(EvaluationError, match="none of the 1 ground truths"):
        evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))


def test_names_that_do_not_agree_are_shown_from_each_side(tmp_path: Path):
    write_truth(tmp_path / "voc", {"0001_mask": labels([1]), "0002_mask": labels([1])})
    write_results(tmp_path / "run", {"photos/0001.jpg": labels([1])})
    with pytest.raises(EvaluationError, match="a result is named 0001, a mask 0001_mask"):
        evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))


def test_masks_of_0_and_255_are_named_not_scored_as_background_alone(tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([0, VOID]), "b": labels([0, 1])})
    write_results(tmp_path / "run", {"a.jpg": labels([0, 1])})
    with pytest.raises(EvaluationError, match="nothing but 0 and 255"):
        evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))
    write_results(tmp_path / "both", {"a.jpg": labels([0, 1]), "b.jpg": labels([0, 1])})
    evaluation = evaluate_results(str(tmp_path / "both"), str(tmp_path / "voc"))
    assert evaluation.void_only == ("a",)
    assert evaluation.summary()["void_only"] == ["a"]


def test_a_ground_truth_of_before_the_exif_rotation_is_named(tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([1, 1]), "b": labels([1, 1])})
    write_results(tmp_path / "run", {"a.jpg": labels([1, 1]), "b.jpg": labels([1], [1])})
    (problem,) = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc")).problems
    assert "EXIF" in problem.message


def test_what_macos_leaves_is_no_ground_truth(tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([0, 1])})
    (tmp_path / "voc" / "SegmentationClass" / "._a.png").write_bytes(b"\0\5\x16\7")
    write_results(tmp_path / "run", {"a.jpg": labels([0, 1])})
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))
    assert (evaluation.images, evaluation.missing) == (1, ())


def test_own_coco_annotations_are_scored_by_file_name(tmp_path: Path):
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    square = [[2, 2, 6, 2, 6, 6, 2, 6]]
    content = {
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 90, "name": "cow"}],
        "images": [{"id": 41, "file_name": "yard/rex.jpg", "height": 8, "width": 8}],
        "annotations": [{"id": 1, "image_id": 41, "category_id": 9, "iscrowd": 0, "segmentation": square}],
    }
    (tmp_path / "coco" / "annotations" / "instances_val.json").write_text(json.dumps(content))
    result = np.zeros((8, 8), np.uint8)
    result[2:6, 2:6] = 2
    result[0, 0] = 1
    write_results(tmp_path / "run", {"yard/rex.jpg": result})
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "coco"), "val")
    expected = np.zeros((4, 4), int)
    expected[0, 0], expected[0, 1], expected[2, 2] = 47, 1, 16
    np.testing.assert_array_equal(evaluation.confusion, expected)
    with pytest.raises(EvaluationError, match="--split"):
        evaluate_results(str(tmp_path / "run"), str(tmp_path / "coco"))


def write_coco(root: Path, segmentations: dict[str, object]) -> None:
    """One image of 8x8 pixels a name, with one dog of such a segmentation."""
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances_val.json").write_text(json.dumps({
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 90, "name": "cow"}],
        "images": [{"id": number, "file_name": f"{name}.jpg", "height": 8, "width": 8}
                   for number, name in enumerate(segmentations)],
        "annotations": [{"id": 100 + number, "image_id": number, "category_id": 9, "segmentation": segmentation}
                        for number, segmentation in enumerate(segmentations.values())],
    }))  # fmt: skip


def test_images_whose_ground_truth_cannot_be_used_are_set_aside_and_counted(tmp_path: Path):
    square, far = [[2, 2, 6, 2, 6, 6, 2, 6]], [[2, 2, 6000, 2, 6, 6, 2, 6]]
    write_coco(tmp_path / "coco", {"good": square, "empty": [], "far": far, "text": "much"})
    result = np.zeros((8, 8), np.uint8)
    write_results(tmp_path / "run", {f"{name}.jpg": result for name in ("good", "empty", "far", "text")})
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "coco"), "val")
    assert (evaluation.images, evaluation.confusion.sum(), evaluation.confusion[2, 0]) == (1, 64, 16)
    said = {problem.image: problem.message for problem in evaluation.problems}
    assert set(said) == {"empty.jpg", "far.jpg", "text.jpg"}
    assert "annotation 101: its segmentation is empty or missing" in said["empty.jpg"]
    assert "annotation 102" in said["far.jpg"]
    assert "annotation 103" in said["text.jpg"]

    write_truth(tmp_path / "voc", {"good": result, "empty": result})
    (tmp_path / "voc" / "SegmentationClass" / "empty.png").write_bytes(b"rubbish")
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))
    assert evaluation.images == 1
    (problem,) = evaluation.problems
    assert "empty.png" in problem.message


def test_ground_truth_that_is_all_void_is_said(tmp_path: Path):
    write_truth(tmp_path / "voc", {"a": labels([VOID])})
    write_results(tmp_path / "run", {"a.jpg": labels([1])})
    with pytest.raises(EvaluationError, match="none of the 1 ground truths"):
        evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"))


def test_ground_truth_as_result_is_perfect_on_voc(tmp_path: Path, voc):
    names = (voc / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:25]
    masks = {name: decode_mask((voc / "SegmentationClass" / f"{name}.png").read_bytes()) for name in names}
    write_truth(tmp_path / "voc", masks, val=names)
    perfect = {f"JPEGImages/{name}.jpg": np.where(mask == VOID, np.uint8(0), mask) for name, mask in masks.items()}
    write_results(tmp_path / "run", perfect, VOC_CLASSES)
    evaluation = evaluate_results(str(tmp_path / "run"), str(tmp_path / "voc"), "val")
    assert (evaluation.images, evaluation.missing) == (25, ())
    assert mean_iou(evaluation.confusion) == 1
    assert evaluation.confusion.sum() == sum((mask != VOID).sum() for mask in masks.values())
