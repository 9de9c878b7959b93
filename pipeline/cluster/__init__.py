"""The main job on Ray: connecting, profiling, planning, the Ray Data graph and the driver that consumes it."""
