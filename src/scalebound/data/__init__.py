"""A corpus becomes one ordered token stream on disk.

In: a text file, a folder, or nothing (the default text: Python sources of the pinned packages). Out: ``NAME.bin`` + ``NAME.json``,
memory-mapped, whose sequence order is drawn once from a seed and is part of its identity. Start reading at
:mod:`~scalebound.data.corpus` (text to documents), then :mod:`~scalebound.data.stream` (documents to a stream);
:mod:`~scalebound.data.mixture` puts several sources into one.
"""

from scalebound.data.corpus import Corpus as Corpus
from scalebound.data.corpus import Document as Document
from scalebound.data.corpus import read_corpus as read_corpus
from scalebound.data.corpus import split_documents as split_documents
from scalebound.data.mixture import Phase as Phase
from scalebound.data.mixture import build_mixture as build_mixture
from scalebound.data.mixture import first_seen as first_seen
from scalebound.data.mixture import load_mixture as load_mixture
from scalebound.data.stream import Stream as Stream
from scalebound.data.stream import StreamInfo as StreamInfo
from scalebound.data.stream import build_stream as build_stream
from scalebound.data.tokenizer import load_tokenizer as load_tokenizer
