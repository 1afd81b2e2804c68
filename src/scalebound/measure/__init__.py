"""A model and a stream become per-token statistics, block by block, resumable, mergeable.

In: anything :func:`scalebound.models.load_model` loads, and a stream or text. Out: a stats file (:mod:`scalebound.core.stats`), with the
losses of an anchor and the centre of its certificate beside it when asked for; or the losses of a predictable reference. Start reading at
:mod:`~scalebound.measure.score` (one pass over a batch), then :mod:`~scalebound.measure.measure` (a whole stream) and
:mod:`~scalebound.measure.reference`.
"""

from scalebound.measure.measure import DEFAULT_ALPHAS as DEFAULT_ALPHAS
from scalebound.measure.measure import DEFAULT_EPS as DEFAULT_EPS
from scalebound.measure.measure import measure as measure
from scalebound.measure.ngram import ngram_losses as ngram_losses
from scalebound.measure.reference import checkpoint_reference as checkpoint_reference
from scalebound.measure.reference import ngram_reference as ngram_reference
from scalebound.measure.reference import online_reference as online_reference
from scalebound.measure.text import stream_of as stream_of
