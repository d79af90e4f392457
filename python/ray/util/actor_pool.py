"""A pool of actors that take turns at a stream of calls."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ray.actor import ActorHandle

__all__ = ["ActorPool"]

V = TypeVar("V")


class _Call:
    """A call of the pool whose result nobody has taken yet."""

    __slots__ = ("actor", "future", "index")

    def __init__(self, index: int, actor: Any, future: Any) -> None:
        self.index = index
        self.actor = actor
        """None once it works for another call."""
        self.future = future

    @property
    def ref(self) -> Any:
        """What to wait for: all results of a call come at once."""
        return self.future[0] if isinstance(self.future, list) and self.future else self.future


class ActorPool(Generic[V]):
    """Hands calls to whichever of its actors is free.

    Args:
        actors: Handles of actors; they belong to the pool until `pop_idle` gives one back.

    Example:
        >>> pool = ActorPool([Worker.remote() for _ in range(2)])
        >>> list(pool.map(lambda actor, value: actor.double.remote(value), [1, 2, 3]))
        [2, 4, 6]
    """

    def __init__(self, actors: list[Any]) -> None:
        self._idle_actors: list[Any] = list(actors)
        self._calls: dict[int, _Call] = {}
        self._pending_submits: list[tuple[Callable[[Any, V], Any], V]] = []
        self._next_task_index = 0
        self._next_return_index = 0

    def map(self, fn: Callable[[ActorHandle[Any], V], Any], values: Iterable[V]) -> Iterator[Any]:
        """Apply a function to each value, with the results in the order of the values.

        What was submitted before and not taken is dropped.

        Args:
            fn: Gets an actor and a value, and gives the reference of a call of that actor.
            values: The values.

        Returns:
            An iterator over the results. All calls are on their way when this returns.
        """
        self._restart(fn, values)
        return self._rest(self.get_next)

    def map_unordered(self, fn: Callable[[ActorHandle[Any], V], Any], values: Iterable[V]) -> Iterator[Any]:
        """Apply a function to each value, with the results as they come.

        Args:
            fn: Gets an actor and a value, and gives the reference of a call of that actor.
            values: The values.

        Returns:
            An iterator over the results.
        """
        self._restart(fn, values)
        return self._rest(self.get_next_unordered)

    def _restart(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> None:
        self._pending_submits.clear()
        for call in self._calls.values():
            self._free(call)
        self._calls.clear()
        self._next_return_index = self._next_task_index
        for value in values:
            self.submit(fn, value)

    def _rest(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    def submit(self, fn: Callable[[ActorHandle[Any], V], Any], value: V) -> None:
        """Start a call on a free actor, or when one becomes free.

        Args:
            fn: Gets an actor and a value, and gives the reference of a call of that actor.
            value: The value.
        """
        if not self._idle_actors:
            self._pending_submits.append((fn, value))
            return
        actor = self._idle_actors.pop()
        self._calls[self._next_task_index] = _Call(self._next_task_index, actor, fn(actor, value))
        self._next_task_index += 1

    def has_next(self) -> bool:
        """Tell whether there are results to take, now or later."""
        return bool(self._calls)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Take the next result, in the order of submission.

        Args:
            timeout: Seconds to wait at most; None waits for ever.
            ignore_if_timedout: Give up the call when its time is over: its result is never given, and its actor counts as free.

        Returns:
            The result.

        Raises:
            StopIteration: Nothing is left to take.
            ValueError: After `get_next_unordered` there is no next one in order.
            TimeoutError: Nothing came in time.
        """
        self._check_has_next()
        call = self._calls.get(self._next_return_index)
        if call is None:
            raise ValueError("get_next() has no next result in order after get_next_unordered()\nhint: take the results of one pool in one way")
        return self._take(call, [call], timeout, ignore_if_timedout)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Take whichever result comes first.

        Args:
            timeout: Seconds to wait at most; None waits for ever.
            ignore_if_timedout: Give up one of the calls when the time is over: its result is never given, and its actor counts as free.

        Returns:
            The result.

        Raises:
            StopIteration: Nothing is left to take.
            TimeoutError: Nothing came in time.
        """
        self._check_has_next()
        calls = list(self._calls.values())
        return self._take(calls[0], calls, timeout, ignore_if_timedout)

    def _check_has_next(self) -> None:
        if not self.has_next():
            raise StopIteration("No more results to get")

    def _take(self, first: _Call, wanted: list[_Call], timeout: float | None, ignore: bool) -> Any:
        import ray

        done = self._wait(wanted, timeout)
        if done is None and not ignore:
            raise TimeoutError("Timed out waiting for result")
        call = done or first
        del self._calls[call.index]
        self._next_return_index = max(self._next_return_index, call.index + 1)
        self._free(call)
        if done is None:
            raise TimeoutError(f"Timed out waiting for result. The task {call.future} has been ignored.")
        return ray.get(call.future)

    def _wait(self, wanted: list[_Call], timeout: float | None) -> _Call | None:
        """Wait for one of the calls; None: not in time. Actors that finish other calls meanwhile take up what is waiting."""
        import ray

        deadline_s = None if timeout is None else time.monotonic() + timeout
        while True:
            watched = list(wanted)
            if self._pending_submits:
                watched += [call for call in self._calls.values() if call.actor is not None and call not in wanted]
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            ready, _ = ray.wait([call.ref for call in watched], num_returns=1, timeout=left_s, fetch_local=False)
            if not ready:
                return None
            done = next(call for call in watched if call.ref == ready[0])
            if done in wanted:
                return done
            self._free(done)

    def _free(self, call: _Call) -> None:
        actor, call.actor = call.actor, None
        if actor is not None:
            self._return_actor(actor)

    def _return_actor(self, actor: Any) -> None:
        self._idle_actors.append(actor)
        if self._pending_submits:
            self.submit(*self._pending_submits.pop(0))

    def has_free(self) -> bool:
        """Tell whether an actor has nothing to do."""
        return bool(self._idle_actors) and not self._pending_submits

    def pop_idle(self) -> Any | None:
        """Take a free actor out of the pool.

        Returns:
            Its handle; None if all are at work.
        """
        return self._idle_actors.pop() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Add an actor to the pool.

        Args:
            actor: Its handle.

        Raises:
            ValueError: It is in the pool already.
        """
        if actor in self._idle_actors or any(actor == call.actor for call in self._calls.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._return_actor(actor)
