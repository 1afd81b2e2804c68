"""measure: not written yet."""
