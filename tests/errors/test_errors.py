"""The tree of errors on one screen, and nothing beside it."""

import importlib
import inspect
import pkgutil
import re

import pipeline
from pipeline import errors
from pipeline.run.attempts import WorkerDied
from pipeline.storage.retrying import StoreAwayError, TransientError

OUTSIDE = (WorkerDied, TransientError, StoreAwayError)
"""What a row says of an image, and a store's errors, which are an OSError as those of files are."""


def modules() -> list:
    names = [module.name for module in pkgutil.walk_packages(pipeline.__path__, "pipeline.")]
    return [importlib.import_module(name) for name in names]


def test_the_drawing_is_the_tree():
    drawn = re.findall(r"^ {4}([│├└─ ]*)(\w+)(?: \(|  |$)", errors.__doc__ or "", flags=re.MULTILINE)
    above: dict[int, str] = {}
    for indent, name in drawn:
        depth = len(indent)
        above[depth] = name
        parent = max((other for other in above if other < depth), default=None)
        if parent is not None:
            assert issubclass(getattr(errors, name), getattr(errors, above[parent])), name
    classes = {name for name, one in vars(errors).items() if inspect.isclass(one) and issubclass(one, Exception)}
    assert {name for _, name in drawn} == classes


def test_no_error_stands_beside_the_tree():
    found = {
        one
        for module in modules()
        for one in vars(module).values()
        if inspect.isclass(one) and issubclass(one, BaseException) and one.__module__.startswith("pipeline.")
    }
    assert not {one for one in found if not issubclass(one, (errors.PipelineError, *OUTSIDE))}
