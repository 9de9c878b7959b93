"""Crops, aggregation and the predictor against slow references."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ConfigError, PredictConfig
from pipeline.imaging.geometry import fed_rectangles
from pipeline.inference.aggregate import Canvas, probabilities
from pipeline.inference.crops import cut_crops
from pipeline.inference.graphs import GraphedNet
from pipeline.inference.predictor import Predictor, choose_device
from pipeline.models.checkpoint import Checkpoint, CheckpointInfo, Preprocessing
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise

torch.set_num_threads(1)
CPU = torch.device("cpu")

# Boxes around a 30x40 image: inside it, across its edges, around it, and wholly outside.
box_strategy = st.tuples(st.floats(-60, 50), st.floats(-60, 40), st.floats(1, 120), st.floats(1, 120)).map(
    lambda b: np.array([[b[0], b[1], b[0] + b[2], b[1] + b[3]]])
)


def bilinear(image_HW3: np.ndarray, x: float, y: float) -> np.ndarray:
    """Value at a continuous place, between pixel centres, zero outside the image: straight from the definition."""
    height, width = image_HW3.shape[:2]
    column, row = x - 0.5, y - 0.5
    c0, r0 = int(np.floor(column)), int(np.floor(row))
    total = np.zeros(image_HW3.shape[2])
    for r, c in ((r0, c0), (r0, c0 + 1), (r0 + 1, c0), (r0 + 1, c0 + 1)):
        if 0 <= r < height and 0 <= c < width:
            total += (1 - abs(row - r)) * (1 - abs(column - c)) * image_HW3[r, c]
    return total


@settings(max_examples=15, deadline=None)
@given(box_strategy, st.sampled_from(["250-224", "direct"]), st.integers(0, 2**31))
def test_a_crop_is_the_resized_box_pixel_by_pixel(box, window, seed):
    rng = np.random.default_rng(seed)
    image_HW3 = rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    crop = cut_crops(torch.from_numpy(image_HW3).permute(2, 0, 1), torch.from_numpy(fed_rectangles(box, window)))[0]
    x0, y0, x1, y1 = box[0]
    side, offset = (250, 13) if window == "250-224" else (224, 0)
    for i, j in rng.integers(0, 224, (60, 2)):
        # pixel (i, j) of the crop is pixel (i + offset, j + offset) of the box resized to side x side
        x = x0 + (j + offset + 0.5) * (x1 - x0) / side
        y = y0 + (i + offset + 0.5) * (y1 - y0) / side
        np.testing.assert_allclose(crop[:, i, j].numpy(), bilinear(image_HW3.astype(float), x, y), atol=0.05)


def test_a_box_outside_the_image_gives_black():
    crop = cut_crops(torch.full((3, 10, 10), 200.0), torch.tensor([[20.0, 20.0, 40.0, 40.0]]))
    assert crop.abs().max() == 0


def naive_region(scores_CSS: np.ndarray, rectangle: np.ndarray, height: int, width: int) -> np.ndarray:
    """A score map resized back to its rectangle, zero outside it, NaN-free, by loops over pixels."""
    out = np.zeros((len(scores_CSS), height, width))
    x0, y0, x1, y1 = rectangle
    for r, c in np.ndindex(height, width):
        if x0 <= c + 0.5 < x1 and y0 <= r + 0.5 < y1:
            u = np.clip((c + 0.5 - x0) / (x1 - x0) * 224, 0.5, 223.5)  # constant beyond the outermost centres
            v = np.clip((r + 0.5 - y0) / (y1 - y0) * 224, 0.5, 223.5)
            out[:, r, c] = bilinear(scores_CSS.transpose(1, 2, 0), u, v)
    return out


@settings(max_examples=8, deadline=None)
@given(st.lists(box_strategy, max_size=4), st.sampled_from(["max", "sum", "average"]), st.integers(0, 2**31))
def test_aggregation_agrees_with_a_naive_loop(found, aggregation, seed):
    rng = np.random.default_rng(seed)
    height, width, classes = 30, 40, 3
    rectangles = np.concatenate([*found, np.zeros((0, 4))])
    maps = rng.normal(size=(len(rectangles), classes, 224, 224)).astype(np.float32)
    canvas = Canvas(classes, height, width, aggregation, CPU)
    for scores, rectangle in zip(maps, rectangles, strict=True):
        canvas.paste(torch.from_numpy(scores), rectangle)
    regions = [naive_region(s, r, height, width) for s, r in zip(maps, rectangles, strict=True)]
    if aggregation == "max":
        expected = np.max([np.zeros((classes, height, width)), *regions], axis=0)
    elif aggregation == "sum":
        expected = sum(regions, np.zeros((classes, height, width)))
    else:
        cover = sum(
            (naive_region(np.ones((1, 224, 224)), r, height, width)[0] > 0.5 for r in rectangles),
            np.zeros((height, width)),
        )
        expected = sum(regions, np.zeros((classes, height, width))) / np.maximum(cover, 1)
    np.testing.assert_allclose(canvas.scores().numpy(), expected, atol=2e-3)


def test_going_there_and_back_keeps_a_linear_image():
    """Bilinear resizing reproduces a linear function, so crop and paste must return it exactly inside the rectangle."""
    ys, xs = np.mgrid[0:60, 0:80] + 0.5
    image = torch.from_numpy(np.stack([xs, ys, xs + ys])).float()
    rectangle = fed_rectangles(np.array([[7.3, 4.2, 71.9, 55.0]]), "250-224")
    canvas = Canvas(3, 60, 80, "max", CPU)
    canvas.paste(cut_crops(image, torch.from_numpy(rectangle))[0], rectangle[0])
    x0, y0, x1, y1 = rectangle[0]
    inner = (xs > x0 + 1) & (xs < x1 - 1) & (ys > y0 + 1) & (ys < y1 - 1)
    np.testing.assert_allclose(canvas.scores().numpy()[:, inner], image.numpy()[:, inner], atol=1e-2)
    assert (canvas.scores().numpy()[:, (xs < x0) | (xs > x1) | (ys < y0) | (ys > y1)] == 0).all()


def test_softmax_is_uniform_where_nothing_was_said_and_sums_to_one():
    canvas = Canvas(4, 10, 10, "max", CPU)
    canvas.paste(torch.randn(4, 224, 224), np.array([0.0, 0.0, 5.0, 5.0]))
    p = probabilities(canvas.scores())
    torch.testing.assert_close(p.sum(0), torch.ones(10, 10))
    torch.testing.assert_close(p[:, 7, 7], torch.full((4,), 0.25))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    net = DeconvNet(4, width=1 / 16)
    initialise(net, seed=1)
    torch.nn.init.normal_(net.seg_score.weight, generator=torch.Generator().manual_seed(1))
    return Checkpoint(net.eval(), CheckpointInfo(("background", "a", "b", "c"), 1 / 16), "fingerprint")


def some_images(seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes, counts = [(40, 60), (33, 20), (50, 50), (8, 8)], [5, 0, 3, 1]
    images = [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in shapes]
    boxes = []
    for (height, width), count in zip(shapes, counts, strict=True):
        corners = rng.uniform(-5, 10, (count, 2))
        boxes.append(
            np.concatenate([corners, corners + rng.uniform(4, [width, height], (count, 2))], 1).astype(np.float32)
        )
    return images, boxes


@pytest.mark.parametrize("micro_batch", [1, 4, 64])
def test_micro_batches_do_not_change_the_result(checkpoint, micro_batch):
    images, boxes = some_images()
    reference = Predictor(checkpoint, PredictConfig(micro_batch=2, device="cpu"), label_threshold=0.0)
    expected = [reference.predict([i], [b])[0] for i, b in zip(images, boxes, strict=True)]
    got = Predictor(checkpoint, PredictConfig(micro_batch=micro_batch, device="cpu"), 0.0).predict(images, boxes)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one.class_ids_K, other.class_ids_K)
        np.testing.assert_allclose(one.probabilities_KHW, other.probabilities_KHW, atol=2e-3)


def test_the_predictor_is_crop_network_paste_softmax(checkpoint):
    images, boxes = some_images(3)
    predictor = Predictor(checkpoint, PredictConfig(device="cpu"), label_threshold=0.0)
    prediction = predictor.predict(images[:1], boxes[:1])[0]
    canvas = Canvas(4, 40, 60, "max", CPU)
    for rectangle in fed_rectangles(boxes[0], "250-224"):
        crop = cut_crops(torch.from_numpy(images[0]).permute(2, 0, 1), torch.from_numpy(rectangle[None]))
        with torch.inference_mode():
            canvas.paste(checkpoint.net(checkpoint.info.preprocessing(crop))[0], rectangle)
    expected = canvas.scores().softmax(0).numpy()
    np.testing.assert_allclose(prediction.probabilities_KHW, expected[prediction.class_ids_K], atol=2e-3)


def test_bfloat16_gives_nearly_the_same_probabilities(checkpoint):
    images, boxes = (part[2:] for part in some_images())
    exact, rounded = (
        Predictor(checkpoint, PredictConfig(device="cpu", precision=precision), 0.0).aggregate(images, boxes)
        for precision in ("float32", "bfloat16")
    )
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other) or not one.any()
        assert (probabilities(one) - probabilities(other)).abs().max() < 0.05


def test_threads_that_share_a_predictor_get_their_own_results(checkpoint):
    predictor = Predictor(checkpoint, PredictConfig(), label_threshold=0.0)
    batches = [some_images(seed) for seed in range(4)]
    expected = [predictor.predict(*batch) for batch in batches]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda batch: predictor.predict(*batch), batches))
    for one, other in zip(chain(*found), chain(*expected), strict=True):
        np.testing.assert_allclose(one.probabilities_KHW, other.probabilities_KHW, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("aggregation", ["max", "average"])
def test_a_gpu_gives_what_a_cpu_gives(checkpoint, aggregation):
    images, boxes = some_images()
    on_cpu, on_gpu = (
        Predictor(checkpoint, PredictConfig(aggregation=aggregation, micro_batch=4, device=device), 0.0)
        for device in ("cpu", "cuda")
    )
    for one, other in zip(on_gpu.predict(images, boxes), on_cpu.predict(images, boxes), strict=True):
        np.testing.assert_array_equal(one.class_ids_K, other.class_ids_K)
        np.testing.assert_allclose(one.probabilities_KHW, other.probabilities_KHW, atol=5e-3)


def test_memory_that_runs_out_halves_the_micro_batch_and_changes_nothing(checkpoint):
    images, boxes = some_images()
    whole = Predictor(checkpoint, PredictConfig(device="cpu", micro_batch=8), 0.0).aggregate(images, boxes)
    predictor = Predictor(checkpoint, PredictConfig(device="cpu", micro_batch=8), 0.0)
    net, sizes = predictor._net, []

    def small_gpu(crops_N3HW):
        sizes.append(len(crops_N3HW))
        if len(crops_N3HW) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return net(crops_N3HW)

    predictor._net = small_gpu
    for one, other in zip(predictor.aggregate(images, boxes), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert predictor.micro_batch <= 2
    refused = sum(size > 2 for size in sizes)
    predictor.aggregate(images, boxes)
    assert sum(size > 2 for size in sizes) == refused  # it remembers


def test_memory_that_runs_out_gives_up_what_was_recorded_for_more_crops(checkpoint, monkeypatch):
    """A neighbour on the GPU takes its memory for a moment. A CPU has no graphs: replaying is running the network."""
    images, boxes = (2 * some for some in some_images())
    predictor = Predictor(checkpoint, PredictConfig(device="cpu", micro_batch=8), 0.0)
    expected, net, recorded, cuts = predictor.aggregate(images, boxes), predictor._net, [], []

    class OnCpu(GraphedNet):
        def _record(self, crops_N3HW):
            self.forget()
            recorded.append(len(crops_N3HW))
            self._crops_N3HW, self._size = crops_N3HW.clone(), len(crops_N3HW)
            self._scores_NCHW = net(self._crops_N3HW)
            self._graph = SimpleNamespace(replay=lambda: self._scores_NCHW.copy_(net(self._crops_N3HW)))

    def cut_with_a_neighbour(*arguments):
        cuts.append(arguments)
        if len(cuts) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return cut_crops(*arguments)

    predictor._net = OnCpu(net)
    monkeypatch.setattr("pipeline.inference.predictor.cut_crops", cut_with_a_neighbour)
    for one, other in zip(predictor.aggregate(images, boxes), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert recorded == [8, 4]


def test_memory_that_does_not_suffice_for_one_crop_is_an_error(checkpoint):
    images, boxes = some_images()
    predictor = Predictor(checkpoint, PredictConfig(device="cpu"), 0.0)

    def tiny_gpu(crops_N3HW):
        raise torch.OutOfMemoryError("CUDA out of memory")

    predictor._net = tiny_gpu
    with pytest.raises(torch.OutOfMemoryError):
        predictor.aggregate(images, boxes)


def test_an_image_without_boxes_is_background_with_uniform_probability(checkpoint):
    images, boxes = some_images()
    prediction = Predictor(checkpoint, PredictConfig(device="cpu"), 0.01).predict(images[1:2], boxes[1:2])[0]
    assert prediction.class_ids_K.tolist() == [0]
    np.testing.assert_allclose(prediction.probabilities_KHW, 0.25)


def test_no_images_give_no_predictions(checkpoint):
    assert Predictor(checkpoint, PredictConfig(device="cpu"), 0.01).predict([], []) == []


def test_preprocessing_orders_and_scales_channels():
    crops = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)
    caffe = Preprocessing("BGR", (104.0, 116.0, 122.0), (1.0, 1.0, 1.0))
    assert caffe(crops).flatten().tolist() == [30 - 104, 20 - 116, 10 - 122]
    ours = Preprocessing()(crops.to(torch.uint8)).flatten()
    np.testing.assert_allclose(
        ours, (np.array([10, 20, 30]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], rtol=1e-4
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_missing_gpu_says_what_to_do():
    with pytest.raises(ConfigError, match="--device"):
        choose_device("cuda")
