"""certify: not written yet."""
