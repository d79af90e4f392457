"""Running one call in the current thread: from pickled arguments to pickled results. Who runs which call when is the scheduler's business."""

from __future__ import annotations

import contextlib
import os
import sys
from contextvars import ContextVar

from ray._core.errors import encode_exception, is_runtime_frame
from ray._core.local.streams import Producer
from ray._core.local.variables import applied
from ray._core.worker.payloads import callable_of, exit_reason, is_retryable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from ray._core.local.calls import Call
    from ray._core.local.core import LocalCore
    from ray._native import LocalValue

running: ContextVar[Call | None] = ContextVar("ray_local_call", default=None)
"""The call that the current thread or coroutine runs."""


class Outcome:
    """How a call ended."""

    __slots__ = ("end", "error", "frames", "interrupt", "left", "retryable", "values")

    def __init__(self) -> None:
        self.values: list[LocalValue] = []
        self.error: LocalValue | None = None
        self.end: LocalValue | None = None
        """What is wrong with a stream as a whole."""
        self.frames: TracebackType | None = None
        self.retryable = False
        self.left: str | None = None
        """Why the actor ends itself."""
        self.interrupt: BaseException | None = None
        """Meant for the program, not for the caller: the user pressed Ctrl-C, or left the debugger."""


def perform(core: LocalCore, call: Call) -> Outcome:
    """Run a call.

    Args:
        core: The session.
        call: A call that was started.

    Returns:
        How it ended; nothing is raised.
    """
    running.set(call)
    try:
        with applied(call.site.env if call.actor is None else call.actor.env):
            function, args, kwargs = prepare(core, call)
            value = function(*args, **kwargs)
            if call.actor is not None and call.cancelled_by is not None:
                return cancelled(core, call)
            if call.stream is None:
                return returned(core, call, value)
            producer = Producer(core, call)
            producer.drive(value)
            return streamed(core, producer) if call.cancelled_by is None else cancelled(core, call)
    except BaseException as error:  # noqa: BLE001  the boundary of the user's call: its error is its result
        return raised(core, call, error)


def prepare(core: LocalCore, call: Call) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Give the callable of a call and its arguments as the callee sees them.

    Raises:
        BaseException: What an argument that failed raises, or what the user's `__setstate__` does.
    """
    assert call.args is not None, "started once"
    args, kwargs = core.objects.unpickle_args(call.args, call.arguments)
    actor = call.actor
    if call.is_constructor and actor is not None:
        return actor.construct, args, kwargs or {}
    return callable_of(call.site.fields, None if actor is None else actor.instance), args, kwargs or {}


def returned(core: LocalCore, call: Call, value: Any) -> Outcome:
    """The call returned a value. One that can't be pickled, or the wrong number of them, is its error."""
    outcome = Outcome()
    if not call.is_constructor:
        outcome.values = core.objects.pickle_results(call.name, call.site.num_returns, value)
    return outcome


def streamed(core: LocalCore, producer: Producer) -> Outcome:
    """The call has given all its results."""
    outcome = Outcome()
    text = producer.replay_error()
    if text is not None:
        outcome.end = core.objects.failed("stream_replay", {"message": text})
    return outcome


def raised(core: LocalCore, call: Call, error: BaseException) -> Outcome:
    """The call raised."""
    outcome = Outcome()
    is_async = call.actor is not None and call.actor.is_async
    if is_async and (call.cancelled_by is not None or _is_asyncio_cancel(error)) and not isinstance(error, SystemExit):
        return cancelled(core, call)
    if isinstance(error, SystemExit) and call.actor is not None and not call.is_constructor:
        outcome.left = exit_reason(error)
        return outcome
    if isinstance(error, KeyboardInterrupt) or _is_debugger_quit(error):
        outcome.interrupt = error
    else:
        outcome.retryable = is_retryable(call.site.retry_rule, error)
    outcome.frames = user_frames(error.__traceback__)
    record = encode_exception(error, task_name=call.name, pid=os.getpid(), node=core.node_id.hex(), attempt=call.attempt)
    outcome.error = core.objects.raised(record)
    return outcome


def cancelled(core: LocalCore, call: Call) -> Outcome:
    """The call ends as its caller wished."""
    outcome = Outcome()
    outcome.error = cancelled_value(core, call)
    return outcome


def cancelled_value(core: LocalCore, call: Call) -> LocalValue:
    """Make what the caller of a cancelled call gets."""
    fields = {"task_id": core.scheduler.task_hex(call.number), "name": call.name, "by": call.cancelled_by or "its own code"}
    return core.objects.failed("cancelled", fields)


def user_frames(frames: TracebackType | None) -> TracebackType | None:
    """Give the part of a traceback that begins with the user's code: for `pdb.pm()` after `ray.get` has raised."""
    while frames is not None and is_runtime_frame(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def _is_debugger_quit(error: BaseException) -> bool:
    debugger = sys.modules.get("bdb")
    return debugger is not None and isinstance(error, debugger.BdbQuit)


def _is_asyncio_cancel(error: BaseException) -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def in_event_loop() -> bool:
    """Whether this thread is inside of a running event loop, where blocking calls of others must not run."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        return True
    return False
