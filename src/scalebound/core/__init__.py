"""What every room shares and no room owns: errors, atomic files, strict JSON, seeds, artefact types, the table of systems.

In: nothing (core imports no room). Out: the types that are saved between rooms.
Start reading at :mod:`scalebound.core.stats` (per-token numbers) and :mod:`scalebound.core.certificate`.
"""
