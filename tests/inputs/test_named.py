"""A missing file is reported with its option, its address and the nearest that exists."""

import pytest

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.inputs.named import check_named, nearest


def test_what_is_there_or_was_not_given_passes(store):
    storage.write_atomic(storage.join(store, "net.safetensors"), b"x")
    check_named("weights", storage.join(store, "net.safetensors"))
    check_named("fcn", None)


def test_the_nearest_name_is_offered(store):
    storage.write_atomic(storage.join(store, "weights", "mine.safetensors"), b"x")
    with pytest.raises(ConfigError) as refused:
        check_named("weights", storage.join(store, "weights", "mine.safetensor"))
    wanted = storage.join(store, "weights", "mine.safetensor")
    assert str(refused.value) == f"--weights is {wanted}, which does not exist; did you mean {wanted}s?"
    # of a folder that is not there, the folder's name counts
    assert nearest(storage.join(store, "weight", "x.pth")) == f"did you mean {storage.join(store, 'weights')}?"


def test_where_nothing_is_alike_the_folder_is_listed(tmp_path):
    for index in range(7):
        (tmp_path / f"{index}.txt").touch()
    assert nearest(str(tmp_path / "photos")) == f"{tmp_path} holds 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ..."
    (tmp_path / "empty").mkdir()
    assert "is empty" in nearest(str(tmp_path / "empty" / "photos"))


def test_a_relative_path_is_reported_as_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"--init is {tmp_path}/net.pth, which"):
        check_named("init", "net.pth")
