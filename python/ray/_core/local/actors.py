"""Actors of local mode: an instance, a mailbox, and for an async actor a thread with an event loop."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections import deque

from ray._core.local import execution
from ray._core.local.streams import Producer
from ray._core.local.variables import change, variables_of
from ray._core.serialization import loads_payload

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from ray._core.local.calls import Call
    from ray._core.local.core import LocalCore
    from ray._native import LocalValue, ObjectRef

LOOP_END_S = 1.0
"""How long an event loop may take to end when its actor is gone; a coroutine that blocks it keeps its thread."""


class LocalActor:
    """An actor. The scheduler changes it under its lock; `instance` belongs to the running calls."""

    def __init__(self, number: int, payload: bytes, class_name: str) -> None:
        self.number = number
        self.payload = payload
        self.class_name = class_name
        self.name = ""
        self.namespace = ""
        self.detached = False
        self.env = ""
        self.resources: dict[str, float] = {}
        self.place: tuple[Any, ...] = ("default",)
        self.restarts_left = 0
        self.max_concurrency = 1
        self.is_async = False
        self.creation: tuple[LocalValue, list[ObjectRef[Any]]] | None = None
        """Arguments of the constructor, while they may be needed."""
        self.instance: Any = None
        self.incarnation = 0
        self.is_alive = False
        self.death: LocalValue | None = None
        self.mailbox: deque[Call] = deque()
        self.running: set[Call] = set()
        self.loop: ActorLoop | None = None

    def construct(self, *args: Any, **kwargs: Any) -> None:
        """Make the instance. Runs as a call."""
        self.instance = loads_payload(self.payload)["cls"](*args, **kwargs)

    def next_call(self) -> Call | None:
        """Give the call that may start now: calls start in the order of submission, nothing before the constructor has ended."""
        if not self.mailbox:
            return None
        limit = self.max_concurrency if self.is_alive else 1
        head = self.mailbox[0]
        if len(self.running) >= limit or head.missing or not (self.is_alive or head.is_constructor):
            return None
        return head


class ActorLoop:
    """The event loop of an async actor, in a thread of its own."""

    def __init__(self, core: LocalCore, actor: LocalActor, finished: Callable[[Call, int, execution.Outcome], None]) -> None:
        import asyncio

        self._core = core
        self._env = actor.env
        self._finished = finished
        self._tasks: dict[asyncio.Task[None], tuple[Call, int]] = {}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name=f"ray-local-{actor.class_name}"[:15], daemon=True)
        self.thread.start()

    def start(self, call: Call) -> None:
        """Run a call as a coroutine."""
        self.loop.call_soon_threadsafe(self._start, call, call.run, context=contextvars.Context())

    def cancel(self, call: Call) -> None:
        """Cancel a running call."""
        self.loop.call_soon_threadsafe(self._cancel, call)

    def end(self) -> None:
        """Cancel what runs and end the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        if self.thread is not threading.current_thread():
            self.thread.join(LOOP_END_S)

    def _run(self) -> None:
        import asyncio

        asyncio.set_event_loop(self.loop)
        # Coroutines take turns, so variables can't be put back between them: they are there while the actor is.
        before = change(variables_of(self._env))
        try:
            self.loop.run_forever()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                self.loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        finally:
            change(before)
            asyncio.set_event_loop(None)
            self.loop.close()

    def _start(self, call: Call, run: int) -> None:
        task = self.loop.create_task(self._perform(call, run))
        self._tasks[task] = call, run
        task.add_done_callback(self._ended)

    def _cancel(self, call: Call) -> None:
        for task, (other, _) in list(self._tasks.items()):
            if other is call:
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        call, run = self._tasks.pop(task)
        if task.cancelled():  # it had not begun
            self._finished(call, run, execution.cancelled(self._core, call))

    async def _perform(self, call: Call, run: int) -> None:
        from ray._core.worker.streams import send_items

        execution.running.set(call)
        try:
            function, args, kwargs = execution.prepare(self._core, call)
            value = function(*args, **kwargs)
            if call.stream is not None:
                producer: Any = Producer(self._core, call)
                await send_items(producer, value)
                outcome = execution.streamed(self._core, producer)
            else:
                if hasattr(value, "__await__"):
                    value = await value
                outcome = execution.returned(self._core, call, value)
            if call.cancelled_by is not None:
                outcome = execution.cancelled(self._core, call)
        except BaseException as error:  # noqa: BLE001  the boundary of the user's call: its error is its result
            outcome = execution.raised(self._core, call, error)
        self._finished(call, run, outcome)

    def is_idle(self) -> bool:
        """Whether nothing in this loop can go on by itself: no callback is due, no timer set, no descriptor watched but its own and that of awaited references.

        Looks into asyncio's loop; one of another kind counts as busy.
        """
        import select

        own_descriptors = 1
        if "ray._core.futures" in sys.modules:
            from ray._core.futures import has_bridge

            own_descriptors += has_bridge(self.loop)
        try:
            loop: Any = self.loop
            descriptors = list(loop._selector.get_map())
            if loop._ready or loop._scheduled or len(descriptors) > own_descriptors:
                return False
        except AttributeError:
            return False
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        return self._sleeps() and not poll.poll(0) and self._sleeps()

    def _sleeps(self) -> bool:
        frame = sys._current_frames().get(self.thread.ident or 0)
        return frame is not None and frame.f_code.co_name == "select"
