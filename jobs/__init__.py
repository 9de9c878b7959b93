"""Command-line jobs: parse, check, plan, run, report, exit code."""
