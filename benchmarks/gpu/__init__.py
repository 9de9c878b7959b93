"""Everything that the project claims of GPUs, tried and measured by one command: `python -m benchmarks.gpu`."""
