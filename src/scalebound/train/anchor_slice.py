"""A small model on documents of its own: the anchor of later certificates (docs/mathematics.md section 4).

Certificates relative to a reference are the tighter the better the reference, and a reference may be anything that did not see the tokens.
``--anchor-slice 5%`` keeps documents worth that share of the largest rung's tokens apart, and trains on them the model that the recipe gives
for as many tokens: a share a of the data costs ``a^2`` of the compute of the largest rung. What that buys is drawn in docs/gallery/certify.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from scalebound.core.errors import UsageError
from scalebound.data.corpus import Document
from scalebound.data.tokenizer import Tokenizer
from scalebound.train.recipe import Recipe, derive_recipe

SAMPLED_DOCUMENTS = 50  # of the text, for the bytes a token takes


def anchor_recipe(share: float, tokens: int, *, tokens_per_param: float, vocab_size: int, context: int, seed: int) -> Recipe:
    """The recipe of an anchor that is trained on a share of ``tokens``.

    Raises
    ------
    UsageError
        The share buys no model: fewer than a batch of tokens, or fewer parameters than the smallest shape has.
    """
    params = int(share * tokens / tokens_per_param)
    try:
        found = derive_recipe(params, tokens_per_param=tokens_per_param, vocab_size=vocab_size, context=context, seed=seed)
    except UsageError as error:
        raise UsageError(f"a share of {share:.3g} of {tokens:,} tokens trains {params:,} parameters, fewer than any shape has ({error.what})", where="--anchor-slice", expected="a larger share, or larger rungs") from error
    if found.tokens > 1.5 * share * tokens:
        raise UsageError(f"a share of {share:.3g} of {tokens:,} tokens does not feed the smallest model ({found.params:,} parameters)", where="--anchor-slice", expected=f"at least {found.tokens / tokens:.2g}")
    return found


def slice_bytes(documents: Sequence[Document], words: Tokenizer, tokens: int) -> int:
    """Bytes of text to set apart for that many tokens: counted for bytes, else from evenly spaced documents, with a fifth to spare."""
    if words.vocab_size == 256:
        return tokens
    chosen = documents[:: max(1, len(documents) // SAMPLED_DOCUMENTS)]
    texts = [document.read() for document in chosen]
    found = sum(len(words.encode(text)) for text in texts)
    return int(1.2 * tokens * sum(len(text) for text in texts) / max(1, found))
