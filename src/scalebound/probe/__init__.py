"""What equal loss does not tell: models with the same loss that extrapolate or fine-tune differently.

In: a Llama-style folder, or nothing (small models are trained in the probe). Out: :class:`Report`-like records with rows, intervals and a
verdict. Start reading at :mod:`~scalebound.probe.finetune` (equal functions, other weights) and :mod:`~scalebound.probe.rules` (equal losses,
other completions); :mod:`~scalebound.probe.reparametrize` and :mod:`~scalebound.probe.grammar` hold what they are made of.
"""

from scalebound.probe.llama import logits_of as logits_of
from scalebound.probe.llama import read_llama as read_llama
from scalebound.probe.llama import untied as untied
from scalebound.probe.reparametrize import TRANSFORMATIONS as TRANSFORMATIONS
from scalebound.probe.reparametrize import fold as fold
from scalebound.probe.reparametrize import permute_heads as permute_heads
from scalebound.probe.reparametrize import permute_neurons as permute_neurons
from scalebound.probe.reparametrize import query_key as query_key
from scalebound.probe.reparametrize import rotate_residual as rotate_residual
from scalebound.probe.reparametrize import up_down as up_down
from scalebound.probe.reparametrize import value_output as value_output
