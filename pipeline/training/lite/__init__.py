"""Training of the light DeconvNet on windows of photographs."""
