"""Object proposals: edge detectors and EdgeBoxes over their edges; numpy and OpenCV, no Ray, no torch."""
