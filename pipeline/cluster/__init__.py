"""The main job on Ray: connecting, planning, profiling, the Ray Data graph and the driver that consumes it."""
