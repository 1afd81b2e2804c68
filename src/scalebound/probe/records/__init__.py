"""What a probe found, put into words: each file turns the rows of one probe into a :class:`~scalebound.core.probe.ProbeRecord`.

In: rows. Out: tables, sentences and figure data; no drawing, and no number that is not in a row.
"""
