"""Make the picture of the live table, docs/images/live_table.png; needs Chromium.

    python -m examples.live_table docs/images/live_table.png

The numbers are those of a run with `--weights voc` on 258 photographs and two CPUs, when 48 of its images were saved.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops
from rich.console import Console

from pipeline.run.live import View, live_table

WIDTH = 100  # columns
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WINDOW = "1400,700"  # pixels; what is empty is cut off
VIEW = View(
    done={"decode": 216, "propose": 208, "predict": 56, "refine": 48},
    total=258, saved=48, failed=0, skipped=0, lost=0,
    processes={"decode": "tasks", "propose": "tasks", "predict": "2", "refine": "1"},
    alone={"decode": 0.00176, "propose": 0.0921, "predict": 0.7194, "refine": 0.1078},
    bound="cpu", failures=[],
)  # fmt: skip
SPEEDS = {"decode": 2.4, "propose": 2.0, "predict": 0.8, "refine": 0.8}


def main(target: str) -> None:
    """Draw the table as SVG, and let Chromium make a PNG of it.

    Args:
        target: path of the PNG.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    console.print(live_table(VIEW, SPEEDS))
    with tempfile.TemporaryDirectory() as folder:
        drawing, shot = Path(folder, "table.svg"), Path(folder, "table.png")
        drawing.write_text(console.export_svg(title="deconvnet segment"))
        subprocess.run(  # noqa: S603  (a browser, on our own file)
            [browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WINDOW}",
             f"--screenshot={shot}", drawing.as_uri()],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        picture = Image.open(shot).convert("RGB")
    empty = Image.new("RGB", picture.size, "white")
    picture.crop(ImageChops.difference(picture, empty).getbbox()).quantize(256).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
