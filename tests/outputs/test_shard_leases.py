"""Several owners of one output: which go together, who waits for whom, and that nothing gets in from a lost one."""

import json
from functools import partial
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest
from conftest import use_server
from hypothesis import given
from hypothesis import strategies as st
from rivals import at_once

from pipeline import storage
from pipeline.config import ConfigError, SegmentConfig
from pipeline.config.shards import WHOLE, Shard
from pipeline.errors import FolderError, FolderInUseError, LeaseError
from pipeline.outputs import results
from pipeline.outputs.lease import Lease, take_lease
from pipeline.outputs.results import finished_ids, forget_errors
from pipeline.outputs.writing import write_rows

CLASSES = ("background", "cat")
REFUSED = (FolderInUseError, LeaseError)


SLOW = [pytest.mark.s3, pytest.mark.slow]
STORES = ["local", pytest.param("s3", marks=pytest.mark.s3), *[pytest.param(one, marks=SLOW) for one in ("gs", "az")]]


@pytest.fixture(params=STORES)
def output(request, tmp_path, monkeypatch) -> str:
    if request.param == "local":
        return str(tmp_path / "out")
    use_server(request.getfixturevalue(request.param), monkeypatch)
    return f"{request.param}://bucket/{uuid4().hex}/out"


def take(output: str, shard: str, work: str = "", silence: float = 0.1) -> Lease:
    return take_lease(output, lambda _line: None, silence, Shard.parse(shard), work)


def stage(lease: Lease, part: str) -> None:
    storage.write_atomic(storage.join(lease.staged, part), b"rows")


def lease_file(lease: Lease) -> str:
    name = "lease.json" if lease.shard == WHOLE else f"leases/{lease.shard.name}.json"
    return storage.join(lease.output, "run", name)


def be_elsewhere(*leases: Lease) -> None:
    """Let leases look as if a process of another machine had written them."""
    for lease in leases:
        owner = json.loads(storage.read_bytes(lease_file(lease)))
        storage.write_atomic(lease_file(lease), json.dumps(owner | {"host": "elsewhere"}).encode())


@given(st.lists(st.text(st.characters(codec="utf-8")), unique=True), st.integers(1, 40))
def test_each_image_is_in_one_shard_whatever_its_neighbours(ids, of):
    table = pa.table({"image_id": pa.array(ids, pa.string())})
    shares = [Shard(number, of).share_of(table)["image_id"].to_pylist() for number in range(1, of + 1)]
    assert sorted(image_id for share in shares for image_id in share) == sorted(ids)
    backwards = Shard(1, of).share_of(table.take(pa.array(range(len(ids))[::-1], pa.int64())))
    assert backwards["image_id"].to_pylist() == shares[0][::-1]


def test_the_shard_of_an_image_is_the_same_for_ever_and_shards_are_of_one_size():
    number_of = {one: next(n for n in range(1, 8) if Shard(n, 7).holds(one)) for one in ("a.jpg", "b/1.png", "日本")}
    assert number_of == {"a.jpg": 7, "b/1.png": 6, "日本": 3}
    ids = pa.table({"image_id": [f"{number:06}.jpg" for number in range(6_000)]})
    sizes = [len(Shard(number, 6).share_of(ids)) for number in range(1, 7)]
    assert all(900 < size < 1100 for size in sizes)  # three standard deviations are 87


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1 / 2", "", "01/2", "1/2\n"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ConfigError, match="--shard is"):
        SegmentConfig("in", "out", shard=text)


def test_a_shard_does_not_overwrite():
    with pytest.raises(ConfigError, match="would delete what other shards did: use it without --shard"):
        SegmentConfig("in", "out", shard="1/2", overwrite=True)
    SegmentConfig("in", "out", shard="1/1", overwrite=True)


