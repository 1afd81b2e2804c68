"""Sentences: they say what the files say, and no more."""

import dataclasses

from msgspec.structs import replace

from scalebound.report.folder import read_folder
from scalebound.report.words import check_sentence, forecast_sentence, headline, proof_sentences, short


def test_the_words_follow_the_files(folder):
    found = read_folder(folder)
    best = found.largest.certificates["anchored"]
    assert (
        headline(found)
        == f"Proved: the 150,144-parameter model, compressed and mixed with a small anchor, has an expected loss of at most {best.bound:.3f} nats per token, with 99% confidence."
    )
    assert (
        "10% of the anchor" in proof_sentences(found)[0]
        and "36 of 36 certificates" in check_sentence(found)
        and "at least 64%" in check_sentence(found)
    )
    assert "inside the interval" in forecast_sentence(found)

    def changed(**changes):
        entries = dict(found.largest.certificates) | {"anchored": replace(best, **changes)}
        return dataclasses.replace(
            found, demo=replace(found.demo, rungs=(*found.demo.rungs[:-1], replace(found.largest, certificates=entries)))
        )

    refused = changed(verified=False)
    assert (
        headline(refused).startswith("Not verified")
        and proof_sentences(refused)[0].startswith("If the check had passed")
        and "35 of 36" in check_sentence(refused)
    )
    vacuous = dataclasses.replace(
        found,
        certificates=(
            *found.certificates[:-1],
            dict(found.certificates[-1]) | {"anchored": replace(found.certificates[-1]["anchored"], vacuous=True, bound=6.0)},
        ),
    )
    assert headline(vacuous).startswith("Proved, but vacuous")
    missed = dataclasses.replace(found, demo=replace(found.demo, forecasts=(replace(found.demo.forecasts[0], truth=9.0),)))
    assert "outside the interval" in forecast_sentence(missed)


def test_the_headline_is_not_the_smallest_of_several_bounds(folder):
    """The smallest of k bounds holds with k times the failure probability: the headline's method is fixed in advance."""
    found = read_folder(folder)
    lowered = replace(found.certificates[-1]["product"], bound=1.0)
    assert headline(
        dataclasses.replace(found, certificates=(*found.certificates[:-1], dict(found.certificates[-1]) | {"product": lowered}))
    ) == headline(found)


def test_counts_in_short():
    assert [short(x) for x in (7, 999, 15_104, 999_600, 1e6, 1.5e9, 2e13)] == ["7", "999", "15.1k", "1M", "1M", "1.5B", "20T"]
