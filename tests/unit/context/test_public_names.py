"""The names of the core that programs use: each can be reached, and takes the parameters that programs pass by keyword.

docs/coverage.md says which names of Ray's core are not among them, and why.
"""

import importlib
import inspect
from pathlib import Path

import pytest

LINES = [line for line in (Path(__file__).parent / "data" / "core_names.txt").read_text().splitlines() if not line.startswith("#")]


def resolved(name: str) -> object:
    """Import the longest part of a name that is a module, and follow the rest."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            found = getattr(found, attribute)
        return found
    raise AttributeError(name)


@pytest.mark.parametrize("line", LINES, ids=[line.partition("(")[0] for line in LINES])
def test_name_is_there_and_takes_its_parameters(line):
    name, _, rest = line.partition("(")
    found = resolved(name)
    wanted = {part.strip() for part in rest.rstrip(")").split(",") if part.strip()}
    if not wanted:
        return
    have = inspect.signature(found).parameters
    assert wanted <= set(have) or any(parameter.kind is parameter.VAR_KEYWORD for parameter in have.values())
