"""The compiled part: the fully connected CRF's mean field. Everything else about the package is in pyproject.toml."""

import platform
import sys

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup


def lattice(name, *flags):
    """The lattice as a module of its own beside `pipeline`.

    A job sent to a cluster brings its Python files along and shadows the installed package, but not this.
    -ffp-contract=off: the same lattice on processors that would fuse a product and a sum.
    """
    flags = ["-O3", "-ffp-contract=off", "-fno-math-errno", *flags]
    return Pybind11Extension(name, ["native/densecrf_lattice.cpp"], cxx_std=17, extra_compile_args=flags)


# The same source twice: for any processor, and for those with AVX2, which the first module looks for at run time.
if sys.platform == "linux" and platform.machine() == "x86_64":
    modules = [lattice("densecrf_lattice", "-DWITH_AVX2_MODULE"), lattice("densecrf_lattice_avx2", "-mavx2")]
else:
    modules = [lattice("densecrf_lattice")]
setup(ext_modules=modules)
