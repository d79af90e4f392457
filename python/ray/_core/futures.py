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
from ray._native import CompletionQueue, stay_if_interpreter_exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ray._native import ObjectRef


class _BridgeFuture(asyncio.Future["Any"]):
    """A future of an event loop that takes its wait back when it is cancelled: an object that never comes must not collect waits."""

    bridge: _LoopBridge
    token: int

    def cancel(self, msg: Any = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self.bridge.forget(self.token)
        return cancelled


class _LoopBridge:
    """The completions of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._queue = CompletionQueue()
        self._waiting: dict[int, tuple[ObjectRef[Any] | None, int, _BridgeFuture, bool]] = {}
        self._tokens = itertools.count(1)
        self._loop = weakref.ref(loop)
        loop.add_reader(self._queue.fileno(), self._drain)

    def future(self, ref: ObjectRef[Any], with_value: bool) -> asyncio.Future[Any]:
        """Give a future that is done when the object is ready."""
        future = _BridgeFuture(loop=self._loop())
        token = next(self._tokens)
        wait = self._queue.watch(_core(), ref, token)
        if wait is None:
            _settle(ref if with_value else None, future)
        else:
            future.bridge, future.token = self, token
            self._waiting[token] = (ref, wait, future, with_value)  # the loop's own thread takes it from here, so not before
        return future

    def event(self, watch: Callable[[CompletionQueue, int], bool]) -> asyncio.Future[None]:
        """Give a future without a value that is done when `watch` queues its token, or at once if `watch` says so."""
        future = _BridgeFuture(loop=self._loop())
        token = next(self._tokens)
        if watch(self._queue, token):
            future.set_result(None)
        else:
            future.bridge, future.token = self, token
            self._waiting[token] = (None, 0, future, False)
        return future

    def forget(self, token: int) -> None:
        """Take back the wait of a future; one that is over already is no loss."""
        ref, wait, _, _ = self._waiting.pop(token, (None, 0, None, False))
        if ref is not None:
            self._queue.unwatch(ref, wait)

    def _drain(self) -> None:
        for token in self._queue.take():
            ref, _, future, with_value = self._waiting.pop(token, (None, 0, None, False))
            if future is not None and not future.done():
                _settle(ref if with_value else None, future)

    def __del__(self) -> None:
        """The loop is gone: nobody can be told."""
        for token in list(self._waiting):
            self.forget(token)


# An open loop keeps its bridge, as a reader. This must not: a bridge leads back to its loop.
_bridges: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_LoopBridge]] = weakref.WeakKeyDictionary()


def has_bridge(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether references are, or were, awaited in a loop: then one of its descriptors is ours."""
    known = _bridges.get(loop)
    return known is not None and known() is not None


def asyncio_future(ref: ObjectRef[Any]) -> asyncio.Future[Any]:
    """Give a future of the running event loop.

    Args:
        ref: The object.

    Returns:
        A future with its value, or with what `get` would raise.

    Raises:
        RuntimeError: No event loop runs in this thread.
    """
    return _bridge().future(ref, with_value=True)


def asyncio_ready(ref: ObjectRef[Any]) -> asyncio.Future[None]:
    """Give a future of the running event loop that is done, without a value, when the object is ready."""
    return _bridge().future(ref, with_value=False)


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
    known = _bridges.get(loop)
    bridge = known() if known is not None else None
    if bridge is None:
        bridge = _LoopBridge(loop)
        _bridges[loop] = weakref.ref(bridge)
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
        if self._queue.watch(_core(), ref, token) is None:
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


def after_fork_in_child() -> None:
    """The thread, and the loops' watchers, are the parent's. Whoever held the lock is, too."""
    global _lock
    _lock = threading.Lock()
    _inherited.append((list(_threads), [bridge() for bridge in _bridges.values()]))
    _threads.clear()
    _bridges.clear()


_inherited: list[Any] = []


def _core() -> Any:
    core = session.core
    if core is None:
        stay_if_interpreter_exits()
        raise RuntimeError(session.why_lost() or "the session of this reference has ended")
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
