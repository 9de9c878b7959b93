"""Annotated images on disk: PASCAL VOC, SBD, COCO, BSDS500."""
