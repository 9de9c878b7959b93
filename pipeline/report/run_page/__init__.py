"""A run's report, OUTPUT/run/report.html: `facts`, counted from the output (`gather`), laid out (`render`)."""

from pipeline.report.run_page.facts import RunFacts
from pipeline.report.run_page.gather import gather
from pipeline.report.run_page.render import FOLDER, render

__all__ = ["FOLDER", "RunFacts", "gather", "render"]
