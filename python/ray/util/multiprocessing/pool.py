"""The pool: actors that take chunks of calls, and what collects the results.

A chunk is handed to the actor with the least to do, two at a time, so that none waits for this process between two. Completions arrive in the thread of
the futures (`ray._core.futures`), which hands out the next chunk and runs the user's callbacks; there are no threads of the pool's own.

Invariants:
1. Every chunk that was started ends: with its outcomes, or with the error that kept it from them. So nobody waits for ever, whatever dies.
2. Results are in the order of the arguments, but for those of `imap_unordered`.

Lock: the pool's, for its slots and its queue; no code of the user's runs under it.
"""

from __future__ import annotations

import functools
import threading
import time
import warnings
import weakref
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from multiprocessing import TimeoutError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["AsyncResult", "IMapIterator", "OrderedIMapIterator", "Pool", "UnorderedIMapIterator"]

_AT_ONCE = 2
"""Chunks that one actor has at a time: the next one is there when it has done the first."""
_CHUNKS_PER_ACTOR = 4
"""Into how many chunks per actor `map` cuts its work. Source: multiprocessing."""
_END_S = 5.0


class _Failed:
    """In the place of a result: the record of what the call raised."""

    def __init__(self, record: bytes) -> None:
        self.record = record

    def error(self) -> BaseException:
        """What the call raised, with where it did as its cause."""
        from ray._core.errors import decode_exception

        decoded: Any = decode_exception(self.record)
        error = getattr(decoded, "cause", None)
        if not isinstance(error, BaseException):
            return decoded  # type: ignore[no-any-return]
        if error.__cause__ is None:
            error.__cause__ = _RemoteTraceback(getattr(decoded, "traceback_str", ""))
        return error


class _RemoteTraceback(Exception):
    """Shows where in its process a call failed."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _PoolActor:
    """One process of a pool."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: Iterable[Any]) -> None:
        if initializer is not None:
            initializer(*initargs)

    def run_batch(self, func: Callable[..., Any], kind: str, batch: list[Any]) -> list[Any]:
        """Make calls.

        Args:
            func: What to call.
            kind: What an item of `batch` is: "one", the only argument; "star", all arguments; "apply", a pair of arguments and keyword arguments.
            batch: The items.

        Returns:
            A result for each, `_Failed` for those that raised.
        """
        return [self._run(func, kind, item) for item in batch]

    def _run(self, func: Callable[..., Any], kind: str, item: Any) -> Any:
        try:
            if kind == "one":
                return func(item)
            args, kwargs = (item, {}) if kind == "star" else item
            return func(*args, **kwargs)
        except Exception as error:  # the boundary of the user's call: its error is its result
            import os

            from ray._core.errors import encode_exception

            name = getattr(func, "__name__", type(func).__name__)
            return _Failed(encode_exception(error, task_name=name, pid=os.getpid(), node="", attempt=0))


class _Slot:
    """One actor of a pool."""

    __slots__ = ("actor", "in_flight", "left")

    def __init__(self, actor: Any, left: int | None) -> None:
        self.actor = actor
        self.in_flight = 0
        self.left = left
        """Chunks that it may still get; None: any number."""


class _Chunk(Future["list[Any]"]):
    """Some calls that go to an actor together."""

    def __init__(self, func: Any, kind: str, items: list[Any]) -> None:
        super().__init__()
        self.call = (func, kind, items)
        self.ref: Any = None
        """The result on its way; None while the chunk is queued, or has ended."""


class AsyncResult:
    """A result that is computed.

    Args:
        chunk_object_refs: For each chunk a reference, or a future, of its list of results.
        callback: Called with the result when all is done, in a thread of the runtime.
        error_callback: Called with the error instead.
        single_result: The result is the one element of the one chunk, not the list of all.
    """

    def __init__(
        self,
        chunk_object_refs: Iterable[Any],
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        single_result: bool = False,
    ) -> None:
        self._chunks: list[Future[list[Any]]] = [one if isinstance(one, Future) else one.future() for one in chunk_object_refs]
        self._callback = callback
        self._error_callback = error_callback
        self._single = single_result
        self._lock = threading.Lock()
        self._left = len(self._chunks)
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        if not self._chunks:
            self._settle()
        for chunk in self._chunks:
            chunk.add_done_callback(self._chunk_done)

    def _chunk_done(self, _chunk: Future[list[Any]]) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._settle()

    def _settle(self) -> None:
        try:
            values = [value for chunk in self._chunks for value in _outcomes(chunk)]
            self._error = next((value.error() for value in values if isinstance(value, _Failed)), None)
            if self._error is None:
                self._value = values[0] if self._single else values
                if self._callback is not None:
                    self._callback(self._value)
            elif self._error_callback is not None:
                self._error_callback(self._error)
        finally:
            self._done.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there.

        Args:
            timeout: Seconds to wait at most; None waits for ever.
        """
        deadline_s = None if timeout is None else time.monotonic() + timeout
        for chunk in self._chunks:
            _help(chunk, _left(deadline_s))
        self._done.wait(_left(deadline_s))

    def get(self, timeout: float | None = None) -> Any:
        """Give the result, or raise what the call raised.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            TimeoutError: (of multiprocessing) It is not there in time.
        """
        self.wait(timeout)
        if not self._done.is_set():
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._value

    def ready(self) -> bool:
        """Tell whether the result is there."""
        return self._done.is_set()

    def successful(self) -> bool:
        """Tell whether the call went without an error.

        Raises:
            ValueError: It has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None


