"""Choices made on a sample of blocks: they enter what the sample says of the rest, and are paid there too."""

import math

import msgspec
import numpy as np
import pytest
from certify_support import make_stats, sample_blocks

from scalebound.certify import Artefact, certify, certify_best
from scalebound.core.certificate import Choice


@pytest.fixture(scope="module")
def part():
    return sample_blocks(make_stats(n=6000), 40)


def test_more_options_cost_more_in_the_sampling_term(part):
    free = certify(part, code_bits=700, alpha=0.1)
    paid = certify(part, code_bits=700, alpha=0.1, choices=[Choice(setting="bits", options=7)])
    assert paid.terms.subsampling > free.terms.subsampling * 1.02
    whole = make_stats(n=6000)
    assert certify(whole, code_bits=700, alpha=0.1, choices=[Choice(setting="bits", options=7)]).terms.subsampling == 0


def test_packages_compared_on_a_sample_are_a_choice(part):
    other = msgspec.structs.replace(part.info, model=msgspec.structs.replace(part.info.model, sha256="bb" * 32))
    worse = type(part)(other, {"nll": part.read("nll") * np.float32(1.01), "entropy": part.read("entropy"), "blocks": part.blocks})
    alone = type(part)(part.info, {"nll": part.read("nll"), "entropy": part.read("entropy"), "blocks": part.blocks})
    best, _ = certify_best([Artefact(alone, 700), Artefact(worse, 690)], compare=False)
    assert Choice(setting="package", options=2) in best.code.choices
    assert best.code.choice_bits == pytest.approx(math.log2(math.prod(choice.options for choice in best.code.choices)))
    single, _ = certify_best([Artefact(alone, 700)], compare=False)
    assert "package" not in [choice.setting for choice in single.code.choices] and single.bound < best.bound
