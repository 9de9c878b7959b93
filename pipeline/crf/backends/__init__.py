"""The CRF's backends, a file each, under the name that `--crf` has for it.

A backend's file has

- `MODULE`, the name of the module that it needs, imported only where it is used;
- where a version of the module may not know all values of `--crf-normalization`, `normalizations(module)`: those that
  it knows;
- `mean_fields(images, logs, config, device)`: marginals float32 `[K, H, W]`, 0..1, of each image. Images are uint8 RGB
  `[H, W, 3]`, logs float32 `[K, H, W]` log-probabilities with K 2 or more.
"""
