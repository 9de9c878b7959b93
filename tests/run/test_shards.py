"""Calls that fill one output together, killed and resumed: nothing is lost, nothing is there twice."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow as pa
import pytest
import stageless
from conftest import write_tiles
from rivals import at_once
from s3_server import faulty_proxy
from stageless import CLASSES, DONE, Stageless, images, run_to_the_end, start

from jobs import segment_report
from pipeline import storage
from pipeline.config import RefineConfig, SegmentConfig
from pipeline.config.shards import Shard
from pipeline.errors import FolderError, FolderInUseError
from pipeline.outputs import lease as lease_module
from pipeline.outputs.audit import audit
from pipeline.outputs.results import finished_ids, read_manifest, read_results
from pipeline.run import shards as shards_module
from pipeline.run.driver import Driver
from pipeline.run.record import RunRecord, Summary, open_run

REPOSITORY = Path(__file__).parents[2]
IMAGES = 60
KILLS = 8


def silent(_line: str) -> None:
    """Print nothing."""


@pytest.fixture
def config(tmp_path) -> SegmentConfig:
    return SegmentConfig(input="photos", output=str(tmp_path / "out"), masks=False)


def of(config: SegmentConfig, shard: str, **changes) -> SegmentConfig:
    return replace(config, shard=shard, **changes)


def opened(config: SegmentConfig, count: int = IMAGES) -> RunRecord:
    return open_run(config, "fingerprint", CLASSES, images(count), silent)


def done(config: SegmentConfig, count: int = IMAGES) -> None:
    assert run_to_the_end(config, images(count), 0.0, silent) == DONE


def summary(output: str, name: str = "summary.json") -> dict:
    return json.loads(storage.read_bytes(storage.join(output, "run", name)))


def check_all(output: str, count: int = IMAGES) -> None:
    """All images are there once, and all summaries agree."""
    found = audit(output, read_manifest(output, ["image_id"]))
    assert (found.total, found.missing, found.duplicated, found.unexpected) == (count, 0, 0, 0)
    assert (found.failed, found.skipped) == (count // 10, count // 10)
    content = summary(output)
    assert (content["images_total"], content["images_ok"]) == (count, found.ok)


def any_alive(processes: Iterable[BaseProcess]) -> bool:
    return any(process.is_alive() for process in processes)


def kill_and_resume(configs: list[SegmentConfig], environment: dict[str, str], seed: int, kills: int = KILLS) -> None:
    """Start a call with each of these settings, kill them at random, and call each again until it ends well.

    Of three kills one comes at any moment, also while a call starts, and two come when there are new results.
    """
    drawn, call = random.Random(seed), partial(start, manifest=images(IMAGES), environment=environment, pause=0.05)
    at_work = {config.shard: call(config) for config in configs}
    by_shard = {config.shard: config for config in configs}
    seen = 0
    while at_work:
        if kills:
            kills -= 1
            while kills % 3 and (now := len(finished_ids(configs[0].output))) == seen and any_alive(at_work.values()):
                time.sleep(0.02)
            seen = now if kills % 3 else seen
            time.sleep(drawn.uniform(0.0, 0.6))
            at_work[drawn.choice(sorted(at_work, key=str))].kill()
        else:
            next(iter(at_work.values())).join()
        for shard, process in list(at_work.items()):
            process.join(0.05)
            if process.exitcode == DONE:
                del at_work[shard]
            elif process.exitcode is not None:
                assert process.exitcode == -9, f"shard {shard} ended with {process.exitcode}"
                at_work[shard] = call(by_shard[shard])


@pytest.mark.parametrize(
    ("seed", "kills"), [(1, 3), *[pytest.param(seed, KILLS, marks=pytest.mark.slow) for seed in range(2, 12)]]
)
def test_shards_that_are_killed_lose_nothing_and_double_nothing(config, seed, kills):
    kill_and_resume([of(config, f"{number}/3") for number in (1, 2, 3)], {}, seed, kills)
    check_all(config.output)


@pytest.mark.s3
@pytest.mark.parametrize("seed", [1, *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6)]])
def test_shards_on_s3_that_are_killed_lose_nothing_and_double_nothing(config, s3, s3_folder, seed):
    config = replace(config, output=f"{s3_folder}/out")
    with faulty_proxy(s3, rate=0.05, seed=seed, delay=0.02) as proxy:
        kill_and_resume([of(config, f"{number}/2") for number in (1, 2)], proxy.environment, seed)
    assert proxy.faults.total() > 0
    check_all(config.output)


@pytest.mark.slow
def test_two_real_jobs_fill_one_output_though_one_of_them_is_killed(tmp_path, monkeypatch):
    """Without Ray: the images are few."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    write_tiles(photos, 16)

    def job(folder: Path, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "jobs/segment_dataset.py", "--input", str(photos), "--output", str(folder), "--weights",
             "demo", "--proposals", "2", "--crf", "none", "--device", "cpu", "--rows-per-file", "1", *more],
            cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def last_line(process: subprocess.Popen[str]) -> str:
        said, _ = process.communicate()
        assert process.returncode == 0, said
        return said.splitlines()[-1]

    killed, other = job(output, "--shard", "1/2"), job(output, "--shard", "2/2")
    own = Shard(1, 2).share_of(images_in(photos))["image_id"].to_pylist()
    while not any((output / "masks" / f"{image_id}.png").exists() for image_id in own) and killed.poll() is None:
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    assert last_line(other).startswith(f"its share is done: {16 - len(own)} of {16 - len(own)} images done")
    resumed = last_line(job(output, "--shard", "1/2"))
    assert resumed.startswith(f"its share is done: {len(own)} of {len(own)} images done, 0 failed, 0 left")
    assert resumed.endswith("the whole: 16 of 16 images done, 0 failed, 0 left")
    assert (output / "run" / "report.html").exists()
    last_line(job(tmp_path / "whole"))
    assert masks_of(output) == masks_of(tmp_path / "whole")


