"""Every example in the room's docstrings is run, and every public name has a docstring."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import scalebound.scaling

MODULES = sorted(module.name for module in pkgutil.walk_packages(scalebound.scaling.__path__, "scalebound.scaling."))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    # modules of the same name as a function are reached through sys.modules, not as attributes
    failed, _ = doctest.testmod(module, extraglobs={"np": np})
    assert failed == 0


def test_public_names_are_documented():
    for name in dir(scalebound.scaling):
        found = getattr(scalebound.scaling, name)
        if not name.startswith("_") and (inspect.isfunction(found) or inspect.isclass(found)):
            assert found.__doc__, name
