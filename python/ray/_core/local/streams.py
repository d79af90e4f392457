"""Calls of local mode that give their results one after another. They run in helper threads (or on their actor's event loop), ahead of their reader.

Item n is result n of the call, as in the engine (docs/design/003-streams-of-results.md). `Stream` is the state, `Producer` the writing end of one attempt,
`LocalStream` the reader's, which stands for `ray._native.ResultStream`.
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ray._core.local.calls import Call
    from ray._core.local.core import LocalCore
    from ray._core.local.scheduler import Key, Wait
    from ray._native import CompletionQueue, LocalValue, ObjectRef


class Stream:
    """Where a call and its reader are. Changed under the scheduler's lock."""

    def __init__(self, gathers: bool, window: int) -> None:
        self.gathers = gathers
        """All items are gathered for one result (`num_returns="dynamic"`)."""
        self.window = window
        self.made = 0
        self.taken = 0
        self.items: deque[ObjectRef[Any]] = deque()
        """Made and not taken."""
        self.awaited: set[Key] = set()
        """Items that are waited for, and not made."""
        self.has_reader = True
        self.end_value: LocalValue | None = None
        self.credit_waits: list[Wait] = []
        self.credit_watchers: list[tuple[CompletionQueue, int]] = []

    def has_credit(self) -> bool:
        """Whether one more item may be made."""
        return self.window < 1 or self.made - self.taken < self.window


class Producer:
    """The writing end of a call, for one attempt. Items that an earlier one made are counted and not kept."""

    def __init__(self, core: LocalCore, call: Call) -> None:
        assert call.stream is not None, "a call that gives its results one after another"
        self.name = call.name
        self.count = 0
        self._core = core
        self._call = call
        self._run = call.run
        self._stream = call.stream

    def push(self, item: Any) -> bool | None:
        """One more item.

        Returns:
            True: go on. False: stop, nobody reads. None: wait.
        """
        self.count += 1
        if self.count > self._stream.made:
            self._core.scheduler.add_item(self._call, self._run, self._core.objects.pickle(item))
        return self.permit()

    def permit(self) -> bool | None:
        """Ask again, as after `push`."""
        with self._core.scheduler.lock:
            stream = self._stream
            if not self._core.scheduler.is_current(self._call, self._run):
                return False
            if self._call.cancelled_by is not None:
                return False
            if not (stream.gathers or stream.has_reader or self._core.objects.is_end_referred(self._call.number)):
                return False
            return True if self.count < stream.made or stream.has_credit() else None

    def watch_credit(self, queue: CompletionQueue, token: int) -> bool:
        """Complete `token` when it is worth to ask again. True: it already is."""
        with self._core.scheduler.lock:
            if self.permit() is not None:
                return True
            self._stream.credit_watchers.append((queue, token))
            return False

    def drive(self, items: Any) -> None:
        """Make the items of a generator, until it ends or nobody reads any more.

        Raises:
            TypeError: `items` is no generator.
            BaseException: Whatever the generator raises.
        """
        if not hasattr(items, "__next__"):
            raise TypeError(f"{self.name} gives its results one after another, so it has to be a generator; it returned a value of type {type(items).__name__}")
        for item in items:
            answer = self.push(item)
            if answer is None:
                answer = self._core.scheduler.wait_for_credit(self._call, self.permit)
            if not answer:
                if hasattr(items, "close"):
                    items.close()  # raises GeneratorExit where the generator stands, so that its `finally` blocks run
                return

    def replay_error(self) -> str | None:
        """Why the attempt is no repetition of the one before, if it is none."""
        if self.count >= self._stream.made:
            return None
        return (
            f"{self.name} was run again after a failure and yielded {self.count} items, fewer than the {self._stream.made} that its caller already has.\n"
            "hint: a generator that may be retried has to yield the same items each time; set max_retries=0 for one that does not"
        )


class LocalStream:
    """The reader's end."""

    def __init__(self, core: LocalCore, call: Call) -> None:
        assert call.stream is not None, "a call that gives its results one after another"
        self._core = core
        self._call = call
        self._stream = call.stream

    def next(self, timeout_s: float | None) -> ObjectRef[Any] | None:
        """As `ResultStream.next`."""
        scheduler = self._core.scheduler
        ref = self.take()
        while ref is None:
            if not scheduler.wait([scheduler.key_of(self.peek())], 1, timeout_s):
                return None
            ref = self.take()
        return ref

    def take(self) -> ObjectRef[Any] | None:
        """As `ResultStream.take`."""
        with self._core.scheduler.lock:
            if self._stream.items:
                self._stream.taken += 1
                ref = self._stream.items.popleft()
                self._core.scheduler.give_credit(self._stream)
                return ref
            self._core.scheduler.check()
            if self._stream.end_value is not None:
                raise StopIteration
            return None

    def peek(self) -> ObjectRef[Any]:
        """As `ResultStream.peek`."""
        with self._core.scheduler.lock:
            if self._stream.items:
                return self._stream.items[0]
            if self._stream.end_value is not None:
                return self.completed()
            return self._core.scheduler.await_item(self._call)

    def completed(self) -> ObjectRef[Any]:
        """As `ResultStream.completed`."""
        with self._core.scheduler.lock:
            ref = self._core.objects.end(self._call.number)
            if self._stream.end_value is not None:
                self._core.objects.store_end(self._call.number, self._stream.end_value)
            return ref

    def state(self) -> tuple[bool, bool]:
        """As `ResultStream.state`."""
        with self._core.scheduler.lock:
            here = bool(self._stream.items)
            return here, self._stream.end_value is not None and not here

    def __del__(self) -> None:
        scheduler = self._core.scheduler
        with scheduler.lock:
            self._stream.has_reader = False
            self._stream.items.clear()
            scheduler.give_credit(self._stream)
