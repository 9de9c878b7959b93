"""Training of the light FCN: whole photographs with class masks in, a network out."""
