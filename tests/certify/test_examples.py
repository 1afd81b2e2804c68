"""Every example in the room's docstrings runs."""

import doctest
import importlib
import pkgutil

import pytest

import scalebound.certify

MODULES = sorted(module.name for module in pkgutil.iter_modules(scalebound.certify.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(f"scalebound.certify.{name}"))
    assert found.failed == 0


def test_there_are_examples_for_every_public_function():
    for name in scalebound.certify.__all__ if hasattr(scalebound.certify, "__all__") else dir(scalebound.certify):
        member = getattr(scalebound.certify, name)
        if callable(member) and not isinstance(member, type) and not name.startswith("_"):
            assert ">>>" in (member.__doc__ or ""), name
