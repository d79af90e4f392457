"""The RAY_* environment variables that the Python half of the core honours. Nothing else reads the environment for settings.

Read at the time of use, so that a program may set them before `ray.init`.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _flag(text: str) -> bool:
    return text.strip().lower() not in ("", "0", "false", "no", "off")


_TABLE: dict[str, tuple[Callable[[str], Any], Any]] = {
    # name: (parser, default)
    "RAY_ADDRESS": (str, ""),  # cluster to join when `ray.init` gets no address
    "RAY_LOCAL_MODE": (_flag, False),  # run tasks and actors in the driver's process when `ray.init` does not say
    "RAY_NAMESPACE": (str, ""),  # namespace when `ray.init` gets none
    "RAY_TMPDIR": (str, ""),  # where session folders go
    "RAY_DEDUP_LOGS": (_flag, True),  # show a line that several workers print once
    "RAY_DEDUP_LOGS_AGG_WINDOW_S": (float, 5.0),  # seconds over which repeats are counted
    "RAY_COLOR_PREFIX": (_flag, True),  # colour the "(name pid=..)" prefix on a terminal
}


def env(name: str) -> Any:
    """Read one variable of the table.

    Args:
        name: A name in the table.

    Returns:
        The parsed value, or the default if the variable is not set.

    Raises:
        ValueError: The variable is set to something that can't be parsed.
    """
    parse, default = _TABLE[name]
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"the environment variable {name} is set to {text!r}, which can't be read as {parse.__name__}") from None
