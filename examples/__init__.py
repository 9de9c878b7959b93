"""Examples: data to try the project with. Not installed with the package."""
