"""Tables: exact frequencies, what constriction makes of them, and how close a stored table comes to the counts it was made from."""

from fractions import Fraction

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalebound.compress.coder import Decoder, encode_messages
from scalebound.compress.tables import MAX_SYMBOLS, TOTAL, WEIGHTS, Table, bucket, fit_table, frequencies, read_tables, read_varint, varint
from scalebound.core.errors import InputError

weight_lists = st.lists(st.one_of(st.just(0), st.integers(0, 255).map(lambda b: int(WEIGHTS[b]))), min_size=2, max_size=300).filter(any)


@settings(deadline=None)
@given(weight_lists)
def test_frequencies_are_the_stated_rule(weights):
    found = frequencies(np.array(weights))
    cum = [j + int(Fraction(sum(weights[:j]) * (TOTAL - len(weights)), sum(weights))) for j in range(len(weights) + 1)]
    assert found.tolist() == [b - a for a, b in zip(cum, cum[1:], strict=False)]
    assert found.min() >= 1 and int(found.sum()) == TOTAL


def test_the_largest_table_stays_inside_64_bits():
    assert int(frequencies(np.full(MAX_SYMBOLS, WEIGHTS[-1])).sum()) == TOTAL


def _cumulative_inside_constriction(frequency):
    """What constriction makes of a table, read off its decoder: symbol j starts at the first q that decodes to j."""
    model = constriction.stream.model.Categorical((frequency - 1).astype(np.float64), perfect=False)

    def decode(q):
        # a coder whose state is q + 2^24 decodes the symbol whose interval q lies in
        state = TOTAL + q
        return int(constriction.stream.stack.AnsCoder(np.array([state], dtype=np.uint32)).decode(model, 1)[0])

    return decode


@settings(max_examples=40, deadline=None)
@given(weight_lists)
def test_constriction_quantizes_to_exactly_these_frequencies(weights):
    frequency = frequencies(np.array(weights))
    cum = np.concatenate([[0], np.cumsum(frequency)])
    decode = _cumulative_inside_constriction(frequency)
    for j in range(len(weights)):
        assert decode(int(cum[j])) == j and decode(int(cum[j + 1]) - 1) == j


def test_control_probabilities_that_are_not_reduced_by_one_are_quantized_differently():
    frequency = frequencies(np.array([WEIGHTS[200], 0, 0, WEIGHTS[100], WEIGHTS[255]]))
    model = constriction.stream.model.Categorical(frequency.astype(np.float64), perfect=False)
    cum = np.concatenate([[0], np.cumsum(frequency)])
    wrong = [int(constriction.stream.stack.AnsCoder(np.array([TOTAL + c], dtype=np.uint32)).decode(model, 1)[0]) for c in cum[:-1]]
    assert wrong != list(range(5))


def test_buckets():
    def slow(a):
        e = max(0, a.bit_length() - 4)
        return 8 * e + (a >> e)

    values = np.arange(1 << 17)
    assert bucket(values).tolist() == [slow(int(a)) for a in values]
    assert np.all(np.diff(bucket(values)) >= 0) and np.diff(bucket(values)).max() == 1


@settings(deadline=None)
@given(st.integers(-(1 << 20), 1 << 20), st.lists(st.integers(0, 10**9), min_size=1, max_size=400).filter(lambda c: c[0] and c[-1]))
def test_a_fitted_table_is_read_back(low, counts):
    table = fit_table(low, np.array(counts, dtype=np.int64))
    [read] = read_tables(table.stored, "test")
    assert read == table and read.low <= low and read.high >= low + len(counts) - 1
    assert table.bits(low, np.array(counts)) >= 0


@pytest.mark.parametrize("sigma", [0.4, 2.0, 20.0, 400.0])
@pytest.mark.parametrize("shift", [0, 3])
def test_a_fitted_table_costs_little_more_than_the_entropy(sigma, shift):
    symbols = np.rint(np.random.default_rng(1).laplace(size=300_000) * sigma).astype(np.int64) + shift
    counts = np.bincount(symbols - symbols.min())
    p = counts[counts > 0] / counts.sum()
    entropy = -float(p @ np.log2(p)) * counts.sum()
    table = fit_table(int(symbols.min()), counts)
    assert entropy < table.bits(int(symbols.min()), counts) + 8 * len(table.stored) < 1.006 * entropy
    assert shift or len(table.stored) < 140


@settings(deadline=None)
@given(st.integers(0, (1 << 63) - 1))
def test_varint(value):
    assert read_varint(b"x" + varint(value), 1, "test") == (value, 1 + len(varint(value)))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 8, b"\x80" * 9 + b"\x01"])
def test_bad_varints(data):
    with pytest.raises(InputError):
        read_varint(data, 0, "test")


@pytest.mark.parametrize("data", [b"\x00", b"\x01", b"\x04\x00\x10", b"\x04\x00\x00\x00", b"\x03\x10", varint(2 * (MAX_SYMBOLS + 1)) + b"\0", varint(MAX_SYMBOLS + 1), b"\x02" + varint(1 << 40)])
def test_bad_tables(data):
    with pytest.raises(InputError):
        read_tables(data, "test")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_messages_round_trip(data):
    messages = []
    for _ in range(data.draw(st.integers(0, 4))):
        low, counts = data.draw(st.integers(-300, 300)), data.draw(st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(lambda c: c[0] and c[-1]))
        symbols = data.draw(st.lists(st.integers(low, low + len(counts) - 1), max_size=50))
        messages.append((np.array(symbols, dtype=np.int32), fit_table(low, np.array(counts))))
    decoder = Decoder(encode_messages(messages), "test")
    for symbols, table in messages:
        assert decoder.read(table, len(symbols)).tolist() == symbols.tolist()
    decoder.finish()


def test_left_over_words_are_refused():
    table = Table(0, 2, b"\x10\x10")
    decoder = Decoder(encode_messages([(np.array([0, 1] * 40), table)]), "test")
    decoder.read(table, 79)
    with pytest.raises(InputError, match="left over"):
        decoder.finish()
