"""report: not written yet."""
