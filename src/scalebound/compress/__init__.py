"""Weights become a file whose size is the model's code length, and the file becomes exactly those weights again.

In: a configuration and arrays (or a model folder). Out: a package, ``.sbz`` (docs/package-format.md), that decodes to the same bits on every machine.
Start reading at :mod:`~scalebound.compress.rounding` (weights to integers), then :mod:`~scalebound.compress.encoder` (integers to bytes),
:mod:`~scalebound.compress.tables` (frequencies), shared as :mod:`~scalebound.compress.plan` finds shortest, and :mod:`~scalebound.compress.decoder` (what is refused). Only numpy and constriction needed.

Rounding that looks at text needs a model's forward pass, which this room knows nothing of: :mod:`~scalebound.compress.gptq` and
:mod:`~scalebound.compress.allocation` are given second moments and weights as arrays (:mod:`~scalebound.compress.pruning`: which weights become zero;
:mod:`~scalebound.compress.selection`: which matrix gets which level), and :mod:`scalebound.train.posttraining` runs the model, collects them one
layer at a time and puts the rounded weights in place. :mod:`scalebound.train.finetune` trains integers and scales instead.

Two other sources: :mod:`~scalebound.compress.foreign`, models that other programs quantized, and :mod:`~scalebound.compress.delta`, what differs from a base.
"""

from scalebound.compress.checkpoint import read_checkpoint as read_checkpoint
from scalebound.compress.decoder import decode as decode
from scalebound.compress.decoder import decode_model as decode_model
from scalebound.compress.encoder import Breakdown as Breakdown
from scalebound.compress.encoder import encode as encode
from scalebound.compress.encoder import encode_with_breakdown as encode_with_breakdown
from scalebound.compress.grouped import Grouped as Grouped
from scalebound.compress.grouped import Step as Step
from scalebound.compress.model import Coded as Coded
from scalebound.compress.model import QuantizedModel as QuantizedModel
from scalebound.compress.model import Raw as Raw
from scalebound.compress.model import tensors_sha256 as tensors_sha256
from scalebound.compress.package import code_bits as code_bits
from scalebound.compress.package import load_package as load_package
from scalebound.compress.package import read_package as read_package
from scalebound.compress.package import save_package as save_package
from scalebound.compress.rounding import quantize as quantize
