"""Parts of files, local and in S3, alone and as Python's file object."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.storage.range_file import RangeFile

DATA = bytes(range(256)) * 8


def test_a_part_is_read_and_at_the_end_what_is_there(store: str):
    uri = f"{store}/x.bin"
    storage.write_atomic(uri, DATA)
    assert storage.size(uri) == len(DATA)
    for start, size in ((0, 1), (0, len(DATA)), (7, 300), (len(DATA) - 1, 1), (len(DATA) - 5, 100)):
        assert storage.read_range(uri, start, size) == DATA[start : start + size]


def test_what_is_not_there_is_said(store: str):
    for read in (storage.size, lambda uri: storage.read_range(uri, 0, 1), RangeFile):
        with pytest.raises(FileNotFoundError, match=r"absent\.bin"):
            read(f"{store}/absent.bin")


def test_a_pipe_is_no_file(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.bin")
    with pytest.raises(OSError, match="a pipe"):
        storage.read_range(str(tmp_path / "pipe.bin"), 0, 1)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 3000)),
        st.tuples(st.just("seek"), st.integers(0, 3000)),
        st.tuples(st.just("back"), st.integers(0, len(DATA))),
    ),
    max_size=12,
)


@given(steps=STEPS, window=st.sampled_from([0, 1, 100, 4096]))
def test_reading_and_seeking_is_that_of_a_file_in_memory(tmp_path_factory, steps, window: int):
    uri = tmp_path_factory.getbasetemp() / "ranges.bin"
    uri.write_bytes(DATA)
    ranges = io.BufferedReader(RangeFile(str(uri)), window) if window else RangeFile(str(uri))
    memory = io.BytesIO(DATA)
    for what, number in steps:
        if what == "read":
            assert ranges.read(number) == memory.read(number)
        elif what == "seek":
            assert ranges.seek(number) == memory.seek(number)
        else:
            assert ranges.seek(-number, io.SEEK_END) == memory.seek(-number, io.SEEK_END)
        assert ranges.tell() == memory.tell()


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path):
    path = tmp_path / "x.bin"
    path.write_bytes(DATA)
    file = RangeFile(str(path))
    path.write_bytes(DATA[:10])
    with pytest.raises(OSError, match="10 of 100 bytes at 0: it was changed"):
        file.read(100)