def _outcomes(chunk: Future[list[Any]]) -> list[Any]:
    """The results of a chunk that has ended; one failure for all of it if its process died."""
    error = chunk.exception()
    return chunk.result() if error is None else [_Raised(error)]


class _Raised(_Failed):
    """A failure whose error is at hand."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(b"")
        self._error = error

    def error(self) -> BaseException:
        return self._error


def _left(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else max(0.0, deadline_s - time.monotonic())


def _help(chunk: Future[list[Any]], timeout: float | None) -> None:
    """Wait for a chunk that is on its way as any program waits: a thread that waits in the engine does its work, and a task lends its CPU."""
    ref = getattr(chunk, "ref", None)
    if ref is not None and not chunk.done():
        import ray

        ray.wait([ref], timeout=timeout, fetch_local=False)


class IMapIterator:
    """Results one by one. The arguments are taken as results are, some chunks ahead, so there may be any number of them."""

    def __init__(self, pool: Pool, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None) -> None:
        if chunksize is not None and chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        self._pool = pool
        self._func = pool._shared(func)
        self._arguments = iter(iterable)
        self._chunksize = chunksize or 1
        self._ahead = pool._processes * (_AT_ONCE + 1)
        self._pending: list[_Chunk] = []
        self._values: deque[Any] = deque()
        self._exhausted = False
        self._broken: Exception | None = None
        self._feed()

    def _feed(self) -> None:
        """Keep some chunks ahead of who takes the results."""
        while not self._exhausted and len(self._pending) < self._ahead:
            try:
                items = list(islice(self._arguments, self._chunksize))
            except Exception as error:  # the user's iterator: raised when what came before it has been taken
                self._broken, self._exhausted = error, True
                return
            if items:
                self._pending.append(self._pool._start(self._func, "one", items))
            self._exhausted = len(items) < self._chunksize

    def feed_all(self) -> None:
        """Take all arguments now: the pool gets no more after this."""
        self._ahead = 1 << 62
        self._feed()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Give the next result, or raise what its call raised; the iteration goes on after that.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            StopIteration: There are no more.
            TimeoutError: (of multiprocessing) It is not there in time.
        """
        while not self._values:
            self._feed()
            if not self._pending:
                broken, self._broken = self._broken, None
                if broken is not None:
                    raise broken
                raise StopIteration
            chunk = self._choose(timeout)
            if chunk is None:
                raise TimeoutError
            self._pending.remove(chunk)
            self._values.extend(_outcomes(chunk))
            self._feed()
        value = self._values.popleft()
        if isinstance(value, _Failed):
            raise value.error()
        return value

    def _choose(self, timeout: float | None) -> _Chunk | None:
        raise NotImplementedError


class OrderedIMapIterator(IMapIterator):
    """Results in the order of the arguments."""

    def _choose(self, timeout: float | None) -> _Chunk | None:
        first, deadline_s = self._pending[0], None if timeout is None else time.monotonic() + timeout
        _help(first, _left(deadline_s))
        return first if wait([first], _left(deadline_s)).done else None


class UnorderedIMapIterator(IMapIterator):
    """Results as they come."""

    def _choose(self, timeout: float | None) -> _Chunk | None:
        done = wait(self._pending, timeout, FIRST_COMPLETED).done
        return next((chunk for chunk in self._pending if chunk in done), None)


