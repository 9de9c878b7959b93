"""The compiled part: the fully connected CRF's mean field. Everything else about the package is in pyproject.toml."""

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

# A module of its own beside `pipeline`: a job sent to a cluster brings its Python files along and shadows the installed
# package, but not this. -ffp-contract=off: the same lattice on processors that would fuse a product and a sum.
setup(
    ext_modules=[
        Pybind11Extension(
            "densecrf_lattice",
            ["native/densecrf_lattice.cpp"],
            cxx_std=17,
            extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno"],
        )
    ]
)
