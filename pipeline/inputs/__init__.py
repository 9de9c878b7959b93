"""The images to segment: manifests, and S3 Inventories."""