def test_shards_of_one_number_fill_an_output_together(output):
    leases = [take(output, f"{number}/3") for number in (1, 2, 3)]
    for lease in leases:
        stage(lease, f"results/{lease.shard.name}.parquet")
    for lease in leases:
        lease.commit([f"results/{lease.shard.name}.parquet"])
        lease.release()
    assert len(results._parts(output, "results")) == 3
    assert not any(storage.exists(lease_file(lease)) for lease in leases)
    take(output, "1/1")


@pytest.mark.parametrize(
    ("at_work", "comes", "said"),
    [
        ("1/1", "1/1", "belongs to a run that is at work: process .* wait for it, or stop it"),
        ("1/1", "2/3", "belongs to a run without --shard that is at work: process .* wait for it, or stop it"),
        ("2/3", "1/1", "is being filled in 3 shards, and 2/3 is at work: .* do one that is not, --shard I/3, or wait"),
        ("2/3", "1/2", "is being filled in 3 shards, and 2/3 is at work: .* do one that is not, --shard I/3, or wait"),
        ("2/3", "2/3", "shard 2/3 of .* belongs to a run that is at work: process .* wait for it, or stop it"),
    ],
)
def test_a_rival_of_who_is_at_work_is_refused_and_told_what_to_do(output, at_work, comes, said):
    first = take(output, at_work)
    stage(first, "results/part.parquet")
    with pytest.raises(FolderInUseError, match=said):
        take(output, comes)
    first.commit(["results/part.parquet"])  # nothing of it was touched
    first.release()
    take(output, comes).check()


def test_shards_with_other_settings_do_not_go_together(output):
    take(output, "1/2", work="blue")
    take(output, "2/2", work="blue").release()
    with pytest.raises(FolderInUseError, match=r"shard 1/2 of .* is at work with other settings: .* the same settings"):
        take(output, "2/2", work="green")


@pytest.mark.parametrize(("lost", "comes"), [("2/3", "1/1"), ("1/1", "2/3"), ("2/3", "2/4"), ("2/3", "2/3")])
def test_a_lost_rival_elsewhere_is_waited_for_and_commits_nothing_more(output, lost, comes):
    first = take(output, lost)
    for part in ("results/early.parquet", "results/late.parquet"):
        stage(first, part)
    first.commit(["results/early.parquet"])
    first.beat(1)
    be_elsewhere(first)
    second = take(output, comes)
    stage(first, "results/later.parquet")  # a worker that is left
    for part in ("results/late.parquet", "results/later.parquet"):
        with pytest.raises(LeaseError):
            first.commit([part])
    first.release()
    second.check()
    assert [Path(uri).name for uri in results._parts(output, "results")] == ["early.parquet"]


@pytest.mark.parametrize(("lost", "comes"), [("2/3", "1/1"), ("1/1", "2/3"), ("2/3", "2/4")])
def test_what_a_rival_staged_before_it_was_lost_cannot_be_moved_after_it(output, lost, comes, monkeypatch):
    """Its driver was stopped between looking at its lease and moving the file, for as long as it takes."""
    first = take(output, lost)
    stage(first, "results/part.parquet")
    be_elsewhere(first)
    take(output, comes)
    looks = iter([None])
    monkeypatch.setattr(Lease, "check", lambda self: next(looks, None))
    with pytest.raises(FileNotFoundError):
        first.commit(["results/part.parquet"])
    assert results._parts(output, "results") == []


def test_all_lost_shards_are_waited_for_at_once_and_one_that_lives_is_left_alone(output):
    shards = [take(output, f"{number}/3") for number in (1, 2, 3)]
    for shard in shards:
        shard.beat(1)
    be_elsewhere(*shards)
    with pytest.raises(FolderInUseError, match=r"3/3 is at work: process .* on elsewhere"):
        take_lease(output, lambda _line: shards[2].beat(2), 1.0)
    for shard in shards:
        shard.check()
    said: list[str] = []
    take_lease(output, said.append, 0.1).check()
    assert len(said) == 1
    assert said[0].count("elsewhere (process") == 1
    assert said[0].count("on elsewhere") == 3
    for shard in shards:
        with pytest.raises(LeaseError, match="is gone: another run took the folder over"):
            shard.check()


