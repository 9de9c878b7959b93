"""The functions of the package that people call from Python, see `docs/from_python.md`."""