def images_in(folder: Path) -> pa.Table:
    return pa.table({"image_id": sorted(path.name for path in folder.iterdir())})


def masks_of(output: Path) -> dict[str, bytes]:
    return {row["image_id"]: row["mask"] for row in read_results(str(output)).to_pylist()}


def killed_at_work(*configs: SegmentConfig) -> None:
    """Calls that are killed when some, and not all, of their images are in the output."""
    calls = [start(config, images(IMAGES), {}, pause=0.1) for config in configs]
    while not len(finished_ids(configs[0].output)):
        time.sleep(0.02)
    for call in calls:
        call.kill()
        call.join()
    assert 0 < len(finished_ids(configs[0].output)) < IMAGES


def test_other_ways_to_divide_the_images_go_on_with_what_is_left(config):
    killed_at_work(of(config, "1/2"), of(config, "2/2"))
    killed_at_work(config)
    killed_at_work(of(config, "3/3"), of(config, "1/3"))
    done(of(config, "2/3"))
    done(config)
    check_all(config.output)
    kept = (path.name for path in Path(config.output, "run").rglob("*") if path.is_file())
    # A hidden file is a write that the kill cut off before its file had its name.
    assert sorted(name for name in kept if not name.startswith(".")) == [
        "classes.json", "config.json", "manifest.parquet", "summary.json"
    ]  # fmt: skip


def test_a_run_and_shards_of_another_number_are_refused_while_one_shard_lives(config):
    at_work = start(of(config, "1/2"), images(IMAGES), {}, pause=0.2)
    while not len(finished_ids(config.output)):
        time.sleep(0.02)
    for other in (config, of(config, "1/3"), replace(config, overwrite=True), replace(config, retry_failed=True)):
        with pytest.raises(FolderInUseError, match=r"is being filled in 2 shards, and 1/2 is at work"):
            opened(other)
    with pytest.raises(FolderInUseError, match=r"shard 1/2 of .* belongs to a run"):
        opened(of(config, "1/2", retry_failed=True))
    done(of(config, "2/2"))
    at_work.kill()
    at_work.join()
    done(of(config, "1/2"))
    check_all(config.output)


def opened_at_once(monkeypatch: pytest.MonkeyPatch, *configs: SegmentConfig) -> list[RunRecord | Exception]:
    """What the start of calls returns or raises; all have seen a new output before one writes."""
    return at_once(monkeypatch, *[partial(opened, config) for config in configs], refused=FolderError)


def test_shards_that_start_at_the_same_moment_share_one_record(config, monkeypatch):
    runs = opened_at_once(monkeypatch, *[of(config, f"{number}/3") for number in (1, 2, 3)])
    ids = [image_id for run in runs for image_id in run.todo()["image_id"].to_pylist()]
    assert sorted(ids) == images(IMAGES)["image_id"].to_pylist()
    assert read_manifest(config.output).equals(images(IMAGES))
    assert json.loads(Path(config.output, "run", "config.json").read_text())["identity"]["refine.crf"]


def test_shards_that_start_at_the_same_moment_with_other_settings_do_not_mix(tmp_path, config, monkeypatch):
    for number in range(10):
        here = replace(config, output=str(tmp_path / str(number)))
        other = of(here, "2/2", refine=RefineConfig(crf="none"))
        runs = [one for one in opened_at_once(monkeypatch, of(here, "1/2"), other) if isinstance(one, RunRecord)]
        assert len(runs) <= 1
        for run in runs:
            recorded = json.loads(Path(run.output, "run", "config.json").read_text())["identity"]["refine.crf"]
            assert (recorded == "none") == (run.lease.shard.number == 2)


def test_another_run_that_started_an_output_and_ended_meanwhile_is_noticed(config, monkeypatch):
    """Between the look at the record and the lease."""
    look = lease_module._refuse_if_one_lives

    def look_and_let_another_one_run(*arguments) -> None:
        look(*arguments)
        monkeypatch.undo()
        done(of(config, "1/2", refine=RefineConfig(crf="none")))

    monkeypatch.setattr(lease_module, "_refuse_if_one_lives", look_and_let_another_one_run)
    with pytest.raises(FolderError, match=r"refine\.crf: none -> native"):
        opened(of(config, "2/2"))
    done(of(config, "2/2", refine=RefineConfig(crf="none")))


