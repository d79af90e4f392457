"""Futures of objects: completions come through one descriptor per event loop, and one thread for all concurrent futures.

Invariants:
1. A cancelled future loses no value: the object stays, and another await or get finds it.
2. Many completions cost one wake-up.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from concurrent.futures import Future

from ray._core import session
from ray._native import CompletionQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ray._native import ObjectRef


class _LoopBridge:
    """The completions of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._queue = CompletionQueue()
        self._waiting: dict[int, tuple[ObjectRef[Any] | None, asyncio.Future[Any]]] = {}
        self._tokens = itertools.count(1)
        self._loop = weakref.ref(loop)
        loop.add_reader(self._queue.fileno(), self._drain)

    def future(self, ref: ObjectRef[Any]) -> asyncio.Future[Any]:
        return self.event(lambda queue, token: queue.watch(_core(), ref, token), ref)

    def event(self, watch: Callable[[CompletionQueue, int], bool], ref: ObjectRef[Any] | None = None) -> asyncio.Future[Any]:
        """Give a future that is done when `watch` queues its token, or at once if `watch` says so; with the value of `ref`, or None without one."""
        loop = self._loop()
        assert loop is not None, "called from its own loop"
        future: asyncio.Future[Any] = loop.create_future()
        token = next(self._tokens)
        self._waiting[token] = (ref, future)
        if watch(self._queue, token):
            del self._waiting[token]
            _settle(ref, future)
        return future

    def _drain(self) -> None:
        for token in self._queue.take():
            ref, future = self._waiting.pop(token)
            if not future.done():
                _settle(ref, future)


_bridges: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopBridge] = weakref.WeakKeyDictionary()


def has_bridge(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether references are, or were, awaited in a loop: then one of its descriptors is ours."""
    return loop in _bridges


def asyncio_future(ref: ObjectRef[Any]) -> asyncio.Future[Any]:
    """Give a future of the running event loop.

    Args:
        ref: The object.

    Returns:
        A future with its value, or with what `get` would raise.

    Raises:
        RuntimeError: No event loop runs in this thread.
    """
    return _bridge().future(ref)


def asyncio_ready(ref: ObjectRef[Any]) -> asyncio.Future[None]:
    """Give a future of the running event loop that is done, without a value, when the object is ready."""

    def watch(queue: CompletionQueue, token: int) -> bool:
        return queue.watch(_core(), ref, token)

    return _bridge().event(watch)


def asyncio_event(watch: Callable[[CompletionQueue, int], bool]) -> asyncio.Future[None]:
    """Give a future of the running event loop.

    Args:
        watch: Is given a queue and a token. It puts the token into the queue when the future is to be done, or returns True if that is now.

    Returns:
        A future without a value.
    """
    return _bridge().event(watch)


def _bridge() -> _LoopBridge:
    loop = asyncio.get_running_loop()
    bridge = _bridges.get(loop)
    if bridge is None:
        bridge = _bridges[loop] = _LoopBridge(loop)
    return bridge


class _ThreadBridge:
    """The completions of all concurrent futures: one thread that sleeps in `select`."""

    def __init__(self) -> None:
        self._queue = CompletionQueue()
        self._waiting: dict[int, tuple[ObjectRef[Any], Future[Any]]] = {}
        self._tokens = itertools.count(1)
        self._over = False
        self._thread = threading.Thread(target=self._run, name="ray-futures", daemon=True)
        self._thread.start()

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        token = next(self._tokens)
        self._waiting[token] = (ref, future)
        if self._queue.watch(_core(), ref, token):
            del self._waiting[token]
            _settle(ref, future)
        return future

    def _run(self) -> None:
        import select

        poll = select.poll()
        poll.register(self._queue.fileno(), select.POLLIN)
        while not self._over or self._waiting:
            poll.poll()
            for token in self._queue.take():
                ref, future = self._waiting.pop(token)
                _settle(ref, future)

    def end(self) -> None:
        """The session is over, and every waiting future has been told: let the thread end."""
        self._over = True
        self._queue.wake()
        self._thread.join()


_threads: list[_ThreadBridge] = []
_lock = threading.Lock()


def concurrent_future(ref: ObjectRef[Any]) -> Future[Any]:
    """Give a future for threads.

    Args:
        ref: The object.

    Returns:
        A future with its value, or with what `get` would raise.
    """
    with _lock:
        if not _threads:
            _threads.append(_ThreadBridge())
    return _threads[0].future(ref)


def end_threads() -> None:
    """End the thread of the concurrent futures. Called when the session has ended."""
    with _lock:
        while _threads:
            _threads.pop().end()


def _core() -> Any:
    core = session.core
    if core is None:
        raise RuntimeError("the session of this reference has ended")
    return core


def _settle(ref: ObjectRef[Any] | None, future: Any) -> None:
    """The object is ready: fetch its value into the future."""
    if ref is None:
        future.set_result(None)
        return
    try:
        value = _core().get([ref], 0)[0]
    except BaseException as error:  # whatever the task raised belongs to the future
        if isinstance(error, StopIteration):
            error = RuntimeError(f"the task raised {error!r}")
        # Its frames here would keep this bridge, and with it a descriptor, as long as the exception.
        future.set_exception(error.with_traceback(None))
    else:
        future.set_result(value)
