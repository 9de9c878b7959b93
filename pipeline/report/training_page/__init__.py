"""A training's report, OUTPUT/report.html: `facts`, read from the output (`gather`), drawn and laid out (`render`)."""

from pipeline.report.training_page.facts import TrainingFacts
from pipeline.report.training_page.gather import gather
from pipeline.report.training_page.render import render

__all__ = ["TrainingFacts", "gather", "render"]
