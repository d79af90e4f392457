"""Options about the look of output that Ray's commands have. Texts here are plain, so they change nothing."""

from __future__ import annotations

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def look_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that are accepted and change nothing.

    Args:
        command: The function behind it; it gets `log_style`, `log_color` and `verbose`.
    """
    no_effect = "Accepted, without effect."
    for option in (
        click.option("--log-style", type=click.Choice(["auto", "record", "pretty"], case_sensitive=False), default="auto", help=no_effect),
        click.option("--log-color", type=click.Choice(["auto", "false", "true"], case_sensitive=False), default="auto", help=no_effect),
        click.option("-v", "--verbose", count=True, help=no_effect),
    ):
        command = option(command)
    return command
