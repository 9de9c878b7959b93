"""The CRF's backends, a file each, under the name that `--crf` has for it.

A backend's file has

- `MODULE`, the name of the module that it needs, imported only where it is used;
- `normalizations(module)`, only if some version of the module lacks values of `--crf-normalization`: those that the
  given one has;
- `mean_fields(images, logs, config, device)`: the marginals of each image, float32 `[K, H, W]`, 0..1. Images are uint8
  RGB `[H, W, 3]`, logs float32 `[K, H, W]` log-probabilities with K 2 or more.
"""