class Pool:
    """A pool of processes that make calls, as `multiprocessing.Pool`.

    Args:
        processes: How many; by default as many as the cluster has CPUs.
        initializer: Called in each process before anything else.
        initargs: Its arguments.
        maxtasksperchild: Chunks of calls after which a process is replaced by a new one; None: never.
        context: Has no effect.
        ray_address: Cluster to connect to if this process is not connected; by default as `ray.init`.
        ray_remote_args: Options of the actors that the processes are.

    Raises:
        ValueError: `processes` is not above 0, or more than the cluster has CPUs.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        if context is not None:
            warnings.warn("The 'context' argument is not supported using ray: processes are started by the runtime.", stacklevel=2)
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild < 1):
            raise ValueError(f"maxtasksperchild must be a positive int or None, got {maxtasksperchild!r}")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._processes = _processes(processes, ray_address)
        self._initializer = initializer
        self._initargs = tuple(initargs or ())
        self._maxtasksperchild = maxtasksperchild
        self._ray_remote_args = {"num_cpus": 0, "max_restarts": -1, **(ray_remote_args or {})}
        self._closed = False
        self._terminated = False
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._queue: deque[_Chunk] = deque()
        self._unfinished = 0
        self._handing_out = False
        self._iterators: weakref.WeakSet[IMapIterator] = weakref.WeakSet()
        self._retiring: set[_Slot] = set()
        """Those that get no more chunks, and have some."""
        self._slots = [self._new_slot() for _ in range(self._processes)]

    def _new_slot(self) -> _Slot:
        import ray

        actor: Any = ray.remote(_PoolActor).options(**self._ray_remote_args)
        return _Slot(actor.remote(self._initializer, self._initargs), self._maxtasksperchild)

    def _shared(self, func: Callable[..., Any]) -> Any:
        """The function as an argument of many calls: pickled once, if its code travels with it."""
        import sys

        import ray

        module = sys.modules.get(getattr(func, "__module__", None) or "")
        is_importable = module is not None and module.__name__ != "__main__" and getattr(module, getattr(func, "__qualname__", "."), None) is func
        return func if is_importable else ray.put(func)

    def _start(self, func: Any, kind: str, items: list[Any]) -> _Chunk:
        chunk = _Chunk(func, kind, items)
        with self._lock:
            if self._terminated:
                raise ValueError("Pool not running")
            self._unfinished += 1
            self._queue.append(chunk)
            self._hand_out()
        return chunk

    def _hand_out(self) -> None:
        """Give queued chunks to actors that have little to do. Called under the lock."""
        if self._handing_out:
            return  # a chunk ended while it was handed out: the loop below sees the room that it left
        self._handing_out = True
        try:
            while self._queue:
                slot = min(self._slots, key=lambda one: one.in_flight)
                if slot.in_flight >= _AT_ONCE:
                    return
                self._send(slot, self._queue.popleft())
        finally:
            self._handing_out = False

    def _send(self, slot: _Slot, chunk: _Chunk) -> None:
        slot.in_flight += 1
        if slot.left is not None:
            slot.left -= 1
            if slot.left == 0:  # it ends when its last handle goes, which is with its last chunk
                self._slots[self._slots.index(slot)] = self._new_slot()
                self._retiring.add(slot)
        try:
            chunk.ref = slot.actor.run_batch.remote(*chunk.call)
            result = chunk.ref.future()
        except Exception as error:  # what can't be sent: the error of its calls
            self._end(slot, chunk)
            chunk.set_exception(error)
            return
        result.add_done_callback(functools.partial(self._chunk_done, slot, chunk))

    def _chunk_done(self, slot: _Slot, chunk: _Chunk, result: Future[Any]) -> None:
        from ray.exceptions import ActorDiedError

        error = result.exception()
        with self._lock:
            if isinstance(error, ActorDiedError) and slot in self._slots and not self._terminated and not self._died_early(error):
                self._slots[self._slots.index(slot)] = self._new_slot()
            self._end(slot, chunk)
            self._hand_out()
        if error is None:
            chunk.set_result(result.result())
        else:
            chunk.set_exception(error)

    @staticmethod
    def _died_early(error: Any) -> bool:
        """Its initializer failed: that of a new one would, too."""
        return bool(getattr(error, "_actor_init_failed", False))

    def _end(self, slot: _Slot, chunk: _Chunk) -> None:
        slot.in_flight -= 1
        if not slot.in_flight:
            self._retiring.discard(slot)
        chunk.ref = None
        self._unfinished -= 1
        if not self._unfinished:
            self._idle.notify_all()

    def apply(self, func: Callable[..., Any], args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None) -> Any:
        """Call a function in a process of the pool.

        Args:
            func: The function.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            What it returns.
        """
        return self.apply_async(func, args, kwargs).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Start a call of a function in a process of the pool.

        Args:
            func: The function.
            args: Its arguments.
            kwargs: Its keyword arguments.
            callback: Called with the result, in a thread of the runtime; it must not wait for other results of the pool.
            error_callback: Called with the error instead.

        Returns:
            What gives the result.
        """
        self._check_running()
        return AsyncResult([self._start(func, "apply", [(tuple(args or ()), dict(kwargs or {}))])], callback, error_callback, single_result=True)

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """Call a function with each element.

        Args:
            func: The function.
            iterable: The elements.
            chunksize: How many calls go to a process together; by default such that each process gets four times some.

        Returns:
            The results, in order.
        """
        found: list[Any] = self.map_async(func, iterable, chunksize).get()
        return found

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Start calls of a function with each element.

        Args:
            func: The function.
            iterable: The elements.
            chunksize: How many calls go to a process together.
            callback: Called with the results, in a thread of the runtime; it must not wait for other results of the pool.
            error_callback: Called with the first error instead.

        Returns:
            What gives the results, in order.
        """
        return self._map(func, "one", iterable, chunksize, callback, error_callback)

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """As `map`, where each element is a tuple of arguments."""
        found: list[Any] = self._map(func, "star", iterable, chunksize, None, None).get()
        return found

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        callback: Callable[[list[Any]], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """As `map_async`, where each element is a tuple of arguments."""
        return self._map(func, "star", iterable, None, callback, error_callback)

    def _map(self, func: Callable[..., Any], kind: str, iterable: Iterable[Any], chunksize: int | None, callback: Any, error_callback: Any) -> AsyncResult:
        self._check_running()
        items = list(iterable)
        if chunksize is None:
            chunksize = -(-len(items) // (self._processes * _CHUNKS_PER_ACTOR)) or 1
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        parts = [items[at : at + chunksize] for at in range(0, len(items), chunksize)]
        shared = self._shared(func) if len(parts) > 1 else func
        return AsyncResult([self._start(shared, kind, part) for part in parts], callback, error_callback)

    def imap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = 1) -> IMapIterator:
        """Call a function with each element, and give the results one by one, in order.

        Args:
            func: The function.
            iterable: The elements; they are taken as results are.
            chunksize: How many calls go to a process together.

        Returns:
            An iterator, with a method `next(timeout)` besides.
        """
        return self._imap(OrderedIMapIterator, func, iterable, chunksize)

    def imap_unordered(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = 1) -> IMapIterator:
        """As `imap`, with the results as they come."""
        return self._imap(UnorderedIMapIterator, func, iterable, chunksize)

    def _imap(self, cls: type[IMapIterator], func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None) -> IMapIterator:
        self._check_running()
        iterator = cls(self, func, iterable, chunksize)
        self._iterators.add(iterator)
        return iterator

    def _check_running(self) -> None:
        if self._closed:
            raise ValueError("Pool not running")

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        self.terminate()

    def close(self) -> None:
        """Take no more calls. Those that were started go on."""
        self._closed = True

    def terminate(self) -> None:
        """Take no more calls, and kill the processes. Calls that have not ended fail."""
        import ray

        with self._lock:
            self._closed = self._terminated = True
            queued, slots = list(self._queue), [*self._slots, *self._retiring]
            self._queue.clear()
            self._unfinished -= len(queued)
            self._idle.notify_all()
        for chunk in queued:
            chunk.set_exception(RuntimeError("the pool was terminated before this call was made"))
        if ray.is_initialized():
            for slot in slots:
                ray.kill(slot.actor)

    def join(self) -> None:
        """Wait until all calls have ended, and the processes with them.

        Raises:
            ValueError: The pool was neither closed nor terminated.
        """
        if not self._closed:
            raise ValueError("Pool is still running")
        import ray

        if not self._terminated:
            for iterator in list(self._iterators):
                iterator.feed_all()
        with self._idle:
            self._idle.wait_for(lambda: not self._unfinished)
            slots, was_terminated, self._terminated = self._slots, self._terminated, True
        if not was_terminated and slots:
            ends = [slot.actor.__ray_terminate__.remote() for slot in slots]
            ray.wait(ends, num_returns=len(ends), timeout=_END_S)

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


def _processes(wanted: int | None, address: str | None) -> int:
    """How many processes a pool has. Connects if this process is not connected."""
    import ray
    from ray._core.cluster import connecting
    from ray._core.config import env

    if wanted is not None and wanted <= 0:
        raise ValueError("Processes in the pool must be >0.")
    if not ray.is_initialized():
        if address is None and (env("RAY_LOCAL_MODE") or connecting.find(None) is None):
            ray.init(num_cpus=wanted)
        else:
            ray.init(address=address)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if wanted is None:
        return max(cpus, 1)
    if cpus < wanted:
        raise ValueError(f"Tried to start a pool with {wanted} processes on an existing ray cluster, but there are only {cpus} CPUs in the ray cluster.")
    return wanted
