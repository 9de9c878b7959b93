"""A run's results as other tools read them: COCO, YOLO, CVAT, Label Studio, `datasets`, plain masks."""
