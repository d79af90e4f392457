"""References to results that come one after another: what calling a remote generator gives.

The native stream (`ray._native.ResultStream`) does the work; these classes are its public face.

Invariants:
1. An `ObjectRefGenerator` never leaves its process: one reader, one place in the stream.
2. Dropping it frees what nobody has read, and stops the generator at its next `yield` unless its `completed()` reference is still in use.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ray._native import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import NoReturn

    from ray._native import ResultStream

T = TypeVar("T")


class ObjectRefGenerator(Generic[T]):
    """Gives references to the items of a remote generator while it runs. Made by calling one.

    `for ref in generator` and `async for ref in generator` end when the remote generator has ended. What it raised comes as a last reference, whose
    value raises it.

    Args:
        generator_ref: The native stream.
        worker: Has no effect. Compat: Ray's constructor takes it.

    Example:
        >>> @ray.remote
        ... def count(n):
        ...     for i in range(n):
        ...         yield i
        >>> [ray.get(ref) for ref in count.remote(3)]
        [0, 1, 2]
    """

    __slots__ = ("__weakref__", "_stream")

    def __init__(self, generator_ref: ResultStream, worker: Any = None) -> None:  # noqa: ARG002
        self._stream = generator_ref

    def __iter__(self) -> ObjectRefGenerator[T]:
        return self

    def __next__(self) -> ObjectRef[T]:
        """Give the next reference. Waits until its value is there.

        Raises:
            StopIteration: The generator has ended, and every reference was given.
        """
        return self._stream.next(None)  # type: ignore[return-value]  # without a timeout it is never None

    def __aiter__(self) -> ObjectRefGenerator[T]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        """Give the next reference. Awaits its value.

        Raises:
            StopAsyncIteration: The generator has ended, and every reference was given.
        """
        from ray._core.futures import asyncio_ready

        while True:
            try:
                ref = self._stream.take()
            except StopIteration:
                raise StopAsyncIteration from None
            if ref is not None:
                return ref
            await asyncio_ready(self._stream.peek())

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef[T]:
        """Give the next reference; the nil reference when it has not come within `timeout_s` seconds (None: for ever).

        Raises:
            StopIteration: The generator has ended, and every reference was given.
        """
        ref = self._stream.next(None if timeout_s is None or timeout_s < 0 else timeout_s)
        return ObjectRef.nil() if ref is None else ref

    async def _next_async(self, timeout_s: float | None = None) -> ObjectRef[T]:
        """Do as `_next_sync`, for event loops.

        Raises:
            StopAsyncIteration: The generator has ended, and every reference was given.
        """
        import asyncio

        try:
            return await asyncio.wait_for(self.__anext__(), None if timeout_s is None or timeout_s < 0 else timeout_s)
        except asyncio.TimeoutError:
            return ObjectRef.nil()

    def completed(self) -> ObjectRef[None]:
        """Give a reference that is ready when the remote generator has ended.

        Its value is None, also when the generator raised; a failure of the worker or the actor raises.
        """
        return self._stream.completed()

    @property
    def _generator_ref(self) -> ObjectRef[None]:
        return self._stream.completed()

    def next_ready(self) -> bool:
        """Tell whether `next()` would give a reference at once. False when there will be none any more."""
        return self._stream.state()[0]

    def is_finished(self) -> bool:
        """Tell whether the generator has ended and every reference was given."""
        return self._stream.state()[1]

    def _peek(self) -> ObjectRef[Any]:
        """Give a reference that is ready when `next()` would not wait. For `ray.wait`; its value is of no use."""
        return self._stream.peek()

    def send(self, value: Any) -> NoReturn:
        """Refuse: a value can't be sent into a remote generator.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("`gen.send` is not supported: a remote generator runs ahead of its reader")

    def throw(self, value: Any) -> NoReturn:
        """Refuse: an exception can't be sent into a remote generator.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("`gen.throw` is not supported: a remote generator runs ahead of its reader")

    def close(self) -> NoReturn:
        """Refuse. Compat: Ray does too.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("`gen.close` is not supported\nhint: drop the generator (`del gen`); its task stops at the next `yield`")

    async def asend(self, value: Any) -> NoReturn:
        """Refuse: a value can't be sent into a remote generator.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("`gen.asend` is not supported: a remote generator runs ahead of its reader")

    async def athrow(self, value: Any) -> NoReturn:
        """Refuse: an exception can't be sent into a remote generator.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("`gen.athrow` is not supported: a remote generator runs ahead of its reader")

    async def aclose(self) -> NoReturn:
        """Refuse. Compat: Ray does too.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("`gen.aclose` is not supported\nhint: drop the generator (`del gen`); its task stops at the next `yield`")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an ObjectRefGenerator can't be passed to a task or an actor, returned, put or pickled: only one process reads it\n"
            "hint: pass the references that it gives, for example list(generator)"
        )

    def __repr__(self) -> str:
        return f"<ray.ObjectRefGenerator of task {self.completed().task_id_binary().hex()}>"


class DynamicObjectRefGenerator:
    """References to all items of a generator with `num_returns="dynamic"`: the value of its one result. Iterating uses them up.

    Args:
        refs: The references.
    """

    def __init__(self, refs: Iterable[ObjectRef[Any]]) -> None:
        self._refs: deque[ObjectRef[Any]] = deque(refs)

    def __iter__(self) -> Iterator[ObjectRef[Any]]:
        while self._refs:
            yield self._refs.popleft()

    def __len__(self) -> int:
        return len(self._refs)


ObjectRefGenerator.__module__ = DynamicObjectRefGenerator.__module__ = "ray"
