"""`ray.cancel`: argument checks around the engine. How a call is cancelled: docs/design/013-cancellation.md."""

from __future__ import annotations

from ray._core import session
from ray._core.generators import ObjectRefGenerator
from ray._native import ObjectRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def cancel(ray_waitable: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Cancel a task or a call of an actor. Returns at once; `ray.get` of its results then raises `TaskCancelledError`.

    What has not started never starts. A running task sees `KeyboardInterrupt`; if it returns a value all the same, that is its result. A coroutine of an async
    actor sees `asyncio.CancelledError`. A method of another actor runs on: it can ask `ray.get_runtime_context().is_canceled()`, and what it returns is thrown
    away. What has ended stays as it is, and nothing that was cancelled is tried again.

    Args:
        ray_waitable: A reference to a result, also a borrowed one, or a generator, which gives the items made so far and then raises.
        force: End the worker that runs the task. Code that does not return to the interpreter can be stopped in no other way.
        recursive: Cancel what the task itself has submitted, too.

    Raises:
        TypeError: Neither a reference nor a generator.
        ValueError: `force` for a call of an actor that has not ended.

    Example:
        >>> ref = f.remote()
        >>> ray.cancel(ref)
    """
    if isinstance(ray_waitable, ObjectRefGenerator):
        ray_waitable = ray_waitable._generator_ref
    if type(ray_waitable) is not ObjectRef:
        kind = type(ray_waitable).__name__
        raise TypeError(
            f"ray.cancel takes an ObjectRef or an ObjectRefGenerator, got {kind}: {ray_waitable!r:.100}\nhint: to stop an actor use ray.kill(actor)"
        )
    core = session.core
    if core is None:
        core = session.auto_init()
    core.cancel(ray_waitable, bool(force), bool(recursive))
