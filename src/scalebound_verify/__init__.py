"""The independent checker of scalebound's certificates. It imports nothing of scalebound."""
