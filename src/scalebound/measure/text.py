"""Text for a model: its own tokenizer, and what the second argument of ``measure`` may be, a stream, or text that becomes one."""

from __future__ import annotations

import os
from pathlib import Path

from scalebound.core.errors import InputError
from scalebound.data.corpus import read_corpus
from scalebound.data.stream import SourceRef, Stream, build_stream, is_stream
from scalebound.data.tokenizer import Tokenizer, load_tokenizer
from scalebound.models.language_model import LanguageModel


def tokenizer_of(model: LanguageModel) -> Tokenizer:
    """The tokenizer a model was made with; bytes for one of 256 tokens.

    Raises
    ------
    InputError
        The model comes without one (a package carries none, and bytes are not what it knows), or with one of more tokens than it predicts.
    """
    if model.vocab_size != 256 and model.tokenizer == "byte":
        raise InputError(f"predicts {model.vocab_size:,} tokens and comes without a tokenizer", where=model.name, expected="a model with its tokenizer, or a stream instead of text",
                         hint="scalebound export PACKAGE --tokenizer FILE gives it one; or score the text with the original model: the stream it leaves beside its statistics serves both")  # fmt: skip
    tokenizer = load_tokenizer("byte" if model.vocab_size == 256 else model.tokenizer)
    if tokenizer.vocab_size > model.vocab_size:
        raise InputError(f"knows {tokenizer.vocab_size:,} tokens", where=tokenizer.path, expected=f"the model's tokenizer ({model.vocab_size:,})")
    return tokenizer


def stream_of(text: str | os.PathLike, model: LanguageModel, out: str | os.PathLike, *, context: int, max_tokens: int | None = None) -> Stream:
    """Open a stream, or write one of a text in its own order to ``out`` (path without ending).

    Raises
    ------
    InputError
        Empty or binary text, or a stream whose token ids the model does not know.
    """
    if is_stream(text):
        stream = Stream(text)
        if stream.info.vocab_size > model.vocab_size:
            raise InputError(f"has token ids up to {stream.info.vocab_size - 1:,}", where=str(stream.path), expected=f"a stream of the model's vocabulary ({model.vocab_size:,}), made with its tokenizer")
        return stream
    tokenizer = tokenizer_of(model)
    corpus = read_corpus(text)
    return build_stream(corpus.documents, tokenizer, Path(out), sequence_tokens=context, source=SourceRef(corpus.name, corpus.sha256), split="text", max_tokens=max_tokens)
