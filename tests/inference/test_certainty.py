"""Windows left out where their pixels are certain, against loops over pixels and windows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ConfigError, PredictConfig
from pipeline.imaging.geometry import fed_rectangles
from pipeline.inference.aggregate import Canvas
from pipeline.inference.certainty import ROUND, next_round, top_probability
from pipeline.inference.crops import cut_crops
from pipeline.inference.ensemble import Ensemble
from pipeline.inference.predictor import Predictor
from pipeline.models.checkpoint import Checkpoint, CheckpointInfo
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise

torch.set_num_threads(1)
CPU = torch.device("cpu")
SURE = 3000.0  # of the last layer: with its usual weights, the scores of a network this narrow are all nearly equal


def naive_top(scores_CHW: np.ndarray) -> np.ndarray:
    """Probability of the most probable class of each pixel, pixel by pixel."""
    odds = np.exp(scores_CHW.astype(np.float64))
    return np.array([[odds[:, r, c].max() / odds[:, r, c].sum() for c in range(odds.shape[2])]
                     for r in range(odds.shape[1])])  # fmt: skip


def naive_round(
    top_HW: np.ndarray, windows: list[np.ndarray], certain: float, most: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`next_round` by loops over the pixels whose centres lie in a window."""
    taken, left = [], list(windows)
    while left and len(taken) < most:
        window = left.pop(0)
        x0, y0, x1, y1 = window
        inside = [top_HW[r, c] for r, c in np.ndindex(top_HW.shape) if x0 <= c + 0.5 < x1 and y0 <= r + 0.5 < y1]
        if inside and np.mean(inside) <= certain:
            taken.append(window)
    return taken, left


# Around a 12x16 image: inside it, across its edges and wholly outside.
windows_strategy = st.lists(
    st.tuples(st.floats(-10, 20), st.floats(-10, 16), st.floats(0.3, 20), st.floats(0.3, 20)).map(
        lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]])
    ),
    max_size=7,
)


@settings(max_examples=60, deadline=None)
@given(windows_strategy, st.floats(0.5, 1), st.integers(1, 4), st.integers(0, 2**31))
def test_a_round_agrees_with_loops_over_pixels(windows, certain, most, seed):
    scores_CHW = np.random.default_rng(seed).normal(0, 3, (3, 12, 16)).astype(np.float32)
    top_HW = top_probability(torch.from_numpy(scores_CHW)).numpy()
    np.testing.assert_allclose(top_HW, naive_top(scores_CHW), atol=1e-6)
    rectangles_N4 = np.array(windows).reshape(-1, 4)
    now_K4, later_M4 = next_round(top_HW, rectangles_N4, certain, most)
    taken, left = naive_round(top_HW, windows, certain, most)
    np.testing.assert_array_equal(now_K4, np.array(taken).reshape(-1, 4))
    # A full round leaves the rest undecided, also windows that the next one leaves out.
    np.testing.assert_array_equal(later_M4, np.array(left).reshape(-1, 4))


def test_a_pixel_without_evidence_is_as_uncertain_as_can_be_and_the_largest_scores_are_no_more_than_certain():
    scores_CHW = torch.tensor([[0.0, 1e4], [0.0, 0.0], [0.0, -1e4], [0.0, 0.0]]).view(4, 1, 2)
    assert top_probability(scores_CHW).tolist() == [[0.25, 1.0]]


def test_a_window_where_scores_are_not_numbers_is_computed():
    top_HW = top_probability(torch.full((3, 8, 8), float("nan"))).numpy()
    now_K4, _ = next_round(top_HW, np.array([[0.0, 0.0, 8.0, 8.0]]), 0.5)
    assert len(now_K4) == 1


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    net = DeconvNet(4, width=1 / 16)
    initialise(net, seed=1)
    torch.nn.init.normal_(net.seg_score.weight, std=SURE, generator=torch.Generator().manual_seed(1))
    return Checkpoint(net.eval(), CheckpointInfo(("background", "a", "b", "c"), 1 / 16), "fingerprint")


