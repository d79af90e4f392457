"""The end of an actor that ends in good order: its `__ray_shutdown__`, then what it registered with `atexit`, within a limited time.

Good order: its last handle is gone, `__ray_terminate__`, `exit_actor`, `sys.exit` in a method. Calls that run are done first, others don't start. An actor that
is killed, or whose process dies, says no farewell; one that is at rest when the session ends runs its exit handlers only.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping
    from typing import Any

SHUTDOWN_HOOK = "__ray_shutdown__"
LIMIT_SETTING = "actor_graceful_shutdown_timeout_ms"
_LIMIT_MS = 30_000
"""Compat: as Ray's setting of that name."""


def limit_farewell(settings: Mapping[str, str]) -> None:
    """End the process, and say where it stands, if its farewell takes too long.

    Args:
        settings: Those of the job.
    """
    import faulthandler

    limit_ms = int(settings.get(LIMIT_SETTING, _LIMIT_MS))
    faulthandler.dump_traceback_later(max(limit_ms, 1) / 1000, exit=True, file=2)


def call_shutdown_hook(instance: Any, loop: asyncio.AbstractEventLoop | None) -> None:
    """Let an actor clean up. What its hook raises is shown; the actor ends all the same.

    Args:
        instance: The actor.
        loop: The event loop of an asynchronous one.
    """
    hook = getattr(instance, SHUTDOWN_HOOK, None)
    if not callable(hook):
        return
    try:
        result = hook()
        if hasattr(result, "__await__"):
            _run(result, loop)
    except (Exception, SystemExit):  # the user's code, at the end of the process
        import traceback

        sys.stderr.write(f"{SHUTDOWN_HOOK} of {type(instance).__name__} raised:\n{traceback.format_exc()}\n")


def _run(awaitable: Any, loop: asyncio.AbstractEventLoop | None) -> None:
    import asyncio

    async def wait() -> None:
        await awaitable

    if loop is None or loop.is_closed():
        asyncio.run(wait())
    else:
        loop.run_until_complete(wait())
