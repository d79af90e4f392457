"""The end of an actor of local mode that ends in good order: its `__ray_shutdown__`. (Exit handlers are the driver's: they run when it ends.)"""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def say_farewell(instance: Any) -> None:
    """Let an actor clean up, in a thread of its own: this one may run an event loop.

    Args:
        instance: The actor; None if it never was, or is gone.
    """
    from ray._core.worker.farewell import SHUTDOWN_HOOK, call_shutdown_hook

    if getattr(instance, SHUTDOWN_HOOK, None) is None:
        return
    thread = threading.Thread(target=call_shutdown_hook, args=(instance, None), name="ray-farewell")
    thread.start()
    thread.join()
