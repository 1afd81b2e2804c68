"""compress: not written yet."""
