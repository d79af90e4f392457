"""Generators on the event loop of an async actor. (Those in threads are driven natively: crates/ray-py/src/produce.rs.)"""

from __future__ import annotations

from ray._core.futures import asyncio_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ray._native import PendingCall


async def send_items(call: PendingCall, items: Any) -> None:
    """Send what a generator yields, until it ends or nobody reads any more.

    Args:
        call: The running call.
        items: A generator or an asynchronous one.

    Raises:
        TypeError: `items` is neither.
        BaseException: Whatever the generator raises.
    """
    if hasattr(items, "__aiter__"):
        async for item in items:
            if not await _send(call, item):
                await _close(items, "aclose")
                return
        return
    if not hasattr(items, "__next__"):
        raise TypeError(f"{call.name} gives its results one after another, so it has to be a generator; it returned a value of type {type(items).__name__}")
    for item in items:
        if not await _send(call, item):
            await _close(items, "close")
            return


async def _send(call: PendingCall, item: Any) -> bool:
    """Send one item; returns, once it may, whether to go on."""
    answer = call.push(item)
    while answer is None:
        await asyncio_event(call.watch_credit)
        answer = call.permit()
    return answer


async def _close(items: Any, name: str) -> None:
    """Raise GeneratorExit where the generator stands, so that its `finally` blocks run."""
    close = getattr(items, name, None)
    closed = None if close is None else close()
    if closed is not None:
        await closed