def test_a_shard_tries_its_own_failed_images_again(config):
    for shard in ("1/2", "2/2"):
        done(of(config, shard))
    share = set(Shard(1, 2).share_of(images(IMAGES))["image_id"].to_pylist())
    run = opened(of(config, "1/2", retry_failed=True))
    todo = run.todo()["image_id"].to_pylist()
    run.lease.release()
    assert todo == [one for one in images(IMAGES)["image_id"].to_pylist() if one in share and one.endswith("3.jpg")]
    done(of(config, "1/2"))
    check_all(config.output)


def test_a_shard_does_not_touch_failed_images_among_those_of_others(config, monkeypatch):
    monkeypatch.setattr(stageless, "ROWS_PER_FILE", IMAGES)
    done(config)
    with pytest.raises(FolderError, match="give --retry-failed without --shard"):
        opened(of(config, "1/2", retry_failed=True))
    check_all(config.output)
    done(replace(config, retry_failed=True))  # nothing holds the output


def test_each_shard_counts_for_itself_and_the_last_for_all(config):
    done(config, 10)  # a trial of a run without --shard
    whole = summary(config.output)
    for number in (1, 2, 3):
        done(of(config, f"{number}/3"))
    own = [summary(config.output, f"shards/{number}-of-3.json") for number in (1, 2, 3)]
    joint = summary(config.output)
    assert sum(one["images_total"] for one in own) == joint["images_total"] == IMAGES
    rows = [one["stages"]["decode"]["rows"] for one in own]
    assert joint["stages"]["decode"]["rows"] == sum(rows) + whole["stages"]["decode"]["rows"] == IMAGES
    assert joint["seconds"] == pytest.approx(whole["seconds"] + max(one["seconds"] for one in own), abs=0.01)
    assert joint["machines"] == "1 machine(s)"
    done(config)  # a run without --shard goes on counting, and keeps one summary
    again = summary(config.output)
    assert again["seconds"] == pytest.approx(joint["seconds"], abs=0.01)
    assert again["stages"] == joint["stages"]
    assert not Path(config.output, "run", "shards").exists()
    done(of(config, "1/2"))
    assert summary(config.output)["stages"] == joint["stages"]


def test_shards_that_end_at_the_same_moment_leave_a_summary_of_both(config, monkeypatch):
    """The second one counts and ends while the first one, which has counted, has not yet written."""

    def counted(*arguments):
        found = audit(*arguments)
        if len(waiting):
            waiting.pop()
            done(of(config, "2/2"))
        return found

    waiting = [None]
    monkeypatch.setattr(shards_module, "audit", counted)
    done(of(config, "1/2"))
    check_all(config.output)
    assert summary(config.output)["stages"]["decode"]["rows"] == IMAGES


def test_overwriting_forgets_the_shards(config):
    for shard in ("1/2", "2/2"):
        done(of(config, shard))
    run = opened(replace(config, overwrite=True))
    assert len(run.todo()) == IMAGES
    assert not Path(config.output, "run", "shards").exists()
    run.lease.release()


def ended(config: SegmentConfig, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """A whole call with what it prints at its end: its exit code and its last line."""
    run = opened(config)
    with run.lease.kept_alive():
        call_summary = Summary()
        Driver(config, Stageless(), run, call_summary, silent).drive(run.todo())
        code = segment_report.report(config, run, call_summary, 0)
    return code, capsys.readouterr().out.splitlines()[-1]


def test_the_last_line_of_a_shard_tells_of_its_share_and_of_the_whole(config, capsys, monkeypatch):
    made: list[str] = []
    monkeypatch.setattr(segment_report, "make_report", lambda output, *_: made.append(output))
    first, second = (len(Shard(number, 2).share_of(images(IMAGES))) for number in (1, 2))
    code, line = ended(of(config, "1/2"), capsys)
    assert code == 0
    assert line.startswith("its share is done: ")
    assert f" of {first} images done, " in line
    assert line.endswith(f"; the whole: {line.split()[4]} of {IMAGES} images done, {line.split()[9]} failed, "
                         f"{line.split()[11]} skipped, {second} left")  # fmt: skip
    assert made == []
    code, line = ended(of(config, "2/2"), capsys)
    assert code == 0
    assert line.endswith(f"the whole: {IMAGES * 8 // 10} of {IMAGES} images done, {IMAGES // 10} failed, "
                         f"{IMAGES // 10} skipped, 0 left")  # fmt: skip
    assert made == [config.output]
    shutil.rmtree(config.output)
    assert ended(of(config, "1/1"), capsys)[1].startswith(f"{IMAGES * 8 // 10} of {IMAGES} images done")
