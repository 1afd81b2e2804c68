"""Every row of the table leads to something that exists and is documented."""

import importlib
import importlib.util

import pytest

from scalebound.cli.main import COMMANDS
from scalebound.cli.probe import COMMANDS as PROBES
from scalebound.core.systems import SYSTEMS


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.title)
def test_rows_lead_to_documented_code_and_commands(system):
    if any(importlib.util.find_spec(name) is None for name in system.needs):
        pytest.skip(f"needs {', '.join(system.needs)}: pip install 'scalebound[lm]'")
    module, name = system.module.split(":")
    found = getattr(importlib.import_module(module), name)
    assert found.__doc__ and system.demo.split()[1] in COMMANDS and system.source
    assert system.family != "probe" or system.demo.split()[2] in PROBES


def test_numbers_and_titles_are_unique():
    assert len({system.id for system in SYSTEMS}) == len({system.title for system in SYSTEMS}) == len(SYSTEMS)


def test_every_law_is_in_the_table():
    from scalebound.scaling import LAWS

    listed = {system.module for system in SYSTEMS if system.family == "law"}
    # a variant that adds a term to a law shares its row
    assert {f"{law.__module__}:{law.__name__}" for name, law in LAWS.items() if name != "annealing-sized"} <= listed
