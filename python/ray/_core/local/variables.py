"""The `env_vars` of a runtime environment in local mode. They are the process's own, so they are set while a call runs and put back after it.

Calls that run at the same time in several threads see each other's variables: this is the one rule of Ray that one process can't keep.
"""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def applied(env: str) -> Iterator[None]:
    """Set variables inside of a `with` block.

    Args:
        env: Canonical JSON of an environment, "" for none.
    """
    if not env:
        yield
        return
    before = change(variables_of(env))
    try:
        yield
    finally:
        change(before)


def variables_of(env: str) -> dict[str, str]:
    """Give the variables of an environment."""
    if not env:
        return {}
    import json

    found: dict[str, str] = json.loads(env).get("env_vars", {})
    return found


def change(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set variables; None removes one.

    Returns:
        What they were before, to be given to this function again.
    """
    before = {name: os.environ.get(name) for name in variables}
    for name, text in variables.items():
        if text is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = text
    return before
