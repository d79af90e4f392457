"""A first-in, first-out queue that tasks and actors share: an actor that holds the items, and a handle that may be passed around."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any

__all__ = ["Empty", "Full", "Queue"]


class Empty(queue.Empty):
    """There is nothing in the queue."""


class Full(queue.Full):
    """There is no room in the queue."""


class Queue:
    """A queue in an actor of its own. Handles may be passed to tasks and actors; the queue lives until `shutdown`, or until the last handle is gone.

    Args:
        maxsize: Items it may hold; 0 or less: any number.
        actor_options: Options of the actor, as for `ray.remote`.

    Attributes:
        maxsize: As given.
        actor: Handle of the actor; None after `shutdown`.

    Example:
        >>> queue = Queue(maxsize=100)
        >>> queue.put("a")
        >>> queue.get()
        'a'
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        import ray

        self.maxsize = maxsize
        self.actor: Any = ray.remote(_QueueActor).options(**(actor_options or {})).remote(maxsize)

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """How many items it holds."""
        return int(self._call("qsize"))

    def qsize(self) -> int:
        """How many items it holds."""
        return self.size()

    def empty(self) -> bool:
        """Tell whether it holds nothing."""
        return bool(self._call("empty"))

    def full(self) -> bool:
        """Tell whether it has no room left."""
        return bool(self._call("full"))

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item at the end.

        Args:
            item: The item.
            block: Wait for room instead of raising.
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            Full: There is no room, or none in time.
            ValueError: `timeout` is negative.
        """
        if block:
            self._call("put", item, _checked(timeout))
        else:
            self._call("put_nowait", item)

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item at the end, without blocking the event loop.

        Args:
            item: The item.
            block: Wait for room instead of raising.
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            Full: There is no room, or none in time.
            ValueError: `timeout` is negative.
        """
        if block:
            await self._await("put", item, _checked(timeout))
        else:
            await self._await("put_nowait", item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the first item.

        Args:
            block: Wait for an item instead of raising.
            timeout: Seconds to wait at most; None waits for ever.

        Returns:
            The item.

        Raises:
            Empty: There is nothing, or nothing in time.
            ValueError: `timeout` is negative.
        """
        return self._call("get", _checked(timeout)) if block else self._call("get_nowait")

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the first item, without blocking the event loop.

        Args:
            block: Wait for an item instead of raising.
            timeout: Seconds to wait at most; None waits for ever.

        Returns:
            The item.

        Raises:
            Empty: There is nothing, or nothing in time.
            ValueError: `timeout` is negative.
        """
        if block:
            return await self._await("get", _checked(timeout))
        return await self._await("get_nowait")

    def put_nowait(self, item: Any) -> None:
        """Add an item at the end if there is room.

        Raises:
            Full: There is none.
        """
        self.put(item, block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add several items at the end, all or none.

        Args:
            items: The items.

        Raises:
            Full: There is no room for all of them.
            TypeError: `items` can't be iterated over.
        """
        if not isinstance(items, Iterable):
            raise TypeError(f"Argument 'items' must be an Iterable, got {type(items).__name__}")
        self._call("put_nowait_batch", list(items))

    def get_nowait(self) -> Any:
        """Take the first item if there is one.

        Raises:
            Empty: There is none.
        """
        return self.get(block=False)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take several items, all or none.

        Args:
            num_items: How many, 0 or more.

        Returns:
            The items, the first one first.

        Raises:
            Empty: There are not so many.
            TypeError: `num_items` is no int.
            ValueError: `num_items` is negative.
        """
        if not isinstance(num_items, int):
            raise TypeError(f"Argument 'num_items' must be an int, got {type(num_items).__name__}")
        if num_items < 0:
            raise ValueError(f"'num_items' must be nonnegative, got {num_items}")
        found: list[Any] = self._call("get_nowait_batch", num_items)
        return found

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """End the actor; what the queue still holds is lost, and other handles can't be used any more.

        Args:
            force: Kill it at once instead of letting it finish what was asked of it before.
            grace_period_s: Seconds to wait for that; then it is killed.
        """
        import ray

        if self.actor is None:
            return
        if not force:
            done, _ = ray.wait([self.actor.__ray_terminate__.remote()], timeout=grace_period_s)
            force = not done
        if force:
            ray.kill(self.actor, no_restart=True)
        self.actor = None

    def _actor(self) -> Any:
        if self.actor is None:
            raise RuntimeError("this queue was shut down through this handle\nhint: make a new Queue()")
        return self.actor

    def _call(self, method: str, *args: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._actor(), method).remote(*args))
        except (Empty, Full) as error:
            raise _plain(error) from None

    async def _await(self, method: str, *args: Any) -> Any:
        try:
            return await getattr(self._actor(), method).remote(*args)
        except (Empty, Full) as error:
            raise _plain(error) from None


def _plain(error: Any) -> BaseException:
    """What the actor raised: nobody wants to see its traceback for an empty queue."""
    cause: BaseException = getattr(error, "cause", error)
    return cause


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError(f"'timeout' must be a non-negative number, got {timeout!r}")
    return timeout


class _QueueActor:
    """The items. An async actor: a call that waits does not hold up others."""

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.queue: asyncio.Queue[Any] = asyncio.Queue(max(maxsize, 0))

    async def qsize(self) -> int:
        return self.queue.qsize()

    async def empty(self) -> bool:
        return self.queue.empty()

    async def full(self) -> bool:
        return self.queue.full()

    async def put(self, item: Any, timeout: float | None = None) -> None:
        try:
            await asyncio.wait_for(self.queue.put(item), timeout)
        except asyncio.TimeoutError:
            raise Full(f"no room for {timeout} s in a queue of {self.maxsize} items") from None

    async def get(self, timeout: float | None = None) -> Any:
        try:
            return await asyncio.wait_for(self.queue.get(), timeout)
        except asyncio.TimeoutError:
            raise Empty(f"nothing came for {timeout} s") from None

    async def put_nowait(self, item: Any) -> None:
        if self.queue.full():
            raise Full(f"the queue holds {self.maxsize} items, as many as it may")
        self.queue.put_nowait(item)

    async def put_nowait_batch(self, items: list[Any]) -> None:
        held = self.queue.qsize()
        if self.maxsize > 0 and len(items) + held > self.maxsize:
            raise Full(f"Cannot add {len(items)} items to queue of size {held} and maxsize {self.maxsize}.")
        for item in items:
            self.queue.put_nowait(item)

    async def get_nowait(self) -> Any:
        if self.queue.empty():
            raise Empty("the queue is empty")
        return self.queue.get_nowait()

    async def get_nowait_batch(self, num_items: int) -> list[Any]:
        held = self.queue.qsize()
        if num_items > held:
            raise Empty(f"Cannot get {num_items} items from queue of size {held}.")
        return [self.queue.get_nowait() for _ in range(num_items)]
