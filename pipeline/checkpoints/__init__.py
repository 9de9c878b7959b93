"""The bundled checkpoints."""
