"""scaling: not written yet."""