def test_a_starting_shard_touches_nothing_of_another_one_dead_or_alive(output):
    dead, alive = take(output, "1/3"), take(output, "2/3")
    for lease in (dead, alive):
        stage(lease, "results/part.parquet")
    be_elsewhere(dead)
    third = take(output, "3/3")
    third.release()
    alive.commit(["results/part.parquet"])
    dead.check()
    again = take(output, "1/3")
    again.check()
    with pytest.raises(LeaseError, match="taken over"):
        dead.check()
    assert not storage.exists(dead.staged)


def is_valid(lease: Lease) -> bool:
    try:
        lease.check()
    except LeaseError:  # of two that take one lease at the same moment, the last one has it
        return False
    return True


@pytest.mark.parametrize("shards", [("1/1", "1/2"), ("1/3", "1/2", "2/2"), ("1/1", "1/1"), ("2/2", "2/2")])
def test_of_rivals_that_start_at_the_same_moment_at_most_one_number_stays(tmp_path, shards, monkeypatch):
    for number in range(10):
        output = str(tmp_path / str(number))
        found = at_once(monkeypatch, *[partial(take, output, shard) for shard in shards], refused=REFUSED)
        held = [one for one in found if isinstance(one, Lease) and is_valid(one)]
        assert len(held) <= 1 or {one.shard for one in held} == {Shard(1, 2), Shard(2, 2)}
        for lease in held:
            lease.release()
        take(output, "1/1")  # those that left have left nothing behind


def test_shards_that_start_at_the_same_moment_all_stay(tmp_path, monkeypatch):
    output = str(tmp_path)
    found = at_once(monkeypatch, *[partial(take, output, f"{number}/4") for number in range(1, 5)], refused=REFUSED)
    assert {lease.shard.number for lease in found} == {1, 2, 3, 4}
    for lease in found:
        lease.check()


def test_a_damaged_lease_of_another_shard_is_named(output):
    other = take(output, "2/2")
    storage.write_atomic(lease_file(other), b'{"run_id": 1}')
    with pytest.raises(FolderError, match=r"leases/2-of-2\.json is damaged"):
        take(output, "1/1")


def failed(image_id: str) -> dict[str, str]:
    return {"image_id": image_id, "status": "failed", "error_stage": "decode"}


def test_a_shard_forgets_its_own_errors_only(output):
    names = [f"{number}.jpg" for number in range(30)]
    shards = [Shard(number, 2) for number in (1, 2)]
    own = [[name for name in names if shard.holds(name)] for shard in shards]
    for image_id in (*own[0][:2], *own[1][:2]):
        write_rows(output, [failed(image_id)], CLASSES)
    forget_errors(output, shards[0])
    assert sorted(finished_ids(output).to_pylist()) == sorted(own[1][:2])
    write_rows(output, [failed(own[0][3]), failed(own[1][3])], CLASSES)  # as a run without --shard does
    before = sorted(finished_ids(output).to_pylist())
    for shard in shards:
        with pytest.raises(FolderError, match=f"failed images of shard {shard} and of others.*without --shard"):
            forget_errors(output, shard)
    assert sorted(finished_ids(output).to_pylist()) == before
    forget_errors(output)
    assert finished_ids(output).to_pylist() == []


def test_errors_that_a_shard_forgets_while_another_one_reads_are_no_damage(output, monkeypatch):
    write_rows(output, [failed("a.jpg")], CLASSES)
    files = results._parts(output, "errors")
    monkeypatch.setattr(results, "_parts", lambda output, folder: files if folder == "errors" else [])
    assert finished_ids(output).to_pylist() == ["a.jpg"]
    forget_errors(output)
    assert finished_ids(output).to_pylist() == []
