"""A run's report as a page: complete, harmless, small, and there whatever happened to the photographs."""

import base64
import io
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import numpy as np
import pytest
from conftest import exit_code, free_port
from container_files import tar_of
from pages import check_is_safe_and_usable, read
from PIL import Image
from run_outputs import begin, failure, photograph, result, skip

from jobs import console
from jobs.commands import SEGMENT, parse
from jobs.report import next_steps, write_report
from jobs.segment_report import report
from pipeline import storage
from pipeline.config import FilterConfig, RefineConfig, SegmentConfig
from pipeline.config.stages import STAGES
from pipeline.imaging.classes import voc_palette
from pipeline.inputs.manifest import build_manifest
from pipeline.outputs.layout import mask_path
from pipeline.report.page.parts import duration, percent
from pipeline.report.run_page.gallery import PICTURE_BYTES, SIDE, jpeg
from pipeline.report.run_page.gather import gather
from pipeline.run.record import Summary, identity

MOST_BYTES = 5_000_000


def picture(address: str) -> Image.Image:
    kind, _, data = address.partition(";base64,")
    assert kind == "data:image/jpeg"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def labels(height: int, width: int, label: int) -> np.ndarray:
    """Background with a rectangle of a class."""
    found = np.zeros((height, width), np.uint8)
    found[height // 4 : height // 2, width // 4 :] = label
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def test_a_page_tells_what_happened(tmp_path: Path, photos: Path):
    for name in ("sure.jpg", "unsure.jpg", "empty.jpg"):
        photograph(photos, name, 40, 60)
    rows = [
        result("sure.jpg", labels(40, 60, 1), 0.9, photos) | {"seconds_predict": 2.0, "seconds_refine": 0.5},
        result("unsure.jpg", labels(40, 60, 2), 0.3, photos) | {"seconds_predict": 4.0, "seconds_refine": 0.5},
        result("empty.jpg", labels(40, 60, 0), 0.7, photos),
        failure("bad.jpg", message="ends after 3 bytes"),
        skip("small.jpg"),
    ]
    run = begin(tmp_path, rows, "left.jpg", refine=RefineConfig(crf="none"), price=36.0)
    summary = Summary.of(STAGES)
    summary.seconds, summary.machines, summary.seconds_alone = 100.0, "3 machine(s), 24 CPUs", {"predict": 1.25}
    summary.faults["nodes_lost"] = 2
    run.write_summary(summary, run.audit())
    page = read(run.output)
    check_is_safe_and_usable(page)
    for said in (
        "Not finished: 1 of 6 images left",
        "6 images in the manifest = results 3 + errors 1 + skipped 1 + not done yet 1.",
        "1 not done yet: left.jpg",
        "1 skipped by filter, such as small.jpg: 3 x 4 pixels",
        "truncated in decode: 1",
        "bad.jpg: ends after 3 bytes",
        "deconvnet+crf, but with --price 36.0 instead of None, --crf none instead of native",
        "/networks/my.safetensors",
        "3 machine(s), 24 CPUs",
        "1 min 40 s of work",
        "1.00, at 36.0 an hour",
        "nodes lost: 2",
        "predict (slowest)",
        "1.250",
        "In no image: cow",
        "Of these, lowest first: 0.300, 0.700, 0.900.",
        "unsure.jpg, confidence 0.300",
    ):
        assert said in page.text
    shown = [one["aria-label"] for one in page.all("figure")]
    assert shown == ["unsure.jpg", "sure.jpg", "empty.jpg"]  # the last one has no object
    alts = [one["alt"] for one in page.all("img")]
    assert alts[:2] == ["photograph unsure.jpg", "the same, in colour: dog"]
    assert alts[-1] == "the same, in colour: background only"


def test_the_result_lies_over_the_photograph_in_the_classes_colour(tmp_path: Path, photos: Path):
    photograph(photos, "a.jpg", 400, 600, colour=100)
    page = read(begin(tmp_path, [result("a.jpg", labels(400, 600, 3), 0.5, photos)]).output)
    plain, over = (picture(one["src"]) for one in page.all("img"))
    assert plain.size == over.size == (512, 341)
    assert plain.getpixel((400, 120)) == pytest.approx((100,) * 3, abs=3)
    expected = 0.35 * 100 + 0.65 * voc_palette()[3].astype(float)
    assert over.getpixel((400, 120)) == pytest.approx(expected.tolist(), abs=6)
    assert over.getpixel((400, 300)) == pytest.approx((100,) * 3, abs=6)
    files = [one["href"] for one in page.all("a") if one["href"].endswith((".jpg", ".png"))]
    assert files == [(photos / "a.jpg").as_uri(), "../masks/a.jpg.png"]


HOSTILE = '"><script>alert(1)</script>'


def test_names_are_text_whatever_is_in_them(tmp_path: Path, photos: Path):
    names = ("background", f"cat{HOSTILE}", "{{ 7 * 7 }}", "cow</style>")
    row = result(f"{HOSTILE}.jpg", labels(8, 8, 1), 0.5, photos) | {"uri": "javascript:alert(2)"}
    bad = failure(f"{HOSTILE}#?.jpg", f"decode{HOSTILE}", "<b>kind", "</ul><img src=x onerror=alert(3)>")
    begun = begin(tmp_path, [row, bad, skip(HOSTILE, HOSTILE)], f"left{HOSTILE}", names=names)
    record = Path(begun.output, "run", "config.json")
    content = json.loads(record.read_text())
    content["settings"] |= {"input": f"s3://bucket/{HOSTILE}", "recipe": HOSTILE, "plan": HOSTILE}
    record.write_text(json.dumps(content))
    page = read(begun.output)
    check_is_safe_and_usable(page)
    for said in (HOSTILE, "{{ 7 * 7 }}", "cow</style>", "</ul><img src=x onerror=alert(3)>", "javascript:alert(2)"):
        assert said in page.text
    assert {one["href"] for one in page.all("a") if "masks" in one["href"]} == {
        "../masks/%22%3E%3Cscript%3Ealert%281%29%3C/script%3E.jpg.png"
    }


def test_a_mask_is_linked_where_it_lies(tmp_path: Path, photos: Path):
    image_id = "a.png/100%25 größe.jpg"
    linked = read(begin(tmp_path, [result(image_id, labels(8, 8, 1), 0.5, photos)]).output)
    (tmp_path / "OUT" / mask_path(image_id)).parent.mkdir(parents=True)
    (tmp_path / "OUT" / mask_path(image_id)).touch()
    (address,) = (one["href"] for one in linked.all("a") if "masks" in one["href"])
    seen_from = (tmp_path / "OUT" / "run" / "report.html").as_uri()
    assert Path(unquote(urlparse(urljoin(seen_from, address)).path)).is_file()
    without = read(begin(tmp_path / "b", [result(image_id, labels(8, 8, 1), 0.5, photos)], masks=False).output)
    assert not any("masks" in one["href"] for one in without.all("a"))


def test_photographs_that_are_gone_or_changed_leave_the_mask(tmp_path: Path, photos: Path):
    photograph(photos, "other_size.jpg", 30, 30)
    (photos / "broken.jpg").write_bytes(b"no image")
    (photos / "folder.jpg").mkdir()
    names = ["gone.jpg", "other_size.jpg", "broken.jpg", "folder.jpg"]
    rows = [result(name, labels(160, 240, 1), 0.1 * place, photos) for place, name in enumerate(names)]
    page = read(begin(tmp_path, rows).output)
    check_is_safe_and_usable(page)
    assert [one["alt"] for one in page.all("img")] == [f"mask of {name}, in colour: cat" for name in names]
    for said in ("is not there any more", "another size now", "cannot be read (no JPEG", "cannot be read ([Errno 21]"):
        assert said in page.text
    alone = picture(page.all("img")[0]["src"])
    assert alone.getpixel((160, 60)) == pytest.approx(voc_palette()[1].tolist(), abs=6)


def test_a_mask_that_is_damaged_leaves_the_photograph(tmp_path: Path, photos: Path):
    photograph(photos, "a.jpg", 40, 60)
    row = result("a.jpg", labels(40, 60, 1), 0.5, photos) | {"mask": b"no mask"}
    page = read(begin(tmp_path, [row, row | {"image_id": "b.jpg", "uri": None, "mask": None}]).output)
    assert [one["alt"] for one in page.all("img")] == ["photograph a.jpg"]
    assert page.text.count("the mask cannot be read") == 2


def test_a_photograph_in_a_tar_file_is_shown_and_has_no_link_of_its_own(tmp_path: Path, photos: Path):
    photograph(photos, "a.jpg", 40, 60, colour=200)
    (tmp_path / "x.tar").write_bytes(tar_of({"a.jpg": (photos / "a.jpg").read_bytes()}))
    (uri,) = build_manifest(str(tmp_path / "x.tar"), None)["uri"].to_pylist()
    page = read(begin(tmp_path, [result("x.tar/a.jpg", labels(40, 60, 1), 0.5, photos) | {"uri": uri}]).output)
    before, _ = (picture(one["src"]) for one in page.all("img"))
    assert before.getpixel((30, 20)) == pytest.approx((200, 200, 200), abs=2)
    assert not [one["href"] for one in page.all("a") if "tar#" in one["href"] or "%23" in one["href"]]


def test_a_store_that_is_away_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_MAX_ATTEMPTS": "1",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    asked = []
    read_image = storage.read_image
    monkeypatch.setattr(storage, "read_image", lambda uri: asked.append(uri) or read_image(uri))
    rows = [result(f"{n}.jpg", labels(40, 60, 1), 0.5, tmp_path) | {"uri": f"s3://bucket/{n}.jpg"} for n in range(4)]
    page = read(begin(tmp_path, rows).output)
    assert page.text.count("the photographs cannot be read") == 4
    assert len(asked) == 1


def test_a_picture_has_a_limit_however_hard_it_is_to_compress():
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    data = jpeg(noise)
    assert len(data) <= PICTURE_BYTES
    assert min(Image.open(io.BytesIO(data)).size) >= SIDE // 4
    plain = Image.open(io.BytesIO(jpeg(np.full((SIDE, SIDE, 3), 7, np.uint8))))
    assert plain.size == (SIDE, SIDE)


def test_a_full_gallery_of_the_largest_pictures_leaves_room(tmp_path: Path, photos: Path):
    """36 images, each with two pictures, and the pictures' limit: what the page can come to."""
    photograph(photos, "a.jpg", 8, 8)
    rows = [result(f"{n}.jpg", labels(8, 8, n % 2), n / 80, photos) | {"uri": str(photos / "a.jpg")} for n in range(80)]
    page = read(begin(tmp_path, rows).output)
    pictures = [len(one["src"]) for one in page.all("img")]
    assert len(pictures) == 2 * 36
    rest = Path(tmp_path, "OUT", "run", "report.html").stat().st_size - sum(pictures)
    assert rest + len(pictures) * (PICTURE_BYTES * 4 / 3 + 100) < MOST_BYTES


def test_the_pages_size_does_not_depend_on_the_number_of_images(tmp_path: Path, photos: Path):
    sizes = []
    for many in (100, 1000):
        rows = [result(f"{n:04}.jpg", labels(8, 8, n % 3), (n % 97) / 97, photos) for n in range(many)]
        rows += [failure(f"bad{n:04}.jpg") for n in range(many)] + [skip(f"skip{n:04}.jpg") for n in range(many)]
        run = begin(tmp_path / str(many), rows)
        sizes.append(Path(write_report(run.output)).stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 2000


@pytest.mark.parametrize("rows", [[], [failure("bad.jpg")], [skip("small.jpg")]], ids=["empty", "errors", "skipped"])
def test_a_run_without_results_has_a_page(tmp_path: Path, rows):
    page = read(begin(tmp_path, rows, *([] if rows else ["left.jpg"])).output)
    check_is_safe_and_usable(page)
    for said in ("No image has passed a stage", "No class but the background", "There is no image in the results"):
        assert said in page.text
    assert ("truncated in decode: 1" in page.text) == (rows != [] and rows[0]["status"] == "failed")
    assert ("Not finished" in page.text) == (rows == [])


def test_the_command_writes_the_page_and_names_it(tmp_path: Path, capsys):
    run = begin(tmp_path, [failure("bad.jpg")])
    assert exit_code(console.main, "report", run.output) == 0
    assert capsys.readouterr().out.strip() == f"{run.output}/run/report.html"
    assert Path(run.output, "run", "report.html").read_text().startswith("<!DOCTYPE html>")
    assert exit_code(console.main, "report", str(tmp_path)) == 2
    assert "holds no run/config.json and no train.json; give the output folder of a run" in capsys.readouterr().err
    assert exit_code(console.main, "report", f"{run.output}x") == 2
    assert f"did you mean {run.output}?" in capsys.readouterr().err


def test_the_commands_of_the_page_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/deconvnet"])
    folder = tmp_path / "it's $HOME"
    run = begin(folder, [failure("bad.jpg")], "left.jpg", masks=False, save_probabilities=True, max_error_rate=0.5,
                refine=RefineConfig(crf_iterations=3), filter=FilterConfig(min_pixels=9),
                overwrite=True)  # fmt: skip
    left, failed, *_ = next_steps(gather(run.output))
    began = json.loads(Path(run.output, "run", "config.json").read_text())["identity"]
    for step in (left, failed):
        name, *words = shlex.split(step.command)[1:]
        assert name == "segment"
        config: SegmentConfig = parse(SEGMENT, words, console=True)
        assert json.loads(json.dumps(identity(config, "f1n9e6"))) == began
        assert (config.output, config.weights) == (run.output, "/networks/my.safetensors")
        assert config.max_error_rate == 0.5
        assert config.retry_failed == (step is failed)
        assert not config.overwrite


def test_the_main_job_names_the_page_and_ends_with_the_numbers(tmp_path: Path, photos: Path, capsys):
    run = begin(tmp_path, [result("a.jpg", labels(8, 8, 1), 0.5, photos)])
    config = SegmentConfig(str(photos), run.output)
    assert report(config, run, Summary.of(STAGES), 0) == 0
    *_, named, last = capsys.readouterr().out.splitlines()
    assert named == f"report:  {run.output}/run/report.html"
    assert last.startswith("1 of 1 images done, 0 failed")
    assert Path(run.output, "run", "report.html").is_file()


def test_a_table_with_images_that_were_done_twice_says_so(tmp_path: Path, photos: Path, capsys):
    """As after `--retry-failed`: two images of an earlier call are in place, and one of them once more by this call."""
    run = begin(tmp_path, [result(f"{name}.jpg", labels(8, 8, 1), 0.5, photos) for name in "ab"])
    for before, again in ((1, False), (2, True)):
        earlier, this = Summary.of(STAGES), Summary.of(STAGES)
        earlier.stages["decode"] |= {"rows": before, "seconds": 1.0}
        this.stages["decode"] |= {"rows": 1, "seconds": 0.5}
        assert report(SegmentConfig(str(photos), run.output), replace(run, before=earlier), this, 0) == 0
        assert ("an image that was done again counts each time in this table" in capsys.readouterr().out) is again


def test_a_run_that_failed_has_a_page_too(tmp_path: Path, capsys):
    run = begin(tmp_path, [failure("bad.jpg")])
    assert report(SegmentConfig("in", run.output), run, Summary.of(STAGES), 0) == 4  # not one image succeeded
    *_, named, last = capsys.readouterr().out.splitlines()
    assert named == f"report:  {run.output}/run/report.html"
    assert last.startswith("0 of 1 images done, 1 failed")


def test_a_page_that_cannot_be_written_is_a_line_and_not_an_exit_code(tmp_path: Path, photos: Path, capsys):
    run = begin(tmp_path, [result("a.jpg", labels(8, 8, 1), 0.5, photos)])
    Path(run.output, "run", "report.html").mkdir()  # so that no file can take its place
    assert report(SegmentConfig(str(photos), run.output), run, Summary.of(STAGES), 0) == 0
    *_, said, last = capsys.readouterr().out.splitlines()
    assert said.startswith("the report was not written (")
    assert f"--results {run.output}" in said or f"deconvnet report {run.output}" in said
    assert last.startswith("1 of 1 images done")


def test_a_run_that_was_stopped_does_not_wait_for_a_page(tmp_path: Path, capsys):
    run = begin(tmp_path, [failure("bad.jpg")], "left.jpg")
    assert report(SegmentConfig("in", run.output), run, Summary.of(STAGES), 3) == 3
    assert "report" not in capsys.readouterr().out
    assert not Path(run.output, "run", "report.html").exists()


def test_numbers_in_words():
    assert [percent(share) for share in (0, 0.0001, 0.0123, 0.0999, 0.5)] == [
        "0.0 %", "under 0.1 %", "1.2 %", "10 %", "50 %",
    ]  # fmt: skip
    assert [duration(value) for value in (3.21, 59.4, 61, 3599.9, 7260)] == [
        "3.2 s", "59.4 s", "1 min 01 s", "1 h 00 min", "2 h 01 min",
    ]  # fmt: skip
