"""Models that other programs quantized, taken over with their integers: no weight changes by a bit, and the integers are entropy coded.

In: the blocks of a format (:mod:`~scalebound.compress.foreign.gguf_blocks`, :mod:`~scalebound.compress.foreign.packed` for GPTQ and AWQ,
:mod:`~scalebound.compress.foreign.bitsandbytes`, :mod:`~scalebound.compress.foreign.compressed` for compressed-tensors and float8). Out: a :class:`~scalebound.compress.model.QuantizedModel` of grouped tensors. Start reading at
:mod:`~scalebound.compress.foreign.assemble`, where the formats meet; :mod:`~scalebound.compress.foreign.folder` reads a folder,
:mod:`scalebound.models.keep_codes` a ``.gguf`` file as well.
"""

from scalebound.compress.foreign.assemble import Blocks as Blocks
from scalebound.compress.foreign.assemble import assemble as assemble
from scalebound.compress.foreign.folder import is_known as is_known
from scalebound.compress.foreign.folder import keep_folder as keep_folder
from scalebound.compress.foreign.gguf_blocks import KINDS as KINDS
from scalebound.compress.foreign.gguf_blocks import unpack as unpack
