"""The Triton kernels against torch: on a GPU where there is one, else in Triton's interpreter (see conftest.py)."""

import pytest
import torch

pytest.importorskip("triton")
kernels = pytest.importorskip("pipeline.inference.kernels")

from benchmarks.gpu.kernel_checks import checks  # noqa: E402

CHECKS = dict(checks(torch.device("cuda" if torch.cuda.is_available() else "cpu")))


NEAR = {"aggregation: max, float32", "aggregation: sum, bfloat16", "aggregation: average, bfloat16"}
"""Each of its rules and types is in another check, too."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in NEAR else name for name in CHECKS]
)
def test_a_kernel_computes_what_torch_does(name, monkeypatch):
    if name == "the whole network":
        monkeypatch.setattr(kernels, "BLOCK", 2**15)  # the interpreter's time goes by blocks
    CHECKS[name]()


def test_the_checks_notice_a_wrong_kernel(monkeypatch):
    unpool = kernels.unpool
    monkeypatch.setattr(kernels, "unpool", lambda x_NCHW, places: unpool(x_NCHW, places).roll(1, 3))
    name = next(name for name in CHECKS if "unpooling" in name)
    with pytest.raises(AssertionError):
        CHECKS[name]()
