"""CUDA graphs: a micro-batch's kernels are recorded once and then started with one call.

Chosen over `torch.compile`: shapes are fixed, the convolutions are cuDNN's either way, and `inference.kernels` has the
operations between them. Recording takes a few forward passes and no compiler, and a graph gives the same results as
the recorded calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class GraphedNet:
    """A network on a GPU, recorded for the largest micro-batch it has seen; smaller ones are padded to that size."""

    def __init__(self, net: Callable[[Tensor], Tensor]) -> None:
        self._net = net
        self._size = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._crops_N3HW = self._scores_NCHW = torch.empty(0)

    def __call__(self, crops_N3HW: Tensor) -> Tensor:
        """Scores of channels-last crops, in memory that the next call overwrites.

        Raises:
            torch.OutOfMemoryError: the GPU has too little memory; after `forget`, fewer crops may fit.
        """
        if self._graph is None or len(crops_N3HW) > self._size:
            self._record(crops_N3HW)
        assert self._graph is not None
        self._crops_N3HW[: len(crops_N3HW)].copy_(crops_N3HW)  # the rest keeps earlier crops, unused
        self._graph.replay()
        return self._scores_NCHW[: len(crops_N3HW)]

    def forget(self) -> None:
        """Free the recording's memory; the next call records again, for as many crops as it has."""
        self._graph, self._size = None, 0
        self._crops_N3HW = self._scores_NCHW = torch.empty(0)

    def _record(self, crops_N3HW: Tensor) -> None:
        self.forget()
        inputs_N3HW = crops_N3HW.clone(memory_format=torch.channels_last)
        # Warm-up: cuDNN chooses its algorithms, Triton compiles, and too little memory shows here, not in the middle
        # of a recording. On a separate stream, as torch requires.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), _fastest_convolutions():
            for _ in range(2):
                self._net(inputs_N3HW)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Recording first frees what the calls above left in torch's cache, since it allocates as much again from its
        # own pool. `thread_local`: other threads may copy results meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"), _fastest_convolutions():
            scores_NCHW = self._net(inputs_N3HW)
        self._crops_N3HW, self._scores_NCHW = inputs_N3HW, scores_NCHW
        self._graph, self._size = graph, len(inputs_N3HW)


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cuDNN time its algorithms.

    Only for recordings: an ensemble's other network sees images of many sizes, and cuDNN would time each of them.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