def some_images() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images of all sizes, with more windows than a round has, fewer, and none."""
    rng = np.random.default_rng(5)
    shapes, counts = [(40, 60), (30, 30), (50, 32), (24, 24)], [2 * ROUND + 3, 0, ROUND + 5, 3]
    images = [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in shapes]
    boxes = []
    for (height, width), count in zip(shapes, counts, strict=True):
        corners = rng.uniform(-5, 12, (count, 2))
        boxes.append(np.concatenate([corners, corners + rng.uniform(8, [width, height], (count, 2))], 1))
    return images, [one.astype(np.float32) for one in boxes]


def naive_scores(
    checkpoint: Checkpoint,
    image: np.ndarray,
    boxes: np.ndarray,
    aggregation: str,
    certain: float,
    known_HW: np.ndarray | None = None,
) -> tuple[torch.Tensor, int]:
    """The aggregated scores of an image and how many windows they come from, window by window."""
    canvas = Canvas(4, *image.shape[:2], aggregation, CPU)
    left, computed = list(fed_rectangles(boxes, "250-224")), 0
    while left:
        top_HW = naive_top(canvas.scores().numpy())
        top_HW = top_HW if known_HW is None else np.maximum(top_HW, known_HW)
        taken, left = naive_round(top_HW, left, certain, ROUND)
        for rectangle in taken:
            crop = cut_crops(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(rectangle[None]))
            with torch.inference_mode():
                canvas.paste(checkpoint.net(checkpoint.info.preprocessing(crop))[0], rectangle)
            computed += 1
    return canvas.scores(), computed


def count_crops(predictor: Predictor) -> list[int]:
    """The sizes of the micro-batches that the predictor's network will get."""
    net, crops = predictor._net, []

    def counted(crops_N3HW):
        crops.append(len(crops_N3HW))
        return net(crops_N3HW)

    predictor._net = counted
    return crops


@pytest.mark.parametrize(("aggregation", "certain"), [("max", 0.7), ("sum", 0.9), ("average", 0.7)])
@pytest.mark.parametrize("micro_batch", [3, 64])
def test_an_image_gets_the_windows_of_a_naive_loop_in_any_company(checkpoint, aggregation, certain, micro_batch):
    images, boxes = some_images()
    config = PredictConfig(device="cpu", aggregation=aggregation, skip_certain=certain, micro_batch=micro_batch)
    predictor = Predictor(checkpoint, config, 0.0)
    crops = count_crops(predictor)
    expected = [naive_scores(checkpoint, *one, aggregation, certain) for one in zip(images, boxes, strict=True)]
    for found, (scores, _) in zip(predictor.aggregate(images, boxes), expected, strict=True):
        torch.testing.assert_close(found, scores, atol=2e-3, rtol=1e-3)
    computed = [count for _, count in expected]
    assert sum(crops) == sum(computed)
    assert max(crops) <= micro_batch
    # The loop says something: a window was left out, and a round after the first one was computed.
    assert sum(computed) < sum(map(len, boxes))
    assert max(computed) > ROUND


class HalfSure:
    """A network for whole images that knows the left half of each, and nothing of the right one."""

    class_names, num_classes, fingerprint = None, 4, "half"

    def to(self, device, dtype):
        return self

    def scores(self, image_3HW):
        scores_CHW = torch.zeros(4, *image_3HW.shape[1:])
        scores_CHW[2, :, : image_3HW.shape[2] // 2] = 9.0
        return scores_CHW


def test_an_ensemble_leaves_out_what_the_other_network_is_certain_of(checkpoint):
    images, boxes = some_images()
    ensemble = Ensemble(HalfSure(), "mean", 0.4)
    predictor = Predictor(checkpoint, PredictConfig(device="cpu", skip_certain=0.7), 0.0, ensemble)
    crops, computed = count_crops(predictor), 0
    for image, some, found in zip(images, boxes, predictor.predict(images, boxes), strict=True):
        other_CHW = HalfSure().scores(torch.from_numpy(image).permute(2, 0, 1))
        own_CHW, count = naive_scores(checkpoint, image, some, "max", 0.7, naive_top(other_CHW.numpy()))
        expected_CHW = 0.4 * own_CHW.softmax(0) + 0.6 * other_CHW.softmax(0)
        np.testing.assert_allclose(found.probabilities_KHW, expected_CHW.numpy()[found.class_ids_K], atol=2e-3)
        computed += count
    alone = sum(naive_scores(checkpoint, *one, "max", 0.7)[1] for one in zip(images, boxes, strict=True))
    assert sum(crops) == computed < alone


def test_by_default_no_window_is_left_out(checkpoint):
    images, boxes = some_images()
    predictor = Predictor(checkpoint, PredictConfig(device="cpu"), 0.0)
    crops = count_crops(predictor)
    predictor.aggregate(images, boxes)
    assert sum(crops) == sum(map(len, boxes))


@pytest.mark.parametrize("certain", [0.49, 1.01, float("nan")])
def test_a_probability_that_is_none_is_refused(certain):
    with pytest.raises(ConfigError, match="--skip-certain is"):
        PredictConfig(skip_certain=certain)
