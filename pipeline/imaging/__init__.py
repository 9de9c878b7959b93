"""Bytes to pixels and back, boxes and windows, class names and the palette."""
