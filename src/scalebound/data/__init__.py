"""data: not written yet."""
