"""The columns of results, errors and skipped images, and the statuses that distinguish them."""

from __future__ import annotations

import pyarrow as pa

from pipeline.config.stages import STAGES
from pipeline.outputs import layout

OK = "ok"
"""`status` of an image that is segmented, or is on its way."""
FAILED = "failed"
"""`status` of an image that could not be segmented."""
SKIPPED = "skipped"
"""`status` of an image that the settings leave out; not a failure."""

CLASS_NAMES = b"class_names"
"""The key of the class names in the metadata of every Parquet file: a JSON list."""

RESULTS_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("manifest", pa.string()),  # other columns of the user's manifest, a JSON object; null: none
        ("height", pa.int32()),  # of the mask and the upright image, in pixels
        ("width", pa.int32()),
        ("mask", pa.binary()),  # palette PNG whose values are labels
        ("pixel_counts", pa.list_(pa.int64())),  # one for each class
        ("mean_probability", pa.list_(pa.float32())),  # of each class over the pixels given its label; null: no pixel
        ("num_proposals", pa.int32()),
        ("mean_confidence", pa.float32()),  # mean over all pixels of the probability of their label
        ("model_fingerprint", pa.string()),
        ("status", pa.string()),
        *[(f"seconds_{stage.name}", pa.float32()) for stage in STAGES],
    ]
)
ERRORS_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("image_id", "uri", "manifest", "status", "error_stage", "error_type", "error_message")
    ]
)
SKIPPED_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("manifest", pa.string()),
        ("height", pa.int32()),  # of the upright image, in pixels
        ("width", pa.int32()),
        ("status", pa.string()),
        ("skip_stage", pa.string()),
        ("skip_reason", pa.string()),
    ]
)

SCHEMAS = {layout.RESULTS: RESULTS_SCHEMA, layout.ERRORS: ERRORS_SCHEMA, layout.SKIPPED: SKIPPED_SCHEMA}
"""Schemas of the Parquet files, by folder."""
ALL_SCHEMAS = pa.unify_schemas([RESULTS_SCHEMA, ERRORS_SCHEMA, SKIPPED_SCHEMA])
"""The columns of all of them."""
FOLDER_OF = {OK: layout.RESULTS, FAILED: layout.ERRORS, SKIPPED: layout.SKIPPED}
"""Folder of an image's row, by its status."""
