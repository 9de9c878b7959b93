"""What is to be segmented: manifests and S3 Inventories."""
