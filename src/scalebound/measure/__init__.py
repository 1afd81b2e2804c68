"""A model and a stream become per-token statistics, block by block, resumable, mergeable.

In: anything :func:`scalebound.models.load_model` loads, and a stream or text. Out: a stats file (:mod:`scalebound.core.stats`), with the
losses of an anchor and the centre of its certificate beside it when asked for; or the losses of a predictable reference; or, of
multiple-choice items, a table of answers. Start reading at :mod:`~scalebound.measure.score` (one pass over a batch), then
:mod:`~scalebound.measure.measure` (a whole stream), :mod:`~scalebound.measure.reference` and :mod:`~scalebound.measure.choices` (items).
"""

from scalebound.measure.answers import answer_items as answer_items
from scalebound.measure.choices import score_items as score_items
from scalebound.measure.items import Item as Item
from scalebound.measure.items import read_items as read_items
from scalebound.measure.measure import DEFAULT_ALPHAS as DEFAULT_ALPHAS
from scalebound.measure.measure import DEFAULT_EPS as DEFAULT_EPS
from scalebound.measure.measure import measure as measure
from scalebound.measure.ngram import ngram_losses as ngram_losses
from scalebound.measure.reference import checkpoint_reference as checkpoint_reference
from scalebound.measure.reference import ngram_reference as ngram_reference
from scalebound.measure.reference import online_reference as online_reference
from scalebound.measure.text import stream_of as stream_of
from scalebound.measure.text import tokenizer_of as tokenizer_of
