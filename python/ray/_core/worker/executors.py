"""What runs the calls of an actor that runs several at once: for each concurrency group its own threads, or its own event loop.

Groups never wait for each other: a call that blocks in one of them, also one that blocks an event loop, delays its own group only.
Groups are numbered; 0 is the default one, which has all methods that name no group, and the others count in the order of the class.
"""

from __future__ import annotations

from ray import _native
from ray._core import session
from ray._core.worker.forked import leave_forked_child
from ray._core.worker.payloads import exit_reason
from ray._core.worker.streams import send_items

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from contextvars import ContextVar
    from typing import Any


def run_threads(core: _native.Core, sizes: list[int], ending: Callable[[], None]) -> None:
    """Run a threaded actor: each thread runs calls of one group. The first that is told to end ends them all, each after the call that it runs.

    Args:
        core: The engine.
        sizes: How many threads each group has.
        ending: Called when the end begins.
    """
    import threading

    over = threading.Event()

    def serve(group: int) -> None:
        try:
            _native.run_calls(core, group)
        finally:
            core.stop_calls()
            over.set()

    places = [(group, index) for group, size in enumerate(sizes) for index in range(size)]
    threads = [threading.Thread(target=serve, args=(group,), name=f"ray-call-{group}-{index}", daemon=True) for group, index in places]
    for thread in threads:
        thread.start()
    over.wait()
    ending()
    for thread in threads:
        thread.join()


def run_loops(core: _native.Core, loop: asyncio.AbstractEventLoop, sizes: list[int], ending: Callable[[], None]) -> None:
    """Run an async actor: calls become coroutines, those of each group in an event loop of its own.

    Args:
        core: The engine.
        loop: The loop of the default group, in which the constructor ran.
        sizes: How many coroutines of each group run at once.
        ending: Called when the end begins.
    """
    import asyncio
    import contextvars
    import threading

    running: ContextVar[Any] = contextvars.ContextVar("ray_call")
    core.set_async_variable(running)
    end = _End(core, loop, len(sizes), ending)

    def serve(group: int, size: int) -> None:
        own = asyncio.new_event_loop()
        asyncio.set_event_loop(own)
        _GroupLoop(core, own, group, size, running, end)
        own.run_forever()

    for group, size in enumerate(sizes[1:], start=1):
        threading.Thread(target=serve, args=(group, size), name=f"ray-loop-{group}", daemon=True).start()
    _GroupLoop(core, loop, 0, sizes[0], running, end)
    loop.run_until_complete(end.over)


class _End:
    """The end of an async actor: no call starts any more, and it is over when no group runs one."""

    def __init__(self, core: _native.Core, loop: asyncio.AbstractEventLoop, groups: int, ending: Callable[[], None]) -> None:
        import threading

        self.over = loop.create_future()
        self._core = core
        self._loop = loop
        self._left = groups
        self._ending = ending
        self._lock = threading.Lock()
        self._begun = False

    def begin(self) -> None:
        """Tell every group; each asks the engine for calls, and hears that there will be none."""
        with self._lock:
            begun, self._begun = self._begun, True
        if not begun:
            self._ending()
            self._core.stop_calls()

    def group_is_done(self) -> None:
        """A group has heard, and runs nothing."""
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._loop.call_soon_threadsafe(self.over.set_result, None)


class _GroupLoop:
    """The event loop of one group. At most `size` of its calls run at once; what has no room waits in the engine."""

    def __init__(self, core: _native.Core, loop: asyncio.AbstractEventLoop, group: int, size: int, running: ContextVar[Any], end: _End) -> None:
        self._core = core
        self._loop = loop
        self._group = group
        self._size = size
        self._running = running
        self._end = end
        self._tasks: dict[asyncio.Task[None], _native.PendingCall] = {}
        self._unwanted: set[_native.PendingCall] = set()
        """Calls that were cancelled and have not ended. Compat: whatever comes of them, their callers get the cancellation."""
        self._is_ending = False
        loop.add_reader(core.work_fd(group), self._take)

    def _take(self) -> None:
        if session.core is not self._core:
            leave_forked_child(None)  # a coroutine forked and went on to its next await: the loop's descriptors are shared with the parent
        calls, reason = _native.take_calls(self._core, self._group, self._size - len(self._tasks))
        for call in calls:
            task = self._loop.create_task(self._run(call))
            self._tasks[task] = call
            task.add_done_callback(self._end_of_call)
        cancelled = self._core.take_cancelled(self._group)
        if cancelled:
            for task, call in [(task, call) for task, call in self._tasks.items() if call.key in cancelled]:
                self._unwanted.add(call)
                task.cancel()
        if reason is not None and not self._is_ending:
            self._is_ending = True
            self._loop.remove_reader(self._core.work_fd(self._group))
            self._end.begin()
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        if not self._tasks:
            self._end.group_is_done()

    def _end_of_call(self, task: asyncio.Task[None]) -> None:
        was_full = len(self._tasks) >= self._size
        call = self._tasks.pop(task)
        self._unwanted.discard(call)
        if task.cancelled():
            call.finish_cancelled(None)  # it had not begun
        if self._is_ending:
            self._end_if_idle()
        elif was_full:
            self._take()

    async def _run(self, call: _native.PendingCall) -> None:
        self._running.set(call)
        try:
            function, args, kwargs = call.prepare()
            result = function(*args, **kwargs) if kwargs else function(*args)
            if call.is_stream:
                await send_items(call, result)
            elif hasattr(result, "__await__"):
                result = await result
        except BaseException as error:  # the boundary of the user's call: its error is its result
            if session.core is not self._core:
                leave_forked_child(error)
            from asyncio import CancelledError

            if not isinstance(error, SystemExit):
                if call in self._unwanted or isinstance(error, CancelledError):
                    call.finish_cancelled(error)
                else:
                    call.fail(error)
                return
            self._core.leave_actor(exit_reason(error))
            self._end.begin()
        else:
            if session.core is not self._core:
                leave_forked_child(None)
            if self._unwanted and call in self._unwanted:
                call.finish_cancelled(None)
            elif call.is_stream:
                call.finish_stream()
            else:
                call.finish(result)
