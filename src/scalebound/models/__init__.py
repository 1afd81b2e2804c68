"""models: not written yet."""
