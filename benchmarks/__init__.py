"""What `-m benchmarks` measures."""
