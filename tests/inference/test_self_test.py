"""A kernel that computes wrong is noticed before a network runs with it: in Triton's interpreter, or on a GPU."""

import numpy as np
import pytest
import torch

from pipeline.config import PredictConfig
from pipeline.config.stages import Aggregation
from pipeline.inference import self_test
from pipeline.inference.aggregate import Canvas
from pipeline.inference.predictor import Predictor
from pipeline.models.checkpoint import Checkpoint, CheckpointInfo
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.initialise import initialise

triton = pytest.importorskip("triton")
kernels = pytest.importorskip("pipeline.inference.kernels")
aggregate_gpu = pytest.importorskip("pipeline.inference.aggregate_gpu")
tl = triton.language

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLASSES, WIDTH = 3, 1 / 16
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch):
    """On a CPU, Triton's interpreter counts as its compiler here."""
    monkeypatch.setattr(self_test, "triton_compiles", lambda device: True)
    monkeypatch.setattr(kernels, "BLOCK", 2**15)  # the interpreter's time goes by blocks
    forget()
    yield
    forget()


def forget():
    self_test.steps_work.cache_clear()
    self_test.gathering_works.cache_clear()


@triton.jit
def _one_column_off(x_ptr, places_ptr, out_ptr, numel, W: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    """The unpooling kernel, with the right column of a cell where the left one should be."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    channel, cell = at % C, at // C
    first = ((cell // W) * (4 * W) + (cell % W) * 2) * C + channel
    x = tl.load(x_ptr + at, mask=inside)
    place = tl.load(places_ptr + at, mask=inside)
    for i in tl.static_range(4):
        value = tl.where(place == i, x, 0.0).to(x.dtype)
        tl.store(out_ptr + first + ((i // 2) * (2 * W) + 1 - i % 2) * C, value, mask=inside)


@triton.jit
def _without_bias(x_ptr, bias_ptr, numel, C: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < numel)
    tl.store(x_ptr + at, tl.where(x < 0, 0.0, x).to(x.dtype), mask=at < numel)


class _Refusing:
    """A kernel that compiles and cannot be started."""

    def __getitem__(self, grid):
        raise RuntimeError("out of resources")


def gather_with_a_stale_tile(gather):
    """The aggregation, with one tile's pixels of one class left as they were."""

    def wrong(maps_NCSS, rectangles_N4, canvas_CHW, aggregation):
        gather(maps_NCSS, rectangles_N4, canvas_CHW, aggregation)
        canvas_CHW[-1, 8:12, :16] += 0.01
        return canvas_CHW

    return wrong


@pytest.mark.parametrize("dtype", [DTYPES[0], pytest.param(DTYPES[1], marks=pytest.mark.slow)])
def test_the_projects_kernels_pass(dtype, caplog):
    assert self_test.steps_work(DEVICE, dtype, WIDTH)
    for aggregation in aggregate_gpu.KNOWN:
        assert self_test.gathering_works(DEVICE, dtype, CLASSES, aggregation)
    assert not caplog.records


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kernel", "wrong", "named"),
    [
        ("_unpool_kernel", _one_column_off, "unpooling"),
        ("_bias_relu_kernel", _without_bias, "bias and ReLU"),
        ("_bias_relu_pool_kernel", _Refusing(), "out of resources"),
    ],
)
def test_a_wrong_kernel_of_the_network_is_noticed_once(kernel, wrong, named, dtype, monkeypatch, caplog):
    monkeypatch.setattr(kernels, kernel, wrong)
    assert not any(self_test.steps_work(DEVICE, dtype, WIDTH) for _ in range(3))
    (line,) = caplog.messages
    assert "torch's operations" in line
    assert named in line


@pytest.mark.parametrize("aggregation", ["max", "sum", "average"])
def test_a_wrong_aggregation_is_noticed_once(aggregation: Aggregation, monkeypatch, caplog):
    monkeypatch.setattr(aggregate_gpu, "gather", gather_with_a_stale_tile(aggregate_gpu.gather))
    assert not any(self_test.gathering_works(DEVICE, torch.float32, CLASSES, aggregation) for _ in range(3))
    (line,) = caplog.messages
    assert f"{aggregation}, 3 classes" in line


def test_a_kernel_that_is_wrong_for_some_widths_only_is_noticed_for_those(monkeypatch):
    def wrong_for_16_channels(x_NCHW, places_NCHW, unpool=kernels.unpool):
        out_NCHW = unpool(x_NCHW, places_NCHW)
        return -out_NCHW if x_NCHW.shape[1] == 16 else out_NCHW

    monkeypatch.setattr(kernels, "unpool", wrong_for_16_channels)
    assert self_test.steps_work(DEVICE, torch.float32, 1 / 64)
    assert not self_test.steps_work(DEVICE, torch.float32, 1 / 16)


@pytest.mark.parametrize("wrong", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_predictor_uses_the_kernels_or_torchs_operations_with_the_same_result(wrong, monkeypatch, caplog):
    net = DeconvNet(CLASSES, WIDTH)
    initialise(net, seed=1)
    torch.nn.init.normal_(net.seg_score.weight, generator=torch.Generator().manual_seed(1))
    checkpoint = Checkpoint(net.eval(), CheckpointInfo(("background", "a", "b"), WIDTH), "fingerprint")
    image_HW3 = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    boxes_N4 = np.array([[2.0, 3, 30, 25], [5, 1, 38, 29]])
    config = PredictConfig(device=DEVICE.type)
    with pytest.MonkeyPatch.context() as without:
        without.setattr(self_test, "triton_compiles", lambda device: False)
        (expected_CHW,) = Predictor(checkpoint, config, 0.0).aggregate([image_HW3], [boxes_N4])
    forget()
    if wrong:
        monkeypatch.setattr(kernels, "_unpool_kernel", _one_column_off)
        monkeypatch.setattr(aggregate_gpu, "gather", gather_with_a_stale_tile(aggregate_gpu.gather))
    predictor = Predictor(checkpoint, config, 0.0)
    (found_CHW,) = predictor.aggregate([image_HW3], [boxes_N4])
    torch.testing.assert_close(found_CHW, expected_CHW, rtol=1e-3, atol=1e-4)
    assert isinstance(predictor._canvas(torch.zeros(3, 4, 5), 1), Canvas) == wrong
    assert len(caplog.messages) == 2 * wrong  # one line for the network, one for the aggregation
