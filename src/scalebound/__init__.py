"""scalebound: forecast the loss of language models not yet trained, and prove bounds for those that are.

The rooms, in the order data passes through them::

    core -> data -> models -> train -> measure -> compress -> certify -> scaling -> probe -> report -> cli

Start with docs/formats.md (the files between the rooms) and docs/mathematics.md (what is proved).
Importing this package imports no room: ``import scalebound.certify`` needs numpy only, ``import scalebound.train`` needs torch.
"""

__version__ = "0.1.0"
